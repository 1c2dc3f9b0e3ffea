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


PAGES = [
    path
    for pattern in ("*.md", "docs/**/*.md", "client/python/README.md", "kernels/c/python/README.md")
    for path in sorted(DOCS.parent.glob(pattern))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS.parent)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to the headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_decisions_have_their_numbers_and_are_indexed() -> None:
    index = (DOCS / "README.md").read_text()
    for path in sorted((DOCS / "decisions").glob("*.md")):
        number, title = path.name[:4], path.read_text().partition("\n")[0]
        assert title.startswith(f"# {number}: "), path
        row = f"| [{number}](decisions/{path.name}) | {title.removeprefix(f'# {number}: ')} |"
        assert row in index, row


def test_the_cpp_example_is_the_one_that_runs() -> None:
    """The consumer test builds and runs it."""
    source = DOCS.parent / "tests/integration/consumer/project/maml.cc"
    code = source.read_text().partition("\n\n")[2]
    assert f"```cpp\n{code}```" in (DOCS / "api_cpp.md").read_text()
