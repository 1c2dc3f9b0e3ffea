"""The report's figures, each as PNG and SVG. Colours: Okabe and Ito, safe for colour blindness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from theria.demo._experiment import MODES, RATES, STEPS, ModeRow
from theria.demo._results import Results

__all__ = ["draw_all"]

BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5F6368"
MODE_STYLE: dict[str, dict[str, Any]] = {
    "full": {"color": BLUE, "marker": "o", "label": "FULL"},
    "fo": {"color": VERMILION, "marker": "s", "label": "FO"},
    "fo_strict": {
        "color": GREEN,
        "marker": "o",
        "label": "FO_STRICT",
        "linestyle": (0, (2, 2)),
        "markersize": 8.5,
        "markerfacecolor": "none",
    },
}
RATE_STYLE: dict[float, dict[str, Any]] = {
    0.1: {"color": BLUE, "marker": "o", "label": r"$\alpha$ = 0.1"},
    0.4: {"color": VERMILION, "marker": "s", "label": r"$\alpha$ = 0.4"},
}
DTYPE_STYLE: dict[str, dict[str, Any]] = {
    "float64": {"color": BLUE, "marker": "o"},
    "float32": {"color": VERMILION, "marker": "s"},
    "float16": {"color": GREEN, "marker": "^"},
    "bfloat16": {"color": PURPLE, "marker": "D"},
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": "#202124",
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E3E5E8",
    "grid.linewidth": 0.7,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#202124",
    "ytick.labelcolor": "#202124",
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "svg.hashsalt": "theria",
    "savefig.dpi": 200,
}


def draw_all(results: Results, folder: Path) -> None:
    """Writes rel_diff, training, cost and parity, each as .png and .svg."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[Results], Figure]] = {
        "rel_diff": _rel_diff,
        "training": _training,
        "cost": _cost,
        "parity": _parity,
    }
    with matplotlib.rc_context(STYLE):
        for name, draw in figures.items():
            figure = draw(results)
            figure.savefig(folder / f"{name}.png")
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _rel_diff(results: Results) -> Figure:
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in results.rows if row.mode == "full"]
    for rate in RATES:
        style = RATE_STYLE[rate]
        for row in rows:
            if row.inner_lr == rate:
                axes.plot(
                    row.inner_steps,
                    row.rel_diff,
                    style["marker"],
                    color=style["color"],
                    alpha=0.35,
                    markersize=4,
                    markeredgewidth=0,
                )
        means = [_mean(rows, rate, steps, lambda row: row.rel_diff) for steps in STEPS]
        axes.plot(STEPS, means, **style)
    _step_axis(axes)
    axes.set_ylim(0, max(1.0, 1.05 * max(row.rel_diff for row in rows)))
    axes.set_ylabel(r"$\|g_\mathrm{FULL} - g_\mathrm{FO}\|\;/\;\|g_\mathrm{FULL}\|$")
    axes.set_title("What first-order MAML leaves out")
    axes.legend(loc="lower right", title="inner learning rate", alignment="left")
    return figure


def _training(results: Results) -> Figure:
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = figure.subplots()
    for run in results.training:
        losses = [step.loss for step in run.steps]
        axes.plot(range(len(losses)), losses, **MODE_STYLE[run.mode])
    axes.set_xlabel("outer step")
    axes.set_ylabel("query loss after adaptation")
    axes.set_ylim(bottom=0)
    axes.set_title("Meta-training on four tasks, five inner steps of 0.4")
    axes.legend(loc="upper right")
    return figure


def _cost(results: Results) -> Figure:
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    panels: list[tuple[Axes, str, Callable[[ModeRow], float]]] = [
        (left, "calls to the server", lambda row: row.calls),
        (right, "milliseconds", lambda row: 1e3 * row.seconds),
    ]
    for axes, label, value in panels:
        for mode in MODES:
            rows = [row for row in results.rows if row.mode == mode]
            middle = [median(value(r) for r in rows if r.inner_steps == n) for n in STEPS]
            axes.plot(STEPS, middle, **MODE_STYLE[mode])
        _step_axis(axes)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    left.set_title("One meta-gradient: calls")
    right.set_title("One meta-gradient: time")
    left.legend(loc="upper left")
    return figure


def _parity(results: Results) -> Figure:
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    groups = ["forward", "vjp", "jvp", "hvp", "adjoint", "symmetry", "finite differences"]
    labels = ["Forward", "VJP", "JVP", "HVP", "adjoint\nidentity", "symmetry\nidentity"]
    labels.append("finite\ndifferences")
    cases = [case for case in results.parity.cases if case.ratio is not None]
    floor = 1e-4
    for place, (dtype, style) in enumerate(DTYPE_STYLE.items()):
        xs, ys = [], []
        for group, name in enumerate(groups):
            ratios = sorted(
                max(case.ratio or 0.0, floor)
                for case in cases
                if case.dtype == dtype
                and name == (case.operation if case.check == "reference" else case.check)
            )
            centre = group + (place - 1.5) * 0.19
            xs += [centre + shift for shift in _spread(len(ratios), 0.12)]
            ys += ratios
        axes.plot(
            xs,
            ys,
            linestyle="none",
            color=style["color"],
            marker=style["marker"],
            markersize=3.6,
            alpha=0.75,
            markeredgewidth=0,
            label=dtype,
        )
    axes.axhline(1, color="#202124", linewidth=1.0)
    axes.annotate(
        "tolerance",
        (1, 1),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    axes.set_yscale("log")
    axes.set_ylim(floor / 1.6, 6)
    ticks = range(-4, 1)
    names = [f"$10^{{{n}}}$" if n > -4 else "≤ $10^{-4}$" for n in ticks]
    axes.set_yticks([10.0**n for n in ticks], names)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.55, len(groups) - 0.45)
    axes.set_xticks(range(len(groups)), labels)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("largest error / tolerance")
    axes.set_title("Parity with explicit float64 attention, one mark for each case")
    figure.legend(loc="outside lower center", ncols=len(DTYPE_STYLE), handletextpad=0.2)
    return figure


def _step_axis(axes: Axes) -> None:
    axes.set_xticks(STEPS)
    axes.set_xlabel("inner steps")


def _mean(
    rows: Sequence[ModeRow], rate: float, steps: int, value: Callable[[ModeRow], float]
) -> float:
    return fmean(value(r) for r in rows if r.inner_lr == rate and r.inner_steps == steps)


def _spread(count: int, width: float) -> list[float]:
    """Positions side by side, symmetric about 0."""
    return [width * ((i + 0.5) / count - 0.5) for i in range(count)]
