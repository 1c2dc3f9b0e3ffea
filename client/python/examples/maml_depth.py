"""How much second order matters against the number of inner steps, and what curvature loss hides.

rel_diff = |g_FULL - g_FO| / |g_FULL| for inner learning rates 0.1 and 0.4, over several tasks; with
exact attention through the server, and with a backward that writes its kernel's results into fresh
tensors, which loses curvature in silence. The summary says where the growth with depth is monotone
and where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from experiment import BLUE, VERMILION, Experiment, band, command_line, new_figure, run, running
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from theria.maml import InnerLoop, Method, Task, from_module, meta_gradient, rel_diff
from theria.maml.tasks import AttentionClassifier, TaskSpec, initial_parameters, make_task
from theria.safety import WRAPPERS

SPEC = TaskSpec()
RATES = (0.1, 0.4)
EXACT, LOSSY = "Theria", "raw kernel into fresh tensors"


@dataclass(frozen=True)
class Row:
    """One task. `error` is |g_FULL - exact| / |exact|, exact by explicit float64 attention."""

    attention: str
    inner_lr: float
    inner_steps: int
    seed: int
    rel_diff: float
    error: float


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the experiment and returns its summary."""
    parser = command_line("rel_diff against the number of inner steps.")
    parser.add_argument("--seeds", type=int, help="tasks; default: 3, on a GPU 10")
    parser.add_argument("--steps", type=int, nargs="+", help="default: 1 5 10 20, on a GPU more")
    options = parser.parse_args(arguments)
    with running("maml_depth", options) as experiment:
        steps = options.steps or (
            [1, 2, 3, 5, 7, 10, 15, 20] if experiment.on_gpu else [1, 5, 10, 20]
        )
        rows = _measure(experiment, steps)
        summary: dict[str, Any] = {"monotone": _monotone(rows, steps)}
        summary["largest_error"] = max(row.error for row in rows if row.attention == EXACT)
        experiment.write(summary, rows, _draw(rows, steps))
    for finding in summary["monotone"]:
        print(finding["text"])
    return summary


def _measure(experiment: Experiment, steps: Sequence[int]) -> list[Row]:
    options = experiment.options
    seeds = range(options.seeds or (10 if experiment.on_gpu else 3))
    attentions: list[tuple[str, Any, Method]] = [
        (EXACT, experiment.attention("auto"), "adjoint"),
        (LOSSY, WRAPPERS["backward: raw kernel into fresh tensors"], "unrolled"),
    ]
    places = [(rate, count, seed) for rate in RATES for count in steps for seed in seeds]
    rows = []
    for rate, count, seed in tqdm(places, desc="meta-gradients"):
        inner = InnerLoop(count, rate)
        exact, _ = _gradients(experiment.attention("explicit"), seed, inner, "adjoint", "cpu")
        for name, attention, method in attentions:
            full, first = _gradients(attention, seed, inner, method, options.device)
            rows.append(Row(name, rate, count, seed, rel_diff(full, first), rel_diff(exact, full)))
    return rows


def _gradients(
    attention: Any, seed: int, inner: InnerLoop, method: Method, device: str
) -> tuple[Any, Any]:
    """The full and the first-order meta-gradient."""
    loss, _ = from_module(AttentionClassifier(SPEC, seed, attention).to(device), cross_entropy)
    task = make_task(SPEC, seed)
    support, query = (tuple(x.to(device) for x in part) for part in (task.support, task.query))
    params = {name: x.to(device) for name, x in initial_parameters(SPEC, seed).items()}
    results = []
    for mode in ("full", "fo"):
        result = meta_gradient(
            loss,
            params,
            Task(support, query),
            inner,
            mode=mode,
            method=method,
        )
        results.append({name: gradient.cpu() for name, gradient in result.gradient.items()})
    return results[0], results[1]


def _table(rows: Sequence[Row], name: str, rate: float, steps: Sequence[int]) -> Any:
    """rel_diff [seed, steps]."""
    some = [row for row in rows if (row.attention, row.inner_lr) == (name, rate)]
    seeds = sorted({row.seed for row in some})
    values = {(row.seed, row.inner_steps): row.rel_diff for row in some}
    return np.array([[values[seed, count] for count in steps] for seed in seeds])


def _monotone(rows: Sequence[Row], steps: Sequence[int]) -> list[dict[str, Any]]:
    findings = []
    for name in (EXACT, LOSSY):
        for rate in RATES:
            table = _table(rows, name, rate, steps)
            mean = table.mean(0)
            falls = [
                f"{steps[i]} to {steps[i + 1]}"
                for i in range(len(steps) - 1)
                if mean[i + 1] < mean[i]
            ]
            rising = int((np.diff(table, axis=1) > 0).all(1).sum())
            where = f"falls from {', '.join(falls)}" if falls else "grows throughout"
            findings.append(
                {
                    "attention": name,
                    "inner_lr": rate,
                    "mean": mean.tolist(),
                    "falls": falls,
                    "monotone_tasks": rising,
                    "tasks": len(table),
                    "text": f"{name}, inner lr {rate}: the mean {where}; "
                    f"monotone on {rising} of {len(table)} tasks; "
                    + ", ".join(f"{k}: {m:.3f}" for k, m in zip(steps, mean, strict=True)),
                }
            )
    return findings


def _draw(rows: Sequence[Row], steps: Sequence[int]) -> Figure:
    figure, panels = new_figure(7.4, 3.2, 1, 2, sharey=True)
    styles = {
        EXACT: {"color": BLUE, "marker": "o", "label": "exact (Theria)"},
        LOSSY: {
            "color": VERMILION,
            "marker": "X",
            "linestyle": (0, (4, 2)),
            "label": "curvature lost (raw kernel\ninto fresh tensors)",
        },
    }
    for axes, rate in zip(panels, RATES, strict=True):
        for name, style in styles.items():
            band(axes, steps, _table(rows, name, rate, steps), **style)  # type: ignore[arg-type]
        axes.set_xlabel("inner steps")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.set_title(f"inner learning rate {rate}")
    panels[0].set_ylabel(r"$\|g_\mathrm{FULL} - g_\mathrm{FO}\|\,/\,\|g_\mathrm{FULL}\|$")
    panels[0].set_ylim(bottom=0)
    panels[0].legend(loc="upper left", title="mean and range over tasks", alignment="left")
    return figure


if __name__ == "__main__":
    run(main)
