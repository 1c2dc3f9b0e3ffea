"""The README's examples run as they stand, and give the meta-gradient of explicit attention."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from theria import maml

ROOT = Path(__file__).resolve().parents[3]


def test_the_examples(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THERIA_TARGET", raising=False)
    local, remote = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(local, names)
    assert re.search(r"loss after adaptation \d\.\d{3}\n", capsys.readouterr().out)
    assert_exact(names)
    assert '"localhost:50051"' in remote
    exec(remote.replace("localhost:50051", target), names)
    assert_exact(names)


def assert_exact(names: dict[str, Any]) -> None:
    double = {name: value.double() for name, value in names["params"].items()}
    task = maml.Task(*((x.double(), y) for x, y in (names["support"], names["query"])))
    with sdpa_kernel(SDPBackend.MATH):
        exact = maml.meta_gradient(names["loss"], double, task, method="unrolled").gradient
    actual = {name: gradient.double() for name, gradient in names["result"].gradient.items()}
    assert maml.rel_diff(exact, actual) < 1e-5
    assert torch.stack([gradient.norm() for gradient in exact.values()]).norm() > 0.1
