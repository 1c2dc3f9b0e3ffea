"""Every implementation of a real server is exact, by the classifier's verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import theria
from theria.safety import Problem, classify, meta_loss, theria_backends
from theria.safety.__main__ import main
from theria.safety._report import read_rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_implementation_is_exact(dtype: torch.dtype, target: str) -> None:
    problem = Problem(batch=1, seq_q=33, seq_kv=40, head_dim=16, dtype=dtype)
    with theria.connect(target, timeout=60.0) as client:
        backends = theria_backends(client)
        assert "Theria, reference" in backends
        for name, attention in backends.items():
            result = classify(attention, problem, name=name)
            assert result.exact, result


def test_no_meta_gradient_is_lost(target: str) -> None:
    with theria.connect(target, timeout=60.0) as client:
        for attention in theria_backends(client).values():
            found = meta_loss(attention, torch.float64, "cpu")
            assert found.error is not None
            assert found.error < 1e-9
            assert found.rel_diff == pytest.approx(found.exact_rel_diff, rel=1e-9)


def test_the_command_surveys_all(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["safety", "--target", target, "--dtypes", "float64", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    _, rows = read_rows(tmp_path / "safety.json")
    found = {row.classification.name: row for row in rows}
    assert found["Theria, reference"].classification.exact
    assert found["PyTorch, math"].classification.exact
    flash = found["PyTorch, flash"].classification.findings
    assert flash["vjp"].verdict == "exact"
    assert {flash[name].verdict for name in ("jvp", "hvp", "double_backward")} == {"missing"}
    planted = found["backward: raw kernel into fresh tensors"]
    assert planted.classification.findings["vjp"].verdict == "exact"
    assert planted.classification.findings["double_backward"].lost == ("q", "k", "v", "o_bar")
    assert planted.classification.silent_loss == ("double_backward",)
    assert planted.meta is not None
    assert planted.meta.error is not None
    assert planted.meta.error > 0.05
