"""The command, its files, and the documents made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from theria.safety.__main__ import main
from theria.safety._report import read_rows, table, write_rows

ROOT = Path(__file__).resolve().parents[4]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["safety", *arguments])
    return main()


def test_the_command_judges_a_given_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--dtypes", "float32", f"--out={tmp_path}", "--attention")
    assert run(monkeypatch, *common, "theria.safety:explicit_attention") == 0
    assert "| exact " in capsys.readouterr().out
    assert run(monkeypatch, *common, "theria.safety._wrappers:query_detached") == 1
    assert "**lost: `q`**" in capsys.readouterr().out
    assert (tmp_path / "safety.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "safety.svg").read_text()
    environment, (row,) = read_rows(tmp_path / "safety.json")
    assert row.classification.findings["vjp"].lost == ("q",)
    write_rows([row], environment, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "safety.json").read_text()


def test_the_command_says_why_an_attention_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_kernel.py").write_text(
        "def attention(q, k, v):\n    raise RuntimeError('no such kernel')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ("--dtypes", "float32", f"--out={tmp_path}", "--attention")
    assert run(monkeypatch, *arguments, "broken_kernel:attention") == 1
    assert "float32: RuntimeError: no such kernel" in capsys.readouterr().err
    assert not (tmp_path / "safety.png").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--attention", "no.such:thing"),
        ("--attention", "theria:absent"),
        ("--attention", "theria"),
        ("--attention", "theria:__doc__"),
    ],
)
def test_an_attention_that_is_not_there(
    wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, *wrong) == 2


@pytest.mark.parametrize("path", sorted((ROOT / "docs/experiments").glob("*/safety.json")))
def test_the_document_shows_the_data(path: Path) -> None:
    _, rows = read_rows(path)
    assert table(rows) in (ROOT / "docs/higher_order_safety.md").read_text()
