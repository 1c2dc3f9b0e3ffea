"""The inner loop, and its transposed Jacobian: MAML without a graph.

The inner loop is theta_{t+1} = theta_t - alpha * grad L(theta_t). For a cotangent lambda_K of
theta_K, the cotangent of theta_t is

    lambda_t = lambda_{t+1} - alpha * H(theta_t) lambda_{t+1}

(the mixed-mode differentiation of MixFlow-MG, ICML 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from theria.maml._failures import short_traceback
from theria.maml._model import Loss, Params, hessian_vector, value_and_gradient
from theria.maml._random_state import RandomState

__all__ = ["InnerLoop", "Trajectory", "adapt"]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class InnerLoop:
    """Gradient descent on a task's support set.

    Attributes:
        steps: The number of steps K, at least 0.
        learning_rate: alpha.
        checkpoint_every: Keep the parameters of every n-th step and recompute the others in the
            backward pass. Memory is K/n + n parameter sets; n > 1 costs one more gradient per step.
        backward_steps: Differentiate only the last n steps and treat the earlier ones as constants,
            of which nothing is kept: truncated back-propagation (Shaban et al., AISTATS 2019). None
            for all steps; 0 gives first-order MAML.
    """

    steps: int = 5
    learning_rate: float = 0.1
    checkpoint_every: int = 1
    backward_steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 0 or self.checkpoint_every < 1:
            raise ValueError(f"{self}: steps must be at least 0, checkpoint_every at least 1")
        if self.backward_steps is not None and self.backward_steps < 0:
            raise ValueError(f"{self}: backward_steps must be at least 0")

    @property
    def first_differentiated(self) -> int:
        """The number of the first step that is differentiated."""
        if self.backward_steps is None:
            return 0
        return max(0, self.steps - self.backward_steps)


@dataclass(frozen=True)
class Trajectory:
    """The path of the inner loop from theta_0 to theta_K.

    Attributes:
        adapted: theta_K.
        losses: The support loss at theta_0 .. theta_{K-1}, scalars.
    """

    loss: Loss
    batch: Any
    inner: InnerLoop
    adapted: Params
    losses: tuple[torch.Tensor, ...]
    checkpoints: tuple[_Point, ...]

    @torch.no_grad()
    def pull_back(self, cotangent: Params, on_step: Callable[[], object] = _nothing) -> Params:
        """lambda_0 for lambda_K = `cotangent`.

        This is the transposed Jacobian of theta_K with respect to theta_0, times `cotangent`. If
        `backward_steps` is n, it is with respect to theta_{K-n}.

        Args:
            cotangent: Of theta_K, by the names of the parameters.
            on_step: Called after each step of the backward pass.
        """
        for point in self._backwards():
            with point.random.restored():
                product = hessian_vector(self.loss, point.params, self.batch, cotangent)
            cotangent = _descend(cotangent, product, self.inner.learning_rate)
            on_step()
        return cotangent

    def _backwards(self) -> Iterator[_Point]:
        end = self.inner.steps
        for first in reversed(self.checkpoints):
            segment = [first]
            with first.random.restored():
                while first.step + len(segment) < end:
                    params = segment[-1].params
                    _, gradient = value_and_gradient(self.loss, params, self.batch)
                    params = _descend(params, gradient, self.inner.learning_rate)
                    segment.append(_Point(first.step + len(segment), params, RandomState.now()))
            yield from reversed(segment)
            end = first.step


@short_traceback
@torch.no_grad()
def adapt(
    loss: Loss,
    params: Params,
    batch: Any,
    inner: InnerLoop,
    on_step: Callable[[], object] = _nothing,
) -> Trajectory:
    """Runs the inner loop on a support batch.

    Args:
        loss: Differentiated twice by `Trajectory.pull_back`. It may draw from PyTorch's random
            generators (dropout); the backward pass uses the same draws.
        params: theta_0; not changed.
        batch: The batch for `loss`.
        inner: Number and size of the steps.
        on_step: Called after each step.
    """
    params = {name: value.detach() for name, value in params.items()}
    losses, checkpoints = [], []
    for step in range(inner.steps):
        since_first = step - inner.first_differentiated
        if since_first >= 0 and since_first % inner.checkpoint_every == 0:
            checkpoints.append(_Point(step, params, RandomState.now()))
        value, gradient = value_and_gradient(loss, params, batch)
        losses.append(value)
        params = _descend(params, gradient, inner.learning_rate)
        on_step()
    return Trajectory(loss, batch, inner, params, tuple(losses), tuple(checkpoints))


def _descend(point: Params, direction: Params, rate: float) -> Params:
    return {name: value.sub(direction[name], alpha=rate) for name, value in point.items()}


@dataclass(frozen=True)
class _Point:
    step: int
    params: Params
    random: RandomState
