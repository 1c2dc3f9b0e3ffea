"""Draws a result of bench.py, and prints it as a table.

    python3 tests/bench/cuda/plot.py RESULT.json [--table]

Writes RESULT.{png,svg}, how many times faster than each peer by the time on the device, and
RESULT_memory_error.{png,svg}, the memory beyond inputs and outputs and the error against float64 of
ours and each peer; the second where the result has them. `--table` prints the ratios in Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, Any]

OPERATIONS = ("forward", "vjp", "jvp", "hvp")
TITLES = {"forward": "forward", "vjp": "VJP", "jvp": "JVP", "hvp": "HVP"}
# Names and colours of the peers, which are the same in all panels.
LABELS = {
    "flash": "torch, flash attention",
    "cudnn": "torch, cuDNN",
    "efficient": "torch, efficient attention",
    "math": "torch, math",
    "eager": "torch.func of the formula",
    "compile": "torch.compile of the formula",
    "jvp_flash": "jvp_flash_attention",
}
OURS = "Theria"
# Too slow to be anyone's choice: in the plots, not in the table.
BASELINES = ("efficient", "math")
COLOURS = {OURS: "black"} | {name: f"C{index}" for index, name in enumerate(LABELS)}


def measured(row: Row, peer: str) -> Row | None:
    """The figures of a peer; None where it failed or was not run."""
    figures = row["peers"].get(peer)
    if isinstance(figures, float):  # results from before other figures were taken
        return {"milliseconds": figures}
    return figures if isinstance(figures, dict) and "milliseconds" in figures else None


def shape_name(row: Row) -> str:
    """B,H,T,D and the mask."""
    return f"{row['shape']}\n{'causal' if row['causal'] else 'full'}"


def bars(
    axis: Axes,
    rows: list[Row],
    value: Callable[[Row, str], float | None],
    label: Callable[[float], str],
) -> None:
    """A group of bars at each row, one for ours and for each peer that has a value."""
    shown = [name for name in (OURS, *LABELS) if any(value(row, name) is not None for row in rows)]
    width = 0.85 / max(len(shown), 1)
    for index, name in enumerate(shown):
        values = [value(row, name) for row in rows]
        places = [at + (index - (len(shown) - 1) / 2) * width for at in range(len(rows))]
        present = [(at, x) for at, x in zip(places, values, strict=True) if x is not None]
        drawn = axis.bar(
            [at for at, _ in present],
            [x for _, x in present],
            width,
            label=LABELS.get(name, name),
            color=COLOURS[name],
        )
        axis.bar_label(drawn, [label(x) for _, x in present], fontsize=5.5, rotation=90, padding=2)
    axis.set_yscale("log")
    axis.set_xticks(range(len(rows)), [shape_name(row) for row in rows], fontsize=7)
    axis.set_xlim(-0.5, len(rows) - 0.5)
    axis.margins(y=0.25)
    axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.17), frameon=False)


def ratio(row: Row, name: str) -> float | None:
    """The peer's time over ours, on the device where launches were timed apart."""
    figures = measured(row, name) if name != OURS else None
    return None if figures is None else float(figures["milliseconds"]) / float(row["milliseconds"])


def extra_mebibytes(row: Row, name: str) -> float | None:
    """MiB beyond inputs and outputs, at least a thousandth so that a logarithm exists."""
    figures = row if name == OURS else measured(row, name)
    if figures is None or "extra_bytes" not in figures:
        return None
    return max(float(figures["extra_bytes"]) / 2**20, 1e-3)


def error(row: Row, name: str) -> float | None:
    """The largest relative error of the outputs."""
    figures = row if name == OURS else measured(row, name)
    return None if figures is None or "errors" not in figures else max(figures["errors"].values())


def draw_times(results: list[Row], title: str) -> Figure:
    """One panel for each operation: ratios of times."""
    figure, axes = plt.subplots(len(OPERATIONS), 1, figsize=(13, 14), layout="constrained")
    for axis, operation in zip(axes, OPERATIONS, strict=True):
        rows = [row for row in results if row["operation"] == operation]
        bars(axis, rows, ratio, lambda x: f"{x:.2f}" if x < 10 else f"{x:.0f}")
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylabel(f"{TITLES[operation]}: their time / ours")
    timed = any("milliseconds_with_launches" in row for row in results)
    figure.suptitle(f"{'Device times' if timed else 'Times'}, {title}")
    return figure


def draw_memory_and_errors(results: list[Row], title: str) -> Figure:
    """Two panels for each operation: memory, and error."""
    figure, axes = plt.subplots(len(OPERATIONS), 2, figsize=(22, 15), layout="constrained")
    for pair, operation in zip(axes, OPERATIONS, strict=True):
        rows = [row for row in results if row["operation"] == operation]
        bars(pair[0], rows, extra_mebibytes, lambda x: f"{x:.3g}" if x > 1e-3 else "0")
        bars(pair[1], rows, error, lambda x: f"{x:.1e}")
        pair[0].set_ylabel(f"{TITLES[operation]}: extra memory, MiB")
        pair[1].set_ylabel(f"{TITLES[operation]}: relative error")
    figure.suptitle(f"Memory beyond inputs and outputs, and error against float64, {title}")
    return figure


def table(results: list[Row]) -> str:
    """A row for each shape: ratios to the peers of every operation, and our JVP and HVP rates."""
    columns = [
        (operation, peer)
        for operation in OPERATIONS
        for peer in LABELS
        if peer not in BASELINES
        and any(row["operation"] == operation and measured(row, peer) for row in results)
    ]
    rates = [("jvp", "JVP TFLOP/s"), ("hvp", "HVP TFLOP/s")]
    head = ["B,H,T,D", "mask"]
    head += [f"{TITLES[operation]} / {peer}" for operation, peer in columns]
    head += [name for _, name in rates]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    problems: dict[tuple[str, bool], dict[str, Row]] = {}
    for row in results:
        problems.setdefault((row["shape"], row["causal"]), {})[row["operation"]] = row
    for (shape, causal), rows in problems.items():
        cells = [shape, "causal" if causal else "full"]
        for operation, peer in columns:
            x = ratio(rows[operation], peer) if operation in rows else None
            cells.append("-" if x is None else f"{x:.2f}")
        cells += [f"{rows[name]['tflops']:.0f}" if name in rows else "-" for name, _ in rates]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save(figure: Figure, stem: Path) -> None:
    """As PNG and SVG."""
    for suffix in (".png", ".svg"):
        figure.savefig(stem.with_suffix(suffix), dpi=110)


def main() -> None:
    """Reads the result and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    loaded = json.loads(arguments.result.read_text())
    results: list[Row] = loaded["results"]
    title = (
        f"{results[0]['dtype']} on one {loaded['environment']['gpu']}; "
        "batch, heads, length, head dimension"
    )
    save(draw_times(results, title), arguments.result)
    if any("errors" in row for row in results):
        stem = arguments.result.with_name(arguments.result.stem + "_memory_error.json")
        save(draw_memory_and_errors(results, title), stem)
    if arguments.table:
        print(table(results))


if __name__ == "__main__":
    main()
