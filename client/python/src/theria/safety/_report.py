"""The survey as JSON, as a table in Markdown, and as a figure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from theria.safety._classify import Classification, Finding
from theria.safety._measure import OPERATIONS
from theria.safety._meta_gradient import MetaLoss

__all__ = ["HEADINGS", "Row", "read_rows", "table", "widest", "write_rows"]

HEADINGS = {
    "forward": "forward",
    "vjp": "VJP",
    "jvp": "JVP",
    "hvp": "HVP",
    "double_backward": "double backward",
}


@dataclass(frozen=True)
class Row:
    """One attention in one dtype.

    Attributes:
        group: ``"PyTorch"``, ``"Theria"``, ``"wrapper"`` or ``"given"``.
        classification: By value, of the five operations.
        meta: Results of full MAML with it; None if it has no forward.
    """

    group: str
    classification: Classification
    meta: MetaLoss | None

    @property
    def available(self) -> bool:
        """Whether it supports this dtype on this device."""
        return self.classification.findings["forward"].verdict != "missing"


def write_rows(rows: Iterable[Row], environment: dict[str, Any], path: Path) -> None:
    """Writes one JSON document: the environment, and all rows."""
    document = {"environment": environment, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def read_rows(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Reads a document of `write_rows`."""
    document = json.loads(path.read_text())
    rows = []
    for row in document["rows"]:
        kept = row["classification"]
        findings = {
            name: Finding(**{**finding, "lost": tuple(finding["lost"])})
            for name, finding in kept["findings"].items()
        }
        classification = Classification(kept["name"], kept["dtype"], kept["device"], findings)
        meta = MetaLoss(**row["meta"]) if row["meta"] else None
        rows.append(Row(row["group"], classification, meta))
    return document["environment"], rows


def widest(rows: Iterable[Row]) -> list[Row]:
    """The first available row of each attention, in the given order."""
    chosen: dict[str, Row] = {}
    for row in rows:
        name = row.classification.name
        if name not in chosen or (row.available and not chosen[name].available):
            chosen[name] = row
    return list(chosen.values())


def table(rows: Iterable[Row]) -> str:
    """A Markdown table with a line per available row.

    The number in a cell is the error relative to float64. The last column is the error of the full
    meta-gradient.
    """
    header = ["attention", "dtype", *HEADINGS.values(), "meta-gradient"]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        if row.available:
            kept = row.classification
            cells = [_cell(kept.findings[operation]) for operation in OPERATIONS]
            lines.append([kept.name, kept.dtype, *cells, _meta_cell(row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(finding: Finding) -> str:
    if finding.verdict == "missing":
        return "raises"
    if finding.verdict == "lost":
        return f"**lost: {_parts(finding.lost)}** {finding.error:.2f}"
    text = f"{finding.verdict} {finding.error:.0e}" if finding.error else finding.verdict
    return text if finding.verdict == "exact" else f"**{text}**"


def _parts(parts: Sequence[str]) -> str:
    return ", ".join(f"`{part}`" for part in parts)


def _meta_cell(row: Row) -> str:
    if row.meta is None or row.meta.error is None:
        return "raises"
    error = row.meta.error
    return (f"{error:.0e}" if error else "0") if error < 1e-2 else f"**{100 * error:.0f} % off**"
