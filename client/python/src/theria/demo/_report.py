"""The report and its data files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

from theria.demo._commands import ParityCase
from theria.demo._experiment import MODES, RATES, STEPS, ModeRow
from theria.demo._results import Results

__all__ = ["write_data", "write_report"]


def write_data(results: Results, folder: Path) -> None:
    """Writes maml.tsv, training.tsv, parity.tsv and maml.json."""
    rows = [asdict(row) for row in results.rows]
    _write_tsv(folder / "maml.tsv", [field.name for field in fields(ModeRow)], rows)
    training = [
        {"mode": run.mode, "outer_step": index, **asdict(step)}
        for run in results.training
        for index, step in enumerate(run.steps)
    ]
    _write_tsv(folder / "training.tsv", ["mode", "outer_step", "loss", "gradient_norm"], training)
    cases = [asdict(case) for case in results.parity.cases]
    _write_tsv(folder / "parity.tsv", [field.name for field in fields(ParityCase)], cases)
    document = {
        "held": results.held,
        "checks": results.checks,
        "seconds": results.seconds,
        "server": asdict(results.info),
        "rows": rows,
        "training": [asdict(run) for run in results.training],
        "command": asdict(results.command),
    }
    (folder / "maml.json").write_text(json.dumps(document, indent=1) + "\n")


def write_report(results: Results, path: Path) -> None:
    """The report in Markdown, with relative links to figures and data."""
    seeds = sorted({row.seed for row in results.rows})
    info = results.info
    devices = ", ".join(f"{device.name} ({device.id})" for device in info.devices)
    checks = [
        f"- {'held' if held else '**FAILED**'}: {text}" for text, held in results.checks.items()
    ]
    lines = [
        "# Theria: demonstration",
        "",
        f"Server {info.version}, backend {info.backend}, on {devices}. "
        f"{results.seconds:.0f} seconds in all.",
        "",
        *checks,
        "",
        "## Parity",
        "",
        "`theria parity` compares forward, VJP, JVP and HVP of the server with an explicit "
        "float64 attention inside the command, which shares no code with the server's kernels: in "
        "every dtype, with every option, with large scores, finite masks, and NaN. It also checks "
        "the identities between the four operations. An error of 1 is the tolerance.",
        "",
        "![Errors in units of their tolerances](figures/parity.png)",
        "",
        "```",
        results.parity.printed.rstrip(),
        "```",
        "",
        "## Meta-learning",
        "",
        "The attention classifier adapts to a synthetic task (support and query of 16 sequences of "
        "32 tokens, 5 classes) by gradient descent; the meta-gradient is the derivative of the "
        "adapted query loss by the initial parameters. All attention, with its VJP, JVP and HVP, "
        f"is computed by the server in float64. Seeds {', '.join(map(str, seeds))}, one task each.",
        "",
        "- **full**: exact, by the adjoint recursion; no graph of the inner loop is kept.",
        "- **fo**: first-order MAML; the inner gradients count as constants.",
        "- **fo_strict**: the control; the adapted parameters count as a constant too, so that the "
        "probe must find no second-order path. Its gradient is that of fo.",
        "",
        "### How much first-order MAML leaves out",
        "",
        "![Relative difference of full and first-order meta-gradients](figures/rel_diff.png)",
        "",
        "Lines: means over the seeds, which are the pale marks. "
        "rel_diff = |g_full - g_fo| / |g_full|:",
        "",
        *_rel_diff_table(results.rows),
        "",
        "### Modes",
        "",
        "Means over the seeds; medians of the times. The error is relative, against "
        "differentiating the unrolled loop in this process with PyTorch's explicit attention.",
        "",
        *_mode_table(results.rows),
        "",
        "### Outcome",
        "",
        "![Query loss after adaptation by outer step](figures/training.png)",
        "",
        "Plain gradient descent of the initial parameters on one fixed batch of four tasks; "
        "fo_strict takes the same way as fo.",
        "",
        *_training_table(results),
        "",
        "### Cost",
        "",
        "![Calls and time of one meta-gradient by mode](figures/cost.png)",
        "",
        "A step of the inner loop is a Forward and a Vjp; the way back, which only full has, is a "
        "Forward, a Jvp, a Vjp and an Hvp.",
        "",
        "### The same in C++",
        "",
        f"    {results.command.command}",
        "",
        f"rel_diff {results.command.rel_diff:.12g}, query loss after adaptation "
        f"{results.command.loss:.12g}; {results.command.calls} calls in "
        f"{results.command.seconds:.2f} s; error against float64 in the same process "
        f"{results.command.error:.1e}.",
        "",
        "## Data",
        "",
        *(
            f"- [{name}](data/{name}): {text}"
            for name, text in {
                "maml.tsv": "every mode, learning rate, number of steps and seed",
                "training.tsv": "the outer loop, step by step",
                "parity.tsv": "every case of the parity suite, with its error / tolerance",
                "maml.json": "all of the above but parity, and the server",
                "parity.json": "what `theria parity` wrote",
                "maml_command.json": "what `theria maml` wrote",
            }.items()
        ),
    ]
    path.write_text("\n".join(lines) + "\n")


def _write_tsv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row[column]) for column in columns) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _rel_diff_table(rows: Sequence[ModeRow]) -> list[str]:
    def cell(rate: float, steps: int) -> str:
        values = [
            row.rel_diff
            for row in rows
            if (row.mode, row.inner_lr, row.inner_steps) == ("full", rate, steps)
        ]
        return f"{fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"

    header = ["inner learning rate", *(f"{n} steps" if n > 1 else "1 step" for n in STEPS)]
    return _table(header, ([f"{rate}", *(cell(rate, n) for n in STEPS)] for rate in RATES))


def _mode_table(rows: Sequence[ModeRow]) -> list[str]:
    header = ["inner lr, steps", "mode", "query loss before", "after", "norm of gradient"]
    header += ["second-order path", "largest error", "calls", "ms", "ms on the server"]
    body = []
    for rate in RATES:
        for steps in STEPS:
            for mode in MODES:
                some = [
                    row
                    for row in rows
                    if (row.inner_lr, row.inner_steps, row.mode) == (rate, steps, mode)
                ]
                body.append(
                    [
                        f"{rate}, {steps}",
                        mode,
                        f"{fmean(row.loss_before for row in some):.4f}",
                        f"{fmean(row.loss_after for row in some):.4f}",
                        f"{fmean(row.gradient_norm for row in some):.4f}",
                        " ".join(
                            sorted({"yes" if row.second_order_path else "no" for row in some})
                        ),
                        f"{max(row.error for row in some):.1e}",
                        f"{some[0].calls}",
                        f"{1e3 * median(row.seconds for row in some):.0f}",
                        f"{1e3 * median(row.compute_seconds for row in some):.0f}",
                    ]
                )
    return _table(header, body)


def _training_table(results: Results) -> list[str]:
    header = ["mode", "query loss, first step", "last step", "calls", "seconds"]
    body = (
        [
            run.mode,
            f"{run.steps[0].loss:.4f}",
            f"{run.steps[-1].loss:.4f}",
            f"{run.cost.calls}",
            f"{run.seconds:.1f}",
        ]
        for run in results.training
    )
    return _table(header, body)
