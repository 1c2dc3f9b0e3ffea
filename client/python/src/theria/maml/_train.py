"""The outer loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from theria.maml._adjoint import InnerLoop
from theria.maml._failures import short_traceback
from theria.maml._meta_batch import meta_batch_gradient
from theria.maml._meta_gradient import Method, Mode, Task, check_choices
from theria.maml._model import Loss, Params

__all__ = ["OuterStep", "meta_train"]

MakeOptimizer = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


@dataclass(frozen=True)
class OuterStep:
    """Means over one meta-batch.

    Attributes:
        loss: L_query after adaptation.
        gradient_norm: Of the mean meta-gradient.
    """

    loss: float
    gradient_norm: float


@short_traceback
def meta_train(
    loss: Loss,
    params: Params,
    batches: Iterable[Sequence[Task[Any]]],
    inner: InnerLoop | None = None,
    *,
    mode: Mode | Callable[[int], Mode] = "full",
    method: Method = "adjoint",
    vectorize: bool = False,
    make_optimizer: MakeOptimizer | None = None,
    on_step: Callable[[OuterStep], None] | None = None,
    progress: bool = True,
) -> tuple[Params, list[OuterStep]]:
    """Trains the initial parameters with the mean meta-gradient of each batch of tasks.

    Args:
        loss: As for `meta_gradient`.
        params: theta_0 to start from; not changed.
        batches: One meta-batch of at least one task for each outer step.
        inner: Default: 5 steps of 0.1.
        mode: As for `meta_gradient`, or a function of the number of the outer step, from 0, such as
            ``lambda step: "fo" if step < 50 else "full"``. First-order steps are cheaper and make
            the beginning more stable (Antoniou, Edwards, Storkey, "How to train your MAML", 2019).
        method: As for `meta_gradient`.
        vectorize: As for `meta_batch_gradient`.
        make_optimizer: Called with the tensors to train. Default: Adam, learning rate 1e-3.
        on_step: Called after each outer step.
        progress: Whether to show a progress bar over tasks, with the loss of the last step.

    Returns:
        The trained parameters, and one `OuterStep` per step.

    Raises:
        ValueError: An unknown mode or method.
        FloatingPointError: A loss or a gradient is not finite.
        theria.Error: Errors of `theria.torch.sdpa`.
    """
    mode_of = mode if callable(mode) else lambda _step: mode
    check_choices(mode_of(0), method)
    trained = {name: value.detach().clone() for name, value in params.items()}
    make_optimizer = make_optimizer or (lambda tensors: torch.optim.Adam(tensors, lr=1e-3))
    optimizer = make_optimizer(list(trained.values()))
    history: list[OuterStep] = []
    with tqdm(desc="tasks", unit="task", disable=not progress) as bar:
        for tasks in batches:
            result = meta_batch_gradient(
                loss,
                trained,
                tasks,
                inner,
                mode=mode_of(len(history)),
                method=method,
                vectorize=vectorize,
                on_tasks=bar.update,
            )
            norm = float(
                torch.linalg.vector_norm(torch.cat([g.ravel() for g in result.gradient.values()]))
            )
            step = OuterStep(float(result.loss), norm)
            if not (torch.tensor(step.loss).isfinite() and torch.tensor(norm).isfinite()):
                raise FloatingPointError(f"outer step {len(history)}: {step}")
            for name, value in trained.items():
                value.grad = result.gradient[name]
            optimizer.step()
            history.append(step)
            bar.set_postfix(step=len(history), loss=f"{step.loss:.4f}")
            if on_step is not None:
                on_step(step)
    return {name: value.detach() for name, value in trained.items()}, history
