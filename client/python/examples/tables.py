"""The tables of docs/experiments.md, from the data that the experiments wrote.

    .venv/bin/python client/python/examples/tables.py docs/experiments/cpu

prints each experiment's in Markdown; a test holds the document to them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

Document = dict[str, Any]


def main() -> None:
    """Prints the tables of one folder."""
    parser = argparse.ArgumentParser(description="The experiments' data as Markdown tables.")
    parser.add_argument("folder", type=Path)
    for name, lines in tables(parser.parse_args().folder).items():
        print(f"{name}\n\n" + "\n".join(lines) + "\n")


def tables(folder: Path) -> dict[str, list[str]]:
    """Of every experiment whose data are in `folder`, by name: the lines of its table."""
    return {
        name: table(json.loads((folder / f"{name}.json").read_text()))
        for name, table in TABLES.items()
        if (folder / f"{name}.json").exists()
    }


def _backends(document: Document) -> list[str]:
    lines: list[str] = document["table"]
    return lines


def _depth(document: Document) -> list[str]:
    steps = document["options"]["steps"] or sorted({r["inner_steps"] for r in document["rows"]})
    heads = ["attention", "inner learning rate", *map(str, steps), "the mean", "monotone tasks"]
    rows = []
    for found in document["monotone"]:
        falls = found["falls"]
        rows.append(
            [
                found["attention"],
                str(found["inner_lr"]),
                *(f"{mean:.3f}" for mean in found["mean"]),
                f"falls from {', '.join(falls)}" if falls else "grows throughout",
                f"{found['monotone_tasks']} of {found['tasks']}",
            ]
        )
    return _markdown(heads, rows)


def _full_vs_first_order(document: Document) -> list[str]:
    outcomes = document["outcomes"]

    def mean(problem: str, mode: str, what: str) -> float:
        return fmean(o[what] for o in outcomes if (o["problem"], o["mode"]) == (problem, mode))

    rows = []
    for problem, mode in dict.fromkeys((o["problem"], o["mode"]) for o in outcomes):
        figures = ("held_out_before", "held_out_after", "spread")
        ratio = mean(problem, mode, "seconds") / mean(problem, "fo", "seconds")
        values = [f"{mean(problem, mode, what):.3f}" for what in figures]
        rows.append([problem, mode, *values, f"{ratio:.1f}"])
    heads = ["problem", "mode", "held-out loss before", "after", "spread", "time of a step / FO"]
    return _markdown(heads, rows)


def _vit(document: Document) -> list[str]:
    labels = {"explicit": "PyTorch, explicit", "torch": "PyTorch, its own choice"}
    heads = ["attention", "forward / PyTorch's own choice", "forward and backward"]
    rows = [
        [
            labels.get(row["attention"], f"Theria, {row['attention']}"),
            *(f"{row[what]:.2f}" for what in ("forward_ratio", "backward_ratio")),
            *(f"{row[what]:.1e}" for what in ("output_error", "gradient_error")),
        ]
        for row in document["rows"]
    ]
    return _markdown([*heads, "output error", "gradient error"], rows)


def _spectrum(document: Document) -> list[str]:
    rows = []
    for trained, label in ((False, "at initialisation"), (True, "after training")):
        some = [row for row in document["rows"] if row["trained"] is trained]
        rows.append([f"{label}, Lanczos", *(f"{row['lanczos']:.6f}" for row in some)])
        if some[0]["dense"] is not None:
            errors = (abs(row["lanczos"] / row["dense"] - 1) for row in some)
            rows.append(["relative error", *(f"{error:.0e}" for error in errors)])
    return _markdown(["", *(str(n + 1) for n in range(len(rows[0]) - 1))], rows)


def _markdown(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]


TABLES: dict[str, Callable[[Document], list[str]]] = {
    "maml_backends": _backends,
    "maml_depth": _depth,
    "full_vs_first_order": _full_vs_first_order,
    "vit": _vit,
    "hessian_spectrum": _spectrum,
}


if __name__ == "__main__":
    main()
