"""Remote meta-learning: Python through the service, Python in this process, and `theria maml`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from torch.nn.functional import cross_entropy

import theria
from theria.maml import (
    InnerLoop,
    Loss,
    Mode,
    diagnose,
    from_module,
    meta_gradient,
    rel_diff,
)
from theria.maml.tasks import (
    AttentionClassifier,
    TaskSpec,
    initial_parameters,
    make_task,
    math_attention,
)
from theria.torch import sdpa

SPEC = TaskSpec()


def remote(client: theria.Client) -> Loss:
    def attention(*qkv: object) -> object:
        return sdpa(*qkv, client=client)  # type: ignore[arg-type]

    return from_module(AttentionClassifier(SPEC, 0, attention), cross_entropy)[0]  # type: ignore[arg-type]


def local() -> Loss:
    return from_module(AttentionClassifier(SPEC, 0, math_attention), cross_entropy)[0]


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize(("steps", "rate"), [(1, 0.1), (5, 0.4)])
def test_both_methods_agree_with_the_unrolled_loop_in_this_process(
    steps: int, rate: float, mode: Mode, client: theria.Client
) -> None:
    params, task, inner = (
        initial_parameters(SPEC),
        make_task(SPEC),
        InnerLoop(steps, rate),
    )
    expected = meta_gradient(local(), params, task, inner, mode=mode, method="unrolled")
    for method in ("adjoint", "unrolled"):
        actual = meta_gradient(remote(client), params, task, inner, mode=mode, method=method)  # type: ignore[arg-type]
        assert rel_diff(expected.gradient, actual.gradient) < 1e-9
        assert float(actual.loss) == pytest.approx(float(expected.loss), rel=1e-9)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_command_agrees_with_python(
    mode: Mode, client: theria.Client, target: str, theria_command: str, tmp_path: Path
) -> None:
    seed, inner = 1, InnerLoop(5, 0.4)
    report = tmp_path / "maml.json"
    command = [theria_command, "maml", target, f"--mode={mode}", f"--json={report}"]
    command += [f"--inner-steps={inner.steps}", f"--inner-lr={inner.learning_rate}"]
    command += [f"--seed={seed}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    document = json.loads(report.read_text())
    params, task = initial_parameters(SPEC, seed), make_task(SPEC, seed)
    mine = diagnose(remote(client), params, task, inner, mode=mode)
    theirs = document["check"]["server"]
    assert mine.rel_diff == pytest.approx(theirs["rel_diff"], rel=1e-9)
    assert mine.probe_norm == pytest.approx(theirs["probe_norm"], rel=1e-9)
    assert mine.second_order_path is theirs["second_order_path"] is (mode != "fo_strict")
    loss = meta_gradient(remote(client), params, task, inner, mode=mode).loss
    assert float(loss) == pytest.approx(document["steps"][0]["after"]["loss"], rel=1e-9)
