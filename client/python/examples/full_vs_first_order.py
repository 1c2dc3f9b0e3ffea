"""Cost and outcome of full and first-order MAML, where the difference shows.

Three few-shot problems, each meta-trained from the same parameters on the same tasks in every mode,
and judged on tasks that were not trained on, before and after:

- sinusoid: amplitude in [0.1, 5], phase in [0, pi], 10 points; an MLP of 40-40 without attention
  (Finn, Abbeel and Levine, ICML 2017);
- in-context regression: y = <w, x> for normal w and x of 5 dimensions; a transformer reads 10
  points and a question, and adapts on the points by leaving each out once; beside least squares;
- digits: 5-way 1-shot episodes of scikit-learn's bundled 8 x 8 digits, each rotation a class of its
  own; a tiny vision transformer. Left out where scikit-learn is not installed.

The tasks of an outer step go through it together (`vectorize`): one call of attention for all.
fo_strict has the gradient of fo, and must take the same way.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import pi
from statistics import fmean, median, pstdev
from typing import Any, get_args

import numpy as np
import torch
from experiment import (
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    Attention,
    Block,
    Experiment,
    band,
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
    Loss,
    Mode,
    OuterStep,
    Params,
    Task,
    from_module,
    meta_batch_gradient,
    meta_train,
)

MODES: tuple[Mode, ...] = get_args(Mode)
HELD_OUT = 10**6  # tasks are numbered; those from here on are never trained on
CLASSES = 5


@dataclass(frozen=True)
class Row:
    """One outer step: the mean query loss after adaptation, and the meta-gradient's norm."""

    problem: str
    mode: str
    seed: int
    outer_step: int
    loss: float
    gradient_norm: float


@dataclass(frozen=True)
class Outcome:
    """One run. Losses are means over held-out tasks, after adaptation.

    `spread` is the standard deviation of the training loss over the last half of the outer steps;
    `seconds` is the median time of an outer step; `baseline` is the loss of least squares.
    """

    problem: str
    mode: str
    seed: int
    held_out_before: float
    held_out_after: float
    spread: float
    seconds: float
    baseline: float | None


@dataclass(frozen=True)
class Problem:
    """A family of tasks and the model that learns to learn them."""

    name: str
    inner: InnerLoop
    outer_rate: float
    model: Callable[[Attention], torch.nn.Module]
    criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    task: Callable[[int, int], Task[Any]]
    baseline: Callable[[Task[Any]], float] | None = None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the experiment and returns its summary."""
    parser = command_line("Cost and outcome of FULL, FO and FO_STRICT.")
    parser.add_argument("--problems", nargs="+", help="default: all that there are")
    parser.add_argument("--outer-steps", type=int, help="default: 20, on a GPU 100")
    parser.add_argument("--meta-batch", type=int, help="tasks a step; default: 2, on a GPU 16")
    parser.add_argument("--seeds", type=int, help="default: 1, on a GPU 2")
    parser.add_argument("--held-out", type=int, help="tasks to judge by; default: 8, GPU 64")
    options = parser.parse_args(arguments)
    with running("full_vs_first_order", options) as experiment:
        gpu = experiment.on_gpu
        options.outer_steps = options.outer_steps or (100 if gpu else 20)
        options.meta_batch = options.meta_batch or (16 if gpu else 2)
        options.seeds = options.seeds or (2 if gpu else 1)
        options.held_out = options.held_out or (64 if gpu else 8)
        problems = [p for p in _problems() if p.name in (options.problems or [p.name])]
        rows, outcomes = _measure(experiment, problems)
        summary = {"outcomes": [vars(outcome) for outcome in outcomes]}
        experiment.write(summary, rows, _draw(rows, outcomes))
    for outcome in outcomes:
        print(outcome)
    return summary


def _problems() -> list[Problem]:
    problems = [
        Problem(
            "sinusoid",
            InnerLoop(5, 0.02),
            3e-3,
            lambda _: _mlp(),
            _squared_error,
            _sinusoid,
        ),
        Problem(
            "in-context regression",
            InnerLoop(3, 0.1),
            3e-3,
            InContext,
            _squared_error,
            _regression,
            _least_squares,
        ),
    ]
    if importlib.util.find_spec("sklearn"):
        problems.append(
            Problem("digits", InnerLoop(5, 0.1), 3e-3, DigitViT, cross_entropy, _Digits())
        )
    return problems


def _measure(
    experiment: Experiment, problems: Sequence[Problem]
) -> tuple[list[Row], list[Outcome]]:
    options = experiment.options
    rows, outcomes = [], []
    runs = [(p, seed, mode) for p in problems for seed in range(options.seeds) for mode in MODES]
    with tqdm(total=len(runs) * options.outer_steps, desc="outer steps") as bar:
        for problem, seed, mode in runs:
            bar.set_description(f"{problem.name}, {mode}")
            torch.manual_seed(seed)
            model = problem.model(experiment.attention("auto")).double().to(options.device)
            loss, params = from_module(model, problem.criterion)
            held_out = _tasks(problem, seed, HELD_OUT, options.held_out, options.device)
            before = _judge(loss, params, problem.inner, held_out)
            times = [time.perf_counter()]

            def on_step(_: OuterStep, times: list[float] = times) -> None:
                times.append(time.perf_counter())
                bar.update()

            trained, history = meta_train(
                loss,
                params,
                _batches(problem, seed, options),
                problem.inner,
                mode=mode,
                vectorize=True,
                make_optimizer=lambda x, rate=problem.outer_rate: torch.optim.Adam(x, lr=rate),  # type: ignore[misc]
                on_step=on_step,
                progress=False,
            )
            seconds = median(np.diff(times).tolist())
            rows += [
                Row(problem.name, mode, seed, i, step.loss, step.gradient_norm)
                for i, step in enumerate(history)
            ]
            outcomes.append(
                Outcome(
                    problem.name,
                    mode,
                    seed,
                    before,
                    _judge(loss, trained, problem.inner, held_out),
                    pstdev(step.loss for step in history[len(history) // 2 :]),
                    seconds,
                    fmean(map(problem.baseline, held_out)) if problem.baseline else None,
                )
            )
    return rows, outcomes


def _tasks(problem: Problem, seed: int, first: int, count: int, device: str) -> list[Task[Any]]:
    tasks = (problem.task(seed, index) for index in range(first, first + count))
    return [
        Task(*(tuple(x.to(device) for x in part) for part in (task.support, task.query)))
        for task in tasks
    ]


def _batches(problem: Problem, seed: int, options: Any) -> Iterator[list[Task[Any]]]:
    size = options.meta_batch
    for step in range(options.outer_steps):
        yield _tasks(problem, seed, step * size, size, options.device)


def _judge(loss: Loss, params: Params, inner: InnerLoop, tasks: Sequence[Task[Any]]) -> float:
    return float(meta_batch_gradient(loss, params, tasks, inner, mode="fo", vectorize=True).loss)


def _squared_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (prediction - target).square().mean()  # `mse_loss` has no forward mode


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index])


def _mlp() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(1, 40),
        torch.nn.Tanh(),
        torch.nn.Linear(40, 40),
        torch.nn.Tanh(),
        torch.nn.Linear(40, 1),
    )


def _sinusoid(seed: int, index: int) -> Task[Any]:
    random = _generator(seed, index)
    amplitude, phase = random.uniform(0.1, 5), random.uniform(0, pi)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(random.uniform(-5, 5, (10, 1)))
        return x, amplitude * torch.sin(x - phase)

    return Task(batch(), batch())


class InContext(torch.nn.Module):
    """Points [batch, n, 6], the last one's y hidden, to its y [batch]."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.read = torch.nn.Linear(6, 16)
        self.block = Block(16, 2, 32, attention)
        self.norm = torch.nn.LayerNorm(16)
        self.answer = torch.nn.Linear(16, 1)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """The answers."""
        return self.answer(self.norm(self.block(self.read(points))[:, -1]))[:, 0]  # type: ignore[no-any-return]


def _regression(seed: int, index: int) -> Task[Any]:
    random = _generator(seed, index)
    weights, x = random.standard_normal(5), random.standard_normal((20, 5))
    points = np.concatenate([x, (x @ weights / 5**0.5)[:, None]], 1)
    known, asked = points[:10], points[10:]
    # The support leaves out each known point once, the query asks for new ones.
    support = np.stack(
        [np.concatenate([np.delete(known, i, 0), known[i : i + 1]]) for i in range(10)]
    )
    query = np.stack([np.concatenate([known[1:], point[None]]) for point in asked])
    return Task(_hide(support), _hide(query))


def _hide(points: Any) -> tuple[torch.Tensor, torch.Tensor]:
    answers = points[:, -1, -1].copy()
    points[:, -1, -1] = 0.0
    return torch.from_numpy(points), torch.from_numpy(answers)


def _least_squares(task: Task[Any]) -> float:
    points, answers = (x.cpu().numpy() for x in task.query)
    known = points[0, :-1]
    weights = np.linalg.lstsq(known[:, :5], known[:, 5], rcond=None)[0]
    return float(np.mean((points[:, -1, :5] @ weights - answers) ** 2))


class DigitViT(torch.nn.Module):
    """Images [batch, 8, 8] to logits [batch, 5]: 16 patches of 2 x 2, one block, all read."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.patches = torch.nn.Linear(4, 16)
        self.positions = torch.nn.Parameter(0.1 * torch.randn(16, 16))
        self.block = Block(16, 2, 32, attention)
        self.norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16 * 16, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits."""
        patches = images.unflatten(1, (4, 2)).unflatten(3, (4, 2)).transpose(2, 3).flatten(3)
        x = self.block(self.patches(patches.flatten(1, 2)) + self.positions)
        return self.head(self.norm(x).flatten(1))  # type: ignore[no-any-return]


class _Digits:
    """Episodes of 5 classes, one image each to adapt to and three each to be judged by.

    A class is a digit in one of four rotations; the digits 7, 8 and 9 are held out.
    """

    def __init__(self) -> None:
        bundle = importlib.import_module("sklearn.datasets").load_digits()
        self._by_digit = [bundle.images[bundle.target == digit] / 16.0 for digit in range(10)]

    def __call__(self, seed: int, index: int) -> Task[Any]:
        random = _generator(seed, index)
        digits = range(7, 10) if index >= HELD_OUT else range(7)
        classes = [(digit, turns) for digit in digits for turns in range(4)]
        images = []
        for place in random.choice(len(classes), CLASSES, replace=False):
            digit, turns = classes[place]
            kept = self._by_digit[digit]
            chosen = kept[random.choice(len(kept), 4, replace=False)]
            images.append(np.rot90(chosen, turns, axes=(1, 2)))
        stacked = torch.from_numpy(np.stack(images))
        labels = torch.arange(CLASSES)
        query = stacked[:, 1:].flatten(0, 1)
        return Task((stacked[:, 0], labels), (query, labels.repeat_interleave(3)))


def _draw(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> Figure:
    names = list(dict.fromkeys(outcome.problem for outcome in outcomes))
    figure, panels = new_figure(
        2.9 * len(names) + 0.8, 4.3, 2, len(names), height_ratios=[3, 1], squeeze=False
    )
    styles: dict[str, dict[str, Any]] = {
        "full": {"color": BLUE, "label": "FULL"},
        "fo": {"color": VERMILION, "label": "FO"},
        "fo_strict": {"color": GREEN, "label": "FO_STRICT", "linestyle": (0, (2, 2))},
    }
    for column, name in enumerate(names):
        above, below = panels[0, column], panels[1, column]
        some = [outcome for outcome in outcomes if outcome.problem == name]
        for mode, style in styles.items():
            runs: dict[int, list[float]] = {}
            for row in rows:
                if (row.problem, row.mode) == (name, mode):
                    runs.setdefault(row.seed, []).append(row.loss)
            curves = np.array([_smooth(run) for run in runs.values()])
            steps = range(curves.shape[1])
            if mode == "fo_strict":  # lies on fo
                above.plot(steps, curves.mean(0), **style)
            else:
                band(above, steps, curves, **style)
        if some[0].baseline is not None:
            above.axhline(some[0].baseline, color=GREY, linewidth=0.8)
            above.annotate(
                "least squares: 0", (1, 0), (0, 4), "axes fraction", "offset points", ha="right"
            )
        above.set_title(name)
        above.set_xlabel("outer step")
        above.set_ylim(bottom=0)
        cost = {mode: fmean(o.seconds for o in some if o.mode == mode) for mode in styles}
        for place, (mode, style) in enumerate(styles.items()):
            after = [outcome.held_out_after for outcome in some if outcome.mode == mode]
            below.plot(after, [place] * len(after), "o", color=style["color"])
            ratio = f"{cost[mode] / cost['fo']:.1f} x"
            places: Any = ("axes fraction", "data")
            below.annotate(ratio, (1.03, place), xycoords=places, va="center", color=style["color"])
        below.annotate("time", (1.03, -1), xycoords=places, va="center", color=GREY)
        labels = [style["label"] for style in styles.values()]
        below.set_yticks(range(len(labels)), labels if column == 0 else [])
        below.set_ylim(2.6, -0.6)
        below.margins(x=0.1)
        below.set_xlabel("loss on held-out tasks, each seed")
    panels[0, 0].set_ylabel("query loss after adaptation\n(mean and range over seeds)")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3)
    return figure


def _smooth(values: Sequence[float]) -> Any:
    """A running mean over a tenth of the steps."""
    window = max(1, len(values) // 10)
    padded = np.concatenate([np.full(window - 1, values[0]), values])
    return np.convolve(padded, np.ones(window) / window, "valid")


if __name__ == "__main__":
    run(main)
