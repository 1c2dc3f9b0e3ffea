"""The meta-gradient of one task, by mode and method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from tqdm.auto import tqdm

from theria.maml._adjoint import InnerLoop, adapt
from theria.maml._failures import short_traceback
from theria.maml._model import Loss, Params, value_and_gradient

__all__ = ["MetaGradient", "Method", "Mode", "Task", "check_choices", "meta_gradient"]

Mode = Literal["full", "fo", "fo_strict"]
Method = Literal["adjoint", "unrolled"]
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Task(Generic[Batch]):
    """A batch to adapt to, and a batch to evaluate the adapted parameters on."""

    support: Batch
    query: Batch


@dataclass(frozen=True)
class MetaGradient:
    """The result for one task.

    Attributes:
        gradient: The meta-gradient of the mode, by parameter name.
        loss: L_query(theta_K), a scalar.
        adapted: theta_K.
        support_losses: L_support(theta_0) .. L_support(theta_{K-1}), scalars.
    """

    gradient: Params
    loss: torch.Tensor
    adapted: Params
    support_losses: tuple[torch.Tensor, ...]


@short_traceback
def meta_gradient(
    loss: Loss,
    params: Params,
    task: Task[Any],
    inner: InnerLoop | None = None,
    *,
    mode: Mode = "full",
    method: Method = "adjoint",
    progress: bool = False,
) -> MetaGradient:
    """The gradient of L_query(theta_K) with respect to the initial parameters theta_0.

    Args:
        loss: ``loss(params, batch)``, a scalar; differentiable twice for mode ``"full"``.
        params: theta_0, by name. Not changed.
        task: Support and query batches for `loss`.
        inner: Default: 5 steps of 0.1.
        mode: ``"full"``: exact, lambda_0, or lambda_{K-n} if the loop's `backward_steps` is n.
            ``"fo"``: first-order MAML, lambda_K; the inner gradients are treated as constants.
            ``"fo_strict"``: lambda_K, and theta_K is treated as a constant too, so that there is no
            path back to theta_0 (see `diagnose`).
        method: ``"adjoint"`` or ``"unrolled"``; the results are equal up to rounding.
        progress: Whether to show a progress bar over the inner steps, forward and backward.

    Raises:
        ValueError: An unknown mode or method.
        theria.Error: Errors of `theria.torch.sdpa`.
    """
    check_choices(mode, method)
    inner = inner or InnerLoop()
    compute = _adjoint if method == "adjoint" else _unrolled
    back = inner.steps - inner.first_differentiated
    steps = inner.steps + (back if mode == "full" and method == "adjoint" else 0)
    with tqdm(total=steps, desc="inner steps", disable=not progress) as bar:
        return compute(loss, params, task, inner, mode, bar)


def check_choices(mode: str, method: str = "adjoint") -> None:
    """Raises ValueError for an unknown mode or method."""
    for name, value, choices in (("mode", mode, Mode), ("method", method, Method)):
        if value not in get_args(choices):
            raise ValueError(f"{name} is {value!r}, must be one of {', '.join(get_args(choices))}")


@torch.no_grad()
def _adjoint(
    loss: Loss, params: Params, task: Task[Any], inner: InnerLoop, mode: Mode, bar: Any
) -> MetaGradient:
    trajectory = adapt(loss, params, task.support, inner, bar.update)
    value, gradient = value_and_gradient(loss, trajectory.adapted, task.query)
    if mode == "full":
        gradient = trajectory.pull_back(gradient, bar.update)
    return MetaGradient(gradient, value, trajectory.adapted, trajectory.losses)


@torch.enable_grad()
def _unrolled(
    loss: Loss, params: Params, task: Task[Any], inner: InnerLoop, mode: Mode, bar: Any
) -> MetaGradient:
    def gradient_of(value: torch.Tensor, point: Params, create_graph: bool = False) -> Params:
        gradients = torch.autograd.grad(
            value, list(point.values()), create_graph=create_graph, materialize_grads=True
        )
        return dict(zip(point, gradients, strict=True))

    initial = {name: value.detach().requires_grad_() for name, value in params.items()}
    adapted, losses = initial, []
    for step in range(inner.steps):
        if step == inner.first_differentiated > 0:
            initial = adapted = {n: p.detach().requires_grad_() for n, p in adapted.items()}
        value = loss(adapted, task.support)
        through = mode == "full" and step >= inner.first_differentiated
        gradient = gradient_of(value, adapted, create_graph=through)
        adapted = {n: p - inner.learning_rate * gradient[n] for n, p in adapted.items()}
        losses.append(value.detach())
        bar.update()
    if mode == "fo_strict" or inner.first_differentiated == inner.steps > 0:
        initial = adapted = {n: p.detach().requires_grad_() for n, p in adapted.items()}
    value = loss(adapted, task.query)
    gradient = gradient_of(value, initial)
    detached = {name: p.detach() for name, p in adapted.items()}
    return MetaGradient(gradient, value.detach(), detached, tuple(losses))
