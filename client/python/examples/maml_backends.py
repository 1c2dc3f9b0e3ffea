"""The second-order content of MAML by attention: every implementation, and negative controls.

For each attention and mode: the relative difference of full and first-order meta-gradients
(rel_diff), whether the mode has a second-order path, and the error of the meta-gradient against
float64 explicit attention. An attention that loses curvature in silence has a second-order path and
a plausible rel_diff; only the error tells.

The negative controls compute attention to the last bit. One binds a written backward whose kernel
writes into fresh tensors, one detaches the output, one the softmax; and mode fo_strict has no path
from the adapted parameters back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

from experiment import (
    BLUE,
    FAINT,
    GREY,
    INK,
    VERMILION,
    Experiment,
    command_line,
    new_figure,
    run,
    running,
)
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from theria.maml import (
    InnerLoop,
    Method,
    Mode,
    Params,
    Task,
    diagnose,
    from_module,
    meta_gradient,
    rel_diff,
)
from theria.maml.tasks import AttentionClassifier, TaskSpec, initial_parameters, make_task
from theria.safety import WRAPPERS

SPEC = TaskSpec()
CONTROLS = (
    "backward: raw kernel into fresh tensors",
    "softmax output detached",
    "output detached",
)


@dataclass(frozen=True)
class Row:
    """One attention, method and mode on one task; see `theria.maml.Diagnostics`.

    `error` is |g - g_exact| / |g_exact| of the mode's meta-gradient.
    """

    attention: str
    control: bool
    method: str
    mode: str
    seed: int
    rel_diff: float
    second_order_path: bool
    probe_norm: float
    error: float


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the experiment and returns its summary."""
    parser = command_line("MAML by attention: rel_diff, second-order path, exactness.")
    parser.add_argument("--seeds", type=int, help="tasks; default: 2, on a GPU 10")
    parser.add_argument("--inner-steps", type=int, default=5)
    parser.add_argument("--inner-lr", type=float, default=0.1)
    options = parser.parse_args(arguments)
    with running("maml_backends", options) as experiment:
        rows = _measure(experiment)
        summary = _summary(rows)
        experiment.write(summary, rows, _draw(rows, options.inner_steps, options.inner_lr))
    for line in summary["table"]:
        print(line)
    return summary


def _measure(experiment: Experiment) -> list[Row]:
    options = experiment.options
    inner = InnerLoop(options.inner_steps, options.inner_lr)
    seeds = range(options.seeds or (10 if experiment.on_gpu else 2))
    subjects: list[tuple[str, bool, Any, Method]] = [
        ("PyTorch, explicit", False, experiment.attention("explicit"), "unrolled")
    ]
    for name in experiment.implementations():
        attention = experiment.attention(name)
        subjects.append((f"Theria, {name}", False, attention, "unrolled"))
        subjects.append((f"Theria, {name}", False, attention, "adjoint"))
    subjects += [(name, True, WRAPPERS[name], "unrolled") for name in CONTROLS]
    rows = []
    for seed in tqdm(seeds, desc="tasks"):
        exact = {
            mode: _gradient(experiment.attention("explicit"), seed, inner, mode, "unrolled", "cpu")
            for mode in get_args(Mode)
        }
        for name, control, attention, method in tqdm(subjects, desc="attention", leave=False):
            rows += _compare(name, control, attention, method, seed, inner, exact, options.device)
    return rows


def _compare(
    name: str,
    control: bool,
    attention: Any,
    method: Method,
    seed: int,
    inner: InnerLoop,
    exact: dict[str, Params],
    device: str,
) -> list[Row]:
    gradients = {
        mode: _gradient(attention, seed, inner, mode, method, device) for mode in get_args(Mode)
    }
    rows = []
    for mode, gradient in gradients.items():
        loss, params, task = _problem(attention, seed, device)
        found = diagnose(loss, params, task, inner, mode=mode)
        rows.append(
            Row(
                name,
                control,
                method,
                mode,
                seed,
                rel_diff(gradients["full"], gradients["fo"]),
                found.second_order_path,
                found.probe_norm,
                rel_diff(exact[mode], gradient),
            )
        )
    return rows


def _problem(attention: Any, seed: int, device: str) -> tuple[Any, Params, Task[Any]]:
    loss, _ = from_module(AttentionClassifier(SPEC, seed, attention).to(device), cross_entropy)
    task = make_task(SPEC, seed)
    support, query = (tuple(x.to(device) for x in part) for part in (task.support, task.query))
    params = {name: x.to(device) for name, x in initial_parameters(SPEC, seed).items()}
    return loss, params, Task(support, query)


def _gradient(
    attention: Any, seed: int, inner: InnerLoop, mode: Mode, method: Method, device: str
) -> Params:
    loss, params, task = _problem(attention, seed, device)
    result = meta_gradient(loss, params, task, inner, mode=mode, method=method)
    return {name: gradient.cpu() for name, gradient in result.gradient.items()}


def _summary(rows: list[Row]) -> dict[str, Any]:
    ours = [row for row in rows if row.attention.startswith("Theria")]
    exact = {r.seed: r.rel_diff for r in rows if r.attention == "PyTorch, explicit"}
    lines = ["| attention | method | mode | rel_diff | second-order path | largest error |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for key in dict.fromkeys((row.attention, row.method, row.mode) for row in rows):
        some = [row for row in rows if (row.attention, row.method, row.mode) == key]
        paths = "/".join(sorted({"yes" if row.second_order_path else "no" for row in some}))
        mean, worst = fmean(row.rel_diff for row in some), max(row.error for row in some)
        lines.append(f"| {' | '.join(key)} | {mean:.4f} | {paths} | {worst:.1e} |")
    return {
        "largest_error": max(row.error for row in ours),
        "largest_rel_diff_deviation": max(abs(row.rel_diff / exact[row.seed] - 1) for row in ours),
        "table": lines,
    }


def _draw(rows: list[Row], steps: int, rate: float) -> Figure:
    names = list(dict.fromkeys((row.attention, row.method) for row in rows))
    figure, (left, right) = new_figure(8.6, 0.36 * len(names) + 1.3, 1, 2, sharey=True)
    full = [row for row in rows if row.mode == "full"]
    for row in full:
        if row.attention == "PyTorch, explicit":
            left.axvline(row.rel_diff, color=FAINT, linewidth=1, zorder=0)
    for place, key in enumerate(names):
        some = [row for row in full if (row.attention, row.method) == key]
        color = VERMILION if some[0].control else BLUE
        style: dict[str, Any] = {"linestyle": "none", "color": color, "alpha": 0.75}
        style["marker"] = "X" if some[0].control else "o"
        left.plot([row.rel_diff for row in some], [place] * len(some), **style)
        if any(row.error for row in some):
            right.plot([row.error for row in some], [place] * len(some), **style)
        else:
            right.text(2e-17, place, "0, by definition", va="center", color=GREY)
    shown = [name if name in CONTROLS else f"{name} ({method})" for name, method in names]
    left.set_yticks(range(len(names)), shown)
    left.invert_yaxis()
    left.set_xlim(left=0)
    left.set_xlabel(r"rel_diff $= \|g_\mathrm{FULL} - g_\mathrm{FO}\|\,/\,\|g_\mathrm{FULL}\|$")
    left.set_title("What rel_diff shows (grey: exact)")
    right.set_xscale("log")
    right.set_xlim(1e-17, 8)
    right.set_xlabel(r"error of $g_\mathrm{FULL}$ against float64 explicit math")
    right.set_title("What the value shows")
    for axes in (left, right):
        axes.axhline(
            sum(name not in CONTROLS for name, _ in names) - 0.5, color=GREY, linewidth=0.8
        )
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    figure.suptitle(
        f"Full MAML, {steps} inner steps of {rate:g}, one mark for each task",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure


if __name__ == "__main__":
    run(main)
