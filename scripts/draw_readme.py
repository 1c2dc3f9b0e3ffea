"""Draws the README's first picture from committed data.

    .venv/bin/python scripts/draw_readme.py

Left, from the survey of `theria.safety`: the error of MAML's meta-gradient by attention. Right,
from the CUDA benchmark that docs/benchmarks.md shows: the time of PyTorch's compiled formula
divided by the time of Theria's kernel.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from theria.safety._report import Row, read_rows, widest

ROOT = Path(__file__).resolve().parent.parent
BLUE, SKY, VERMILION, GREY, INK = "#0072B2", "#56B4E9", "#D55E00", "#5F6368", "#202124"
STYLE: dict[Any, Any] = {"font.family": "DejaVu Sans", "font.size": 8.5, "svg.hashsalt": "theria"}

# The attentions of the survey that a user may meet, and their labels.
NAMES = {
    "Theria, fused": "Theria",
    "Theria, reference": "Theria",
    "PyTorch, math": "PyTorch, math (stores seq x seq)",
    "PyTorch, flash": "PyTorch, flash",
    "PyTorch, efficient": "PyTorch, efficient",
    "PyTorch, cuDNN": "PyTorch, cuDNN",
    "FlexAttention": "FlexAttention on a GPU",
    "backward: saved statistics": "fused backward from saved statistics",
    "backward: once_differentiable": "fused backward, once_differentiable",
    "backward: raw kernel into fresh tensors": "fused backward, kernel into fresh tensors",
}
SILENT = 1e-2  # larger errors are not rounding


def main() -> None:
    """Writes readme.png and readme.svg."""
    parser = argparse.ArgumentParser(description="Draws the README's first picture.")
    parser.add_argument("--survey", type=Path, default=ROOT / "docs/experiments/h200/safety.json")
    parser.add_argument("--bench", type=Path, default=ROOT / "docs/benchmarks/cuda_bfloat16.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    arguments = parser.parse_args()
    _, rows = read_rows(arguments.survey)
    bench = json.loads(arguments.bench.read_text())
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    _draw_survey(left, rows)
    _draw_bench(right, bench)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#C4C7CC")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", color="#C4C7CC", labelcolor=GREY)
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(arguments.out / f"readme.{suffix}", dpi=200, metadata=metadata)


def _draw_survey(axes: Axes, rows: list[Row]) -> None:
    found = {row.classification.name: row for row in widest(rows) if row.available}
    shown: dict[str, Row] = {}
    for name, label in NAMES.items():
        if name in found:
            shown.setdefault(label, found[name])
    for place, row in enumerate(shown.values()):
        error = row.meta.error if row.meta else None
        if error is None:
            axes.text(2e-17, place, "raises", va="center", color=GREY)
            continue
        silent = error > SILENT
        color = VERMILION if silent else BLUE
        axes.plot([1e-17, error], [place, place], color=color, linewidth=1.2, alpha=0.5)
        axes.plot(error, place, "X" if silent else "o", color=color, markersize=7)
        text = f"{100 * error:.0f} % off, silently" if silent else f"{error:.0e}"
        axes.annotate(
            text,
            (error, place),
            (-9 if silent else 9, 4 if silent else 0),
            textcoords="offset points",
            ha="right" if silent else "left",
            va="bottom" if silent else "center",
            color=color,
        )
    axes.set_yticks(range(len(shown)), list(shown), color=INK)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(1e-17, 3)
    axes.set_xticks([1e-16, 1e-12, 1e-8, 1e-4, 1])
    axes.set_xlabel("relative error of MAML's meta-gradient", color=GREY)
    axes.set_title("MAML through attention, 5 inner steps", loc="left", color=INK)


def _draw_bench(axes: Axes, bench: dict[str, Any]) -> None:
    ratios: dict[str, dict[str, float]] = {}
    for result in bench["results"]:
        peer = result["peers"].get("compile")
        if isinstance(peer, dict):
            peer = peer.get("milliseconds")
        if peer is not None and result["operation"] in ("jvp", "hvp"):
            mask = ", causal" if result["causal"] else ""
            label = f"[{result['shape'].replace(',', ', ')}]{mask}"
            ratios.setdefault(label, {})[result["operation"]] = peer / result["milliseconds"]
    ratios = {label: both for label, both in ratios.items() if len(both) == 2}
    for place, by_operation in enumerate(ratios.values()):
        for operation, shift, color in (("hvp", -0.19, BLUE), ("jvp", 0.19, SKY)):
            ratio = by_operation[operation]
            axes.barh(place + shift, ratio, 0.34, color=color)
            axes.text(ratio + 0.1, place + shift, f"{ratio:.1f}", va="center", fontsize=7.5)
    handles = [Patch(color=BLUE, label="Hessian-vector product"), Patch(color=SKY, label="JVP")]
    axes.legend(handles=handles, frameon=False, loc="center right", bbox_to_anchor=(1, 0.45))
    axes.set_xlim(0, 1.2 * max(max(r.values()) for r in ratios.values()))
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(ratios)), list(ratios), color=INK)
    axes.set_ylim(len(ratios) - 0.4, -0.6)
    device = bench["environment"]["gpu"].removeprefix("NVIDIA ")
    axes.set_xlabel("time of torch.compile / time of Theria's kernel", color=GREY)
    axes.set_title(f"Derivatives on one {device}, bfloat16", loc="left", color=INK)


if __name__ == "__main__":
    main()
