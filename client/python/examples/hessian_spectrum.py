"""The Hessian's spectrum of a small transformer, by Lanczos on exact Hessian-vector products.

The loss of one transformer block on the synthetic few-shot task; each Hessian-vector product is
forward over reverse through the server's attention. Lanczos with full reorthogonalisation gives the
outermost eigenvalues; stochastic Lanczos quadrature (Ghorbani, Krishnan and Xiao, ICML 2019) gives
the density. At the CPU size the dense Hessian of explicit attention, with all its eigenvalues, is
computed as well, and is what both are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from experiment import (
    BLUE,
    FAINT,
    INK,
    VERMILION,
    Attention,
    Block,
    Experiment,
    command_line,
    new_figure,
    run,
    running,
)
from matplotlib.figure import Figure
from torch.func import grad, jvp, vjp, vmap
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from theria.maml import Loss, Params, from_module
from theria.maml.tasks import TaskSpec, make_task

Reals = npt.NDArray[np.float64]
OUTERMOST = 5


@dataclass(frozen=True)
class Row:
    """One eigenvalue; `dense` is that of the dense Hessian, absent if it is too large for that."""

    trained: bool
    rank: int
    lanczos: float
    dense: float | None


@dataclass(frozen=True)
class Spectrum:
    """At one point: Ritz values and weights of each probe, and all eigenvalues if known."""

    ritz: list[Reals]
    weights: list[Reals]
    dense: Reals | None


class Classifier(torch.nn.Module):
    """Sequences [batch, length, d_model] to logits [batch, classes], by one block and a mean."""

    def __init__(self, spec: TaskSpec, attention: Attention) -> None:
        super().__init__()
        self.block = Block(spec.d_model, 2, 2 * spec.d_model, attention)
        self.head = torch.nn.Linear(spec.d_model, spec.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return self.head(self.block(x).mean(1))  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the experiment and returns its summary."""
    parser = command_line("The Hessian spectrum of a transformer by Lanczos.")
    parser.add_argument("--d-model", type=int, help="default: 8, on a GPU 64")
    parser.add_argument("--lanczos-steps", type=int, help="default: 40, on a GPU 100")
    parser.add_argument("--probes", type=int, help="random starts; default: 2, on a GPU 10")
    parser.add_argument("--train-steps", type=int, default=60, help="of Adam, 1e-2")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with running("hessian_spectrum", options) as experiment:
        gpu = experiment.on_gpu
        options.d_model = options.d_model or (64 if gpu else 8)
        options.lanczos_steps = options.lanczos_steps or (100 if gpu else 40)
        options.probes = options.probes or (10 if gpu else 2)
        spectra, parameters = _measure(experiment)
        rows = _rows(spectra)
        pairs = [(row.lanczos, row.dense) for row in rows if row.dense is not None]
        summary = {
            "parameters": parameters,
            "largest_error": max((abs(a - b) / abs(b) for a, b in pairs), default=None),
            "top_eigenvalue": {
                "initial": float(max(spectra[False].ritz[0])),
                "trained": float(max(spectra[True].ritz[0])),
            },
            "trace": {
                name: _trace(spectra[key], parameters)
                for name, key in (("initial", False), ("trained", True))
            },
            "ritz": {str(k): [r.tolist() for r in s.ritz] for k, s in spectra.items()},
            "weights": {str(k): [w.tolist() for w in s.weights] for k, s in spectra.items()},
        }
        experiment.write(summary, rows, _draw(spectra, parameters))
    for row in rows:
        print(row)
    return summary


def _measure(experiment: Experiment) -> tuple[dict[bool, Spectrum], int]:
    options = experiment.options
    spec = TaskSpec(d_model=options.d_model, length=16, support=32)
    x, labels = (t.to(options.device) for t in make_task(spec, options.seed).support)

    def problem(attention: Attention) -> tuple[Loss, Params]:
        torch.manual_seed(options.seed)
        return from_module(Classifier(spec, attention).double().to(options.device), cross_entropy)

    loss, params = problem(experiment.attention("auto"))
    explicit_loss, _ = problem(experiment.attention("explicit"))
    trained = _train(explicit_loss, params, (x, labels), options.train_steps)
    spectra = {}
    for is_trained, point in ((False, params), (True, trained)):
        flat, multiply = _flat_hessian(loss, point, (x, labels))
        ritz, weights = [], []
        for probe in range(options.probes):
            title = f"{'trained' if is_trained else 'initial'}, probe {probe}"
            theta, weight = _lanczos(multiply, flat, options.lanczos_steps, probe, title)
            ritz.append(theta)
            weights.append(weight)
        dense = None if experiment.on_gpu else _dense(explicit_loss, point, (x, labels))
        spectra[is_trained] = Spectrum(ritz, weights, dense)
    return spectra, flat.numel()


def _train(loss: Loss, params: Params, batch: Any, steps: int) -> Params:
    point = {name: x.clone().requires_grad_() for name, x in params.items()}
    optimizer = torch.optim.Adam(list(point.values()), lr=1e-2)
    for _ in tqdm(range(steps), desc="training"):
        optimizer.zero_grad()
        loss(point, batch).backward()
        optimizer.step()
    return {name: x.detach() for name, x in point.items()}


def _flatten(params: Params) -> torch.Tensor:
    return torch.cat([x.ravel() for x in params.values()])


def _unflatten(flat: torch.Tensor, like: Params) -> Params:
    parts = flat.split([x.numel() for x in like.values()])
    return {n: part.view(x.shape) for part, (n, x) in zip(parts, like.items(), strict=True)}


def _flat_hessian(
    loss: Loss, params: Params, batch: Any
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """The parameters as one vector, and the Hessian's product with such a vector."""

    def gradient(point: Params) -> Params:
        return grad(loss)(point, batch)  # type: ignore[no-any-return]

    def multiply(vector: torch.Tensor) -> torch.Tensor:
        return _flatten(jvp(gradient, (params,), (_unflatten(vector, params),))[1])

    return _flatten(params), multiply


def _lanczos(
    multiply: Callable[[torch.Tensor], torch.Tensor],
    like: torch.Tensor,
    steps: int,
    seed: int,
    title: str,
) -> tuple[Reals, Reals]:
    """Ritz values from a random start, and the squares of their first components."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(like.numel(), generator=generator, dtype=like.dtype).to(like.device)
    basis = [vector / vector.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in tqdm(range(steps), desc=title, leave=False):
        product = multiply(basis[-1])
        diagonal.append(float(basis[-1] @ product))
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough
            product = product - known.mT @ (known @ product)
        beside.append(float(product.norm()))
        if beside[-1] < 1e-12 * max(map(abs, diagonal)):
            break  # an invariant subspace: the Ritz values are eigenvalues
        basis.append(product / beside[-1])
    inner = beside[: len(diagonal) - 1]
    matrix = np.diag(diagonal) + np.diag(inner, 1) + np.diag(inner, -1)
    values, vectors = np.linalg.eigh(matrix)
    return values, vectors[0] ** 2


def _dense(loss: Loss, params: Params, batch: Any) -> Reals:
    """All eigenvalues of the Hessian, whose rows come by reverse over reverse.

    Not by `torch.func.hessian`: its forward mode under vmap is wrong for `layer_norm` with weights
    (PyTorch 2.11), see docs/higher_order_safety.md.
    """

    def gradient(flat: torch.Tensor) -> torch.Tensor:
        return _flatten(grad(loss)(_unflatten(flat, params), batch))

    flat = _flatten(params)
    pull_back = vjp(gradient, flat)[1]
    (matrix,) = vmap(pull_back)(torch.eye(flat.numel(), dtype=flat.dtype, device=flat.device))
    return np.linalg.eigvalsh(matrix.cpu().numpy())


def _rows(spectra: dict[bool, Spectrum]) -> list[Row]:
    rows = []
    for trained, spectrum in spectra.items():
        values = np.sort(spectrum.ritz[0])[::-1]
        exact = None if spectrum.dense is None else np.sort(spectrum.dense)[::-1]
        for rank in range(OUTERMOST):
            dense = None if exact is None else float(exact[rank])
            rows.append(Row(trained, rank + 1, float(values[rank]), dense))
    return rows


def _trace(spectrum: Spectrum, parameters: int) -> dict[str, float | None]:
    """Estimated by quadrature, and exact where the dense Hessian is known.

    For a probe v of length 1 in n dimensions, n <v, H v> has the mean tr H and the variance
    2 n / (n + 2) (|H|_F^2 - (tr H)^2 / n).
    """
    estimates = [float(t @ w) for t, w in zip(spectrum.ritz, spectrum.weights, strict=True)]
    found: dict[str, float | None] = {"quadrature": parameters * float(np.mean(estimates))}
    if spectrum.dense is not None:
        exact, squares = float(spectrum.dense.sum()), float((spectrum.dense**2).sum())
        variance = 2 * parameters / (parameters + 2) * (squares - exact**2 / parameters)
        found |= {"dense": exact, "standard_error": (variance / len(estimates)) ** 0.5}
    return found


def _draw(spectra: dict[bool, Spectrum], parameters: int) -> Figure:
    figure, panels = new_figure(7.6, 3.1, 1, 2)
    for axes, (trained, spectrum) in zip(panels, spectra.items(), strict=True):
        low = min(float(r.min()) for r in spectrum.ritz)
        high = max(float(r.max()) for r in spectrum.ritz)
        width = (high - low) / 120
        grid = np.linspace(low - 5 * width, high + 5 * width, 800)
        if spectrum.dense is not None:
            bars, edges = np.histogram(spectrum.dense, bins=grid[::8])
            middle, step = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
            label = "all eigenvalues, dense"
            axes.bar(middle, bars / step / parameters, step, color=FAINT, label=label)
        curves = [
            (weights * np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2)).sum(1)
            / (width * np.sqrt(2 * np.pi))
            for values, weights in zip(spectrum.ritz, spectrum.weights, strict=True)
        ]
        label = f"Lanczos quadrature, {len(curves)} probes"
        axes.fill_between(grid, np.min(curves, 0), np.max(curves, 0), color=BLUE, alpha=0.2, lw=0)
        axes.plot(grid, np.mean(curves, 0), color=BLUE, linewidth=1.2, label=label)
        top = np.sort(spectrum.ritz[0])[::-1][:OUTERMOST]
        axes.plot(
            top,
            np.full(len(top), 0.4 / parameters / width),
            "v",
            color=VERMILION,
            markersize=5,
            label=f"{OUTERMOST} largest, Lanczos",
        )
        axes.set_yscale("log")
        axes.set_ylim(0.04 / parameters / width, 4 / width)
        axes.set_xlabel("eigenvalue")
        axes.set_title("after training" if trained else "at initialisation", color=INK)
    panels[0].set_ylabel("density")
    panels[0].legend(loc="upper right")
    figure.suptitle(
        f"Hessian of a transformer block, {parameters} parameters", x=0.01, ha="left", fontsize=10
    )
    return figure


if __name__ == "__main__":
    run(main)
