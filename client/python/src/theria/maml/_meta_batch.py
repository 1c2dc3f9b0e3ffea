"""The meta-gradient of several tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import vmap
from torch.utils import _pytree

from theria.maml._adjoint import InnerLoop
from theria.maml._failures import short_traceback
from theria.maml._meta_gradient import Method, Mode, Task, meta_gradient
from theria.maml._model import Loss, Params

__all__ = ["MetaBatchGradient", "meta_batch_gradient"]


def _nothing(_tasks: int) -> None:
    pass


@dataclass(frozen=True)
class MetaBatchGradient:
    """The result for a meta-batch.

    Attributes:
        gradient: The mean of the tasks' meta-gradients, by the names of the parameters.
        loss: The mean of their L_query(theta_K), a scalar.
    """

    gradient: Params
    loss: torch.Tensor


@short_traceback
def meta_batch_gradient(
    loss: Loss,
    params: Params,
    tasks: Sequence[Task[Any]],
    inner: InnerLoop | None = None,
    *,
    mode: Mode = "full",
    method: Method = "adjoint",
    vectorize: bool = False,
    on_tasks: Callable[[int], object] = _nothing,
) -> MetaBatchGradient:
    """The gradient of the tasks' mean L_query(theta_K) with respect to theta_0.

    Args:
        loss: As for `meta_gradient`.
        params: theta_0, common to all tasks. Not changed.
        tasks: At least one.
        inner: As for `meta_gradient`.
        mode: As for `meta_gradient`.
        method: As for `meta_gradient`.
        vectorize: Whether to compute each step for all tasks together, under `torch.func.vmap`.
            This makes one call of attention for all tasks and needs memory for all of them. Their
            batches must have the same structure and shapes. Dropout is drawn per task, but differs
            from the draws of a sequential run.
        on_tasks: Called with the number of tasks finished since the last call.

    Raises:
        ValueError: No tasks, or what `meta_gradient` raises.
        theria.Error: What attention by `theria.torch.sdpa` raises.
    """
    if not tasks:
        raise ValueError("a meta-batch needs at least one task")
    if vectorize:
        result = _vectorized(loss, params, tasks, inner, mode, method)
        on_tasks(len(tasks))
        return result
    gradient = {name: torch.zeros_like(value) for name, value in params.items()}
    losses = []
    for task in tasks:
        one = meta_gradient(loss, params, task, inner, mode=mode, method=method)
        losses.append(one.loss)
        for name, value in one.gradient.items():
            gradient[name] += value / len(tasks)
        on_tasks(1)
    return MetaBatchGradient(gradient, torch.stack(losses).mean())


def _vectorized(
    loss: Loss,
    params: Params,
    tasks: Sequence[Task[Any]],
    inner: InnerLoop | None,
    mode: Mode,
    method: Method,
) -> MetaBatchGradient:
    """Stacks the parameters into one task, whose Hessian is block-diagonal, one block per task."""
    losses = vmap(loss, randomness="different")

    def total(stacked: Params, batch: Any) -> torch.Tensor:
        result: torch.Tensor = losses(stacked, batch).sum()
        return result

    together = Task(_stack([t.support for t in tasks]), _stack([t.query for t in tasks]))
    copies = {name: torch.stack([value.detach()] * len(tasks)) for name, value in params.items()}
    result = meta_gradient(total, copies, together, inner, mode=mode, method=method)
    gradient = {name: value.mean(0) for name, value in result.gradient.items()}
    return MetaBatchGradient(gradient, result.loss / len(tasks))


def _stack(batches: Sequence[Any]) -> Any:
    return _pytree.tree_map(lambda *leaves: torch.stack(leaves), *batches)
