"""Draws a result of bench.py: how many times faster than each peer, by shape and operation.

    python3 tests/bench/cuda/plot.py RESULT.json

Writes RESULT.png and RESULT.svg beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OPERATIONS = ("forward", "vjp", "jvp", "hvp")
LABELS = {
    "flash": "torch, flash attention",
    "cudnn": "torch, cuDNN",
    "compile": "torch.compile of the formula",
}


def draw(results: list[dict[str, object]], gpu: str, dtype: str, destination: Path) -> None:
    """One panel for each operation, one bar for each peer at each shape."""
    figure, axes = plt.subplots(len(OPERATIONS), 1, figsize=(10, 12), layout="constrained")
    for axis, operation in zip(axes, OPERATIONS, strict=True):
        rows = [row for row in results if row["operation"] == operation]
        names = [f"{row['shape']}\n{'causal' if row['causal'] else 'full'}" for row in rows]
        peers = [name for name in LABELS if any(name in row["peers"] for row in rows)]  # type: ignore[operator]
        width = 0.8 / max(len(peers), 1)
        for index, peer in enumerate(peers):
            places, ratios = [], []
            for place, row in enumerate(rows):
                seconds = row["peers"].get(peer)  # type: ignore[attr-defined]
                if isinstance(seconds, float):
                    places.append(place + (index - (len(peers) - 1) / 2) * width)
                    ratios.append(seconds / row["milliseconds"])  # type: ignore[operator]
            bars = axis.bar(places, ratios, width, label=LABELS[peer])
            axis.bar_label(bars, fmt="%.2f", fontsize=7)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xticks(range(len(names)), names, fontsize=7)
        axis.set_xlim(-0.5, len(names) - 0.5)
        axis.margins(y=0.12)
        axis.set_ylabel(f"{operation}: their time / ours")
        axis.legend(fontsize=8)
    figure.suptitle(f"{dtype} on one {gpu}; batch, heads, length, head dimension")
    for suffix in (".png", ".svg"):
        figure.savefig(destination.with_suffix(suffix), dpi=110)


def main() -> None:
    """Reads the result and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    loaded = json.loads(arguments.result.read_text())
    results = loaded["results"]
    draw(results, loaded["environment"]["gpu"], results[0]["dtype"], arguments.result)


if __name__ == "__main__":
    main()
