"""The second-order information in a meta-gradient, measured by value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from theria.maml._adjoint import InnerLoop, adapt
from theria.maml._failures import short_traceback
from theria.maml._meta_gradient import Mode, Task, check_choices
from theria.maml._model import Loss, Params, hessian_vector, value_and_gradient

__all__ = ["Diagnostics", "diagnose", "rel_diff"]

ROUNDING = 1e-9  # of |lambda_K|; a smaller float64 probe is treated as zero


@dataclass(frozen=True)
class Diagnostics:
    """The diagnostics of one task and mode.

    Attributes:
        full: lambda_0, the exact meta-gradient.
        first_order: lambda_K.
        rel_diff: |lambda_0 - lambda_K| / |lambda_0|: the relative error of first-order MAML.
        probe_norm: The norm of d/d theta_0 of |grad L_query(theta_K)|^2 / 2 along the mode's
            path from theta_K back to theta_0: H_query lambda_K pulled back through the inner loop
            for ``"full"``, H_query lambda_K for ``"fo"``, and 0 for ``"fo_strict"``, which has no
            such path.
        second_order_path: Whether probe_norm exceeds rounding error.
    """

    full: Params
    first_order: Params
    rel_diff: float
    probe_norm: float
    second_order_path: bool


@short_traceback
@torch.no_grad()
def diagnose(
    loss: Loss,
    params: Params,
    task: Task[Any],
    inner: InnerLoop | None = None,
    *,
    mode: Mode = "full",
) -> Diagnostics:
    """Compares the full and the first-order meta-gradient, and probes the second-order path.

    Args:
        loss: As for `meta_gradient`; differentiable twice.
        params: theta_0.
        task: Support and query batches.
        inner: Default: 5 steps of 0.1.
        mode: The mode whose path is probed.

    Raises:
        ValueError: An unknown mode.
        theria.Error: Errors of `theria.torch.sdpa`.
    """
    check_choices(mode)
    trajectory = adapt(loss, params, task.support, inner or InnerLoop())
    _, first_order = value_and_gradient(loss, trajectory.adapted, task.query)
    full = trajectory.pull_back(first_order)
    probe = {name: torch.zeros_like(value) for name, value in first_order.items()}
    if mode != "fo_strict":
        probe = hessian_vector(loss, trajectory.adapted, task.query, first_order)
    if mode == "full":
        probe = trajectory.pull_back(probe)
    probe_norm = _norm(probe)
    rounding = ROUNDING * torch.finfo(next(iter(params.values())).dtype).eps / 2**-52
    return Diagnostics(
        full,
        first_order,
        rel_diff(full, first_order),
        probe_norm,
        probe_norm > rounding * _norm(first_order),
    )


def rel_diff(full: Params, first_order: Params) -> float:
    """|full - first_order| / |full|, over all parameters together; 0 if they are equal."""
    difference = _norm({name: value - first_order[name] for name, value in full.items()})
    norm = _norm(full)
    return difference / norm if norm else math.inf if difference else 0.0


def _norm(params: Params) -> float:
    return float(torch.linalg.vector_norm(torch.cat([x.double().ravel() for x in params.values()])))
