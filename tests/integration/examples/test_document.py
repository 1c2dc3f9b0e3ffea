"""docs/experiments.md shows the data that are committed beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tables import tables

DOCS = Path(__file__).resolve().parents[3] / "docs"
FOLDERS = sorted(path.parent for path in (DOCS / "experiments").glob("*/maml_depth.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_tables(folder: Path) -> None:
    document = (DOCS / "experiments.md").read_text()
    for name, lines in tables(folder).items():
        assert "\n".join(lines) in document, f"{name}: the table should be\n" + "\n".join(lines)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_losses_of_the_decoder(folder: Path) -> None:
    data = json.loads((folder / "decoder_transformer.json").read_text())
    text = re.sub(r"\s+", " ", (DOCS / "experiments.md").read_text())
    assert f"from {data['first_loss']:.3f} to {data['last_loss']:.3f}" in text
    assert f"at most {data['largest_difference']:.1e}" in text


def test_every_figure_is_there() -> None:
    for name in ("experiments.md", "higher_order_safety.md", "api_python.md"):
        for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (DOCS / name).read_text()):
            assert (DOCS / path).exists(), path
