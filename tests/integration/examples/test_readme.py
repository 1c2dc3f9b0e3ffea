"""The README's example runs as it stands, and its meta-gradient is that of explicit attention."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from theria import maml

ROOT = Path(__file__).resolve().parents[3]


def test_the_example(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert '"localhost:50051"' in code
    names: dict[str, Any] = {}
    exec(code.replace("localhost:50051", target), names)
    assert re.search(r"loss after adaptation \d\.\d{3}\n", capsys.readouterr().out)
    double = {name: value.double() for name, value in names["params"].items()}
    task = maml.Task(*((x.double(), y) for x, y in (names["support"], names["query"])))
    with sdpa_kernel(SDPBackend.MATH):
        exact = maml.meta_gradient(names["loss"], double, task, method="unrolled").gradient
    actual = {name: gradient.double() for name, gradient in names["result"].gradient.items()}
    assert maml.rel_diff(exact, actual) < 1e-5
    assert torch.stack([gradient.norm() for gradient in exact.values()]).norm() > 0.1
