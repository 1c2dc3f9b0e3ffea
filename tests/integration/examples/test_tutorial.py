"""The code of docs/tutorial.md runs as it stands and prints what the page shows."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).resolve().parents[3] / "docs/tutorial.md"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")
ROUNDING = 1e-7  # smaller figures are rounding errors, which differ between machines


def test_the_tutorial(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THERIA_TARGET", raising=False)
    text = TUTORIAL.read_text()
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```python") > 5
    names: dict[str, Any] = {}
    for code, shown in blocks:
        exec(code.replace("localhost:50051", target), names)
        printed = capsys.readouterr().out
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
        for actual, expected in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
            assert agree(float(actual), float(expected)), (actual, expected, printed)


def agree(actual: float, expected: float) -> bool:
    if abs(expected) < ROUNDING:
        return abs(actual) < ROUNDING
    return math.isclose(actual, expected, rel_tol=0.01)
