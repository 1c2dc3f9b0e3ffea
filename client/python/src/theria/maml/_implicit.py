"""Implicit meta-gradients: at the inner optimum, independent of the path to it.

Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019. The inner
problem has a proximal term: theta* minimises L_support(theta) + proximity/2 |theta - theta_0|^2.
With H the Hessian of L_support at theta*,

    d L_query(theta*) / d theta_0 = (I + H / proximity)^{-1} grad L_query(theta*)

The system is solved by conjugate gradients with Hessian-vector products. The memory is that of one
gradient and does not depend on the number of inner steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from theria.maml._adjoint import InnerLoop, adapt
from theria.maml._failures import short_traceback
from theria.maml._meta_gradient import MetaGradient, Task
from theria.maml._model import Loss, Params, hessian_vector, value_and_gradient

__all__ = ["ConjugateGradients", "ImplicitMetaGradient", "implicit_meta_gradient"]


@dataclass(frozen=True)
class ConjugateGradients:
    """When to stop solving.

    Attributes:
        steps: The maximum number of steps, with one Hessian-vector product each.
        tolerance: For the norm of the residual, relative to that of the right-hand side.
    """

    steps: int = 20
    tolerance: float = 1e-10

    def __post_init__(self) -> None:
        if self.steps < 0 or self.tolerance < 0:
            raise ValueError(f"{self}: steps and tolerance must be at least 0")


@dataclass(frozen=True)
class ImplicitMetaGradient(MetaGradient):
    """The meta-gradient of one task, and the accuracy of the two problems solved for it.

    Attributes:
        stationarity: The norm of the inner problem's gradient at theta_K. The formula is exact at
            the optimum, where this is 0.
        residual: The norm of the linear system's residual, relative to the right-hand side's.
        products: The number of Hessian-vector products.
    """

    stationarity: float
    residual: float
    products: int


@short_traceback
@torch.no_grad()
def implicit_meta_gradient(
    loss: Loss,
    params: Params,
    task: Task[Any],
    inner: InnerLoop | None = None,
    *,
    proximity: float = 1.0,
    solver: ConjugateGradients | None = None,
    progress: bool = False,
) -> ImplicitMetaGradient:
    """The gradient of L_query(theta*) with respect to theta_0, evaluated at theta_K for theta*.

    Args:
        loss: As for `meta_gradient`; differentiable twice. It must not draw random numbers.
        params: theta_0, by name. Not changed.
        task: Support and query batches.
        inner: Gradient descent on the inner problem. Default: 5 steps of 0.1.
        proximity: The weight of the proximal term. It must exceed the largest negative curvature
            of L_support, so that the system is positive definite.
        solver: Default: 20 steps or 1e-10.
        progress: Shows a bar over inner steps and Hessian-vector products.

    Raises:
        ValueError: proximity is not positive.
        ArithmeticError: The system is not positive definite: proximity is too small.
        theria.Error: What attention by `theria.torch.sdpa` raises.
    """
    if not proximity > 0:
        raise ValueError(f"proximity is {proximity}, must be positive")
    inner, solver = inner or InnerLoop(), solver or ConjugateGradients()
    start = {name: value.detach() for name, value in params.items()}

    def inner_problem(point: Params, batch: Any) -> torch.Tensor:
        distances = [(value - start[name]).square().sum() for name, value in point.items()]
        return loss(point, batch) + 0.5 * proximity * torch.stack(distances).sum()

    forgetful = InnerLoop(inner.steps, inner.learning_rate, backward_steps=0)
    with tqdm(total=inner.steps + solver.steps, desc="implicit", disable=not progress) as bar:
        trajectory = adapt(inner_problem, start, task.support, forgetful, bar.update)
        adapted = trajectory.adapted
        _, slope = value_and_gradient(inner_problem, adapted, task.support)
        value, right = value_and_gradient(loss, adapted, task.query)

        def system(vector: Params) -> Params:
            product = hessian_vector(loss, adapted, task.support, vector)
            bar.update()
            return {n: v + product[n] / proximity for n, v in vector.items()}

        gradient, residual, products = _solve(system, right, solver)
    return ImplicitMetaGradient(
        gradient,
        value,
        adapted,
        trajectory.losses,
        stationarity=_dot(slope, slope) ** 0.5,
        residual=residual,
        products=products,
    )


def _solve(system: Any, right: Params, solver: ConjugateGradients) -> tuple[Params, float, int]:
    """Conjugate gradients from 0: the solution, its relative residual, the number of products."""
    solution = {name: torch.zeros_like(value) for name, value in right.items()}
    residual, direction = right, right
    size = start = _dot(right, right)
    products = 0
    while products < solver.steps and size > solver.tolerance**2 * start:
        image = system(direction)
        products += 1
        curvature = _dot(direction, image)
        if curvature <= 0:
            raise ArithmeticError(
                "L_support curves down more than proximity holds: the implicit system is not "
                "positive definite; raise proximity"
            )
        length = size / curvature
        solution = _add(solution, length, direction)
        residual = _add(residual, -length, image)
        size, before = _dot(residual, residual), size
        direction = _add(residual, size / before, direction)
    return solution, (size / start) ** 0.5 if start else 0.0, products


def _add(x: Params, factor: float, y: Params) -> Params:
    return {name: value.add(y[name], alpha=factor) for name, value in x.items()}


def _dot(x: Params, y: Params) -> float:
    return float(torch.stack([(value * y[name]).sum().double() for name, value in x.items()]).sum())
