"""The survey as a figure: the derivatives of each attention, and the effect on MAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from theria.safety._classify import Finding
from theria.safety._measure import OPERATIONS
from theria.safety._report import HEADINGS, Row

__all__ = ["draw"]

# Okabe and Ito, told apart by all eyes; and light enough for black text.
COLOURS = {"exact": "#9CCFE8", "lost": "#E69F00", "wrong": "#D55E00", "missing": "#DADCE0"}
LABELS = {
    "exact": "exact (relative error)",
    "lost": "silently lost (which part)",
    "wrong": "silently wrong",
    "missing": "raises",
}
SHORT = {
    "probabilities": "softmax",
    "statistics": "statistics",
    "o_bar": r"$\bar{o}$",
    "delta": r"$\delta$",
}
INK, FAINT, BAR = "#202124", "#5F6368", "#D55E00"
STYLE: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 8.5, "svg.hashsalt": "theria"}


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Writes `path` with the suffixes .png and .svg, without unavailable rows."""
    rows = [row for row in rows if row.available]
    with matplotlib.rc_context(STYLE):
        height = 0.245 * len(rows) + 1.45
        figure = Figure(figsize=(9.2, height), layout="constrained")
        cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=[4.6, 1.5])
        places = _places(rows)
        _draw_cells(cells, rows, places)
        _draw_bars(bars, rows, places)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, color=INK)
        patches = [Patch(color=COLOURS[name], label=label) for name, label in LABELS.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path.with_suffix(".png"), dpi=200)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _places(rows: Sequence[Row]) -> list[float]:
    """Heights from the top, with a gap between groups."""
    places, place = [], 0.0
    for index, row in enumerate(rows):
        place += 1.5 if index and rows[index - 1].group != row.group else 1.0
        places.append(place)
    return places


def _draw_cells(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    for row, place in zip(rows, places, strict=True):
        for column, operation in enumerate(OPERATIONS):
            finding = row.classification.findings[operation]
            corner = (column + 0.03, place - 0.45)
            axes.add_patch(Rectangle(corner, 0.94, 0.9, color=COLOURS[finding.verdict], lw=0))
            axes.text(column + 0.5, place, _text(finding), ha="center", va="center", color=INK)
    labels = [row.classification.name for row in rows]
    axes.set_yticks(places, labels)
    for row, label in zip(rows, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if row.group == "Theria" else "normal")
    for row, place in zip(rows, places, strict=True):
        axes.text(5.04, place, row.classification.dtype, va="center", color=FAINT, fontsize=7)
    axes.set_xlim(0, 5.75)
    axes.set_ylim(max(places) + 0.6, min(places) - 0.6)
    axes.set_xticks([n + 0.5 for n in range(5)], list(HEADINGS.values()))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _text(finding: Finding) -> str:
    if finding.verdict == "missing":
        return "raises"
    if finding.verdict == "lost":
        return ", ".join(SHORT.get(part, part) for part in finding.lost)
    return f"{finding.error:.0e}" if finding.error else "0"


def _draw_bars(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    for row, place in zip(rows, places, strict=True):
        error = row.meta.error if row.meta else None
        if error is None:
            axes.text(1.5, place, "raises", va="center", color=FAINT)
            continue
        shown = 100 * error
        axes.barh(place, shown, height=0.62, color=BAR if error > 1e-2 else COLOURS["exact"])
        text = f"{shown:.0f} %" if error > 1e-2 else f"{error:.0e}" if error else "0"
        axes.text(shown + 1.5, place, text, va="center", color=INK)
    largest = max([10.0, *(100 * row.meta.error for row in rows if row.meta and row.meta.error)])
    axes.set_xlim(0, 1.3 * largest)
    axes.set_xticks([])
    axes.set_title("error of MAML\u2019s\nmeta-gradient", fontsize=8.5, color=INK)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("#C4C7CC")
