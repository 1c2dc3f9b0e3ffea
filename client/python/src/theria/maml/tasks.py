"""The attention classifier and the synthetic few-shot task of the meta-learning experiments.

An example is a sequence of noise in which a few positions carry the prototype of its class.
Position 0 never does: the model takes its query from there and must find the signal by attention.

Tasks and initial parameters are pure functions of a seed, with the recipe of the C++ client's
`theria/maml_task.h`: counters hashed by the finaliser of SplitMix64, uniform numbers of 53 bits,
normal numbers by Box and Muller. `theria maml` uses the same tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from theria.maml._meta_gradient import Task
from theria.maml._model import Params
from theria.torch import sdpa

__all__ = [
    "Attention",
    "AttentionClassifier",
    "Episode",
    "TaskSpec",
    "initial_parameters",
    "make_task",
    "math_attention",
    "task_batches",
]

Episode: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Attention: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Counts: TypeAlias = npt.NDArray[np.uint64]
Reals: TypeAlias = npt.NDArray[np.float64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class TaskSpec:
    """The sizes of a task.

    Attributes:
        support: Examples to adapt to.
        query: Examples to evaluate the adapted model on.
        length: Tokens per sequence; at least signal_positions + 1.
        d_model: Elements per token.
        classes: The number of classes.
        signal_positions: Tokens per sequence that carry its class.
        noise: Standard deviation of each element.
    """

    support: int = 16
    query: int = 16
    length: int = 32
    d_model: int = 64
    classes: int = 5
    signal_positions: int = 4
    noise: float = 1.0


class AttentionClassifier(torch.nn.Module):
    """One attention head whose only query is token 0, between linear layers.

        q = x_0 w_q^T    k = x w_k^T    v = x w_v^T    o = attention(q, k, v)
        logits = o w_head^T + b_head

    Parameters: w_q, w_k, w_v [d_model, d_model], w_head [classes, d_model], b_head [classes], all
    float64; `initial_parameters` gives their values.
    """

    def __init__(self, spec: TaskSpec, seed: int = 0, attention: Attention = sdpa):
        super().__init__()
        for name, value in initial_parameters(spec, seed).items():
            self.register_parameter(name, torch.nn.Parameter(value))
        self._attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [examples, length, d_model] to logits [examples, classes]."""
        w = dict(self.named_parameters())
        q = x[:, None, :1] @ w["w_q"].mT
        k, v = x[:, None] @ w["w_k"].mT, x[:, None] @ w["w_v"].mT
        o = self._attention(q, k, v)[:, 0, 0]
        return o @ w["w_head"].mT + w["b_head"]


def math_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Explicit attention in PyTorch, which is differentiable in every mode: the reference."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return torch.softmax(scores, -1) @ v


def initial_parameters(spec: TaskSpec, seed: int = 0) -> Params:
    """Uniform in +-1/sqrt(d_model), float64, by name; see `AttentionClassifier`."""
    square, head = (spec.d_model, spec.d_model), (spec.classes, spec.d_model)
    shapes = {"w_q": square, "w_k": square, "w_v": square, "w_head": head, "b_head": head[:1]}
    bound = 1.0 / np.sqrt(spec.d_model)
    return {
        name: torch.from_numpy((2.0 * _uniform(seed, stream, shape) - 1.0) * bound)
        for stream, (name, shape) in enumerate(shapes.items())
    }


def make_task(spec: TaskSpec, seed: int = 0, index: int = 0) -> Task[Episode]:
    """Task number `index` of `seed`.

    Each batch is (x [examples, length, d_model] float64, labels [examples] int64).

    Raises:
        ValueError: A count is not positive, or the sequence is too short for the signal.
    """
    counts = (spec.support, spec.query, spec.d_model, spec.classes, spec.signal_positions)
    if min(counts) < 1 or spec.length <= spec.signal_positions:
        raise ValueError(f"{spec}: counts must be positive, length above signal_positions")
    base = 16 * (index + 1)
    prototypes = _normal(seed, base, (spec.classes, spec.d_model))
    return Task(
        _episode(spec, seed, base + 1, spec.support, prototypes),
        _episode(spec, seed, base + 4, spec.query, prototypes),
    )


def task_batches(
    spec: TaskSpec, seed: int, steps: int, meta_batch: int = 1
) -> Iterator[list[Task[Episode]]]:
    """The tasks of each outer step: numbers s * meta_batch .. (s + 1) * meta_batch - 1."""
    for step in range(steps):
        yield [make_task(spec, seed, step * meta_batch + i) for i in range(meta_batch)]


def _episode(spec: TaskSpec, seed: int, stream: int, examples: int, prototypes: Reals) -> Episode:
    labels = np.floor(spec.classes * _uniform(seed, stream, (examples,))).astype(np.int64)
    x = spec.noise * _normal(seed, stream + 2, (examples, spec.length, spec.d_model))
    draws = _uniform(seed, stream + 1, (examples, spec.signal_positions))
    for i in range(examples):
        positions = np.arange(1, spec.length)
        for j in range(spec.signal_positions):
            other = j + int((spec.length - 1 - j) * draws[i, j])
            positions[[j, other]] = positions[[other, j]]
        x[i, positions[: spec.signal_positions]] += prototypes[labels[i]]
    return torch.from_numpy(x), torch.from_numpy(labels)


def _normal(seed: int, stream: int, shape: tuple[int, ...]) -> Reals:
    pairs = _uniform(seed, stream, (*shape, 2))
    numbers: Reals = np.sqrt(-2.0 * np.log(1.0 - pairs[..., 0]))
    numbers *= np.cos(2.0 * np.pi * pairs[..., 1])
    return numbers


def _uniform(seed: int, stream: int, shape: tuple[int, ...]) -> Reals:
    key = _mix(_mix(_counts(seed)) + _GAMMA * _counts(stream + 1))
    index = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    bits = _mix(key + _GAMMA * index) >> np.uint64(11)
    numbers: Reals = bits.astype(np.float64) * 2.0**-53
    return numbers.reshape(shape)


def _counts(value: int) -> Counts:
    return np.array([value], np.uint64)  # arrays wrap silently, numpy's scalars warn


def _mix(z: Counts) -> Counts:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Counts = z ^ (z >> np.uint64(31))
    return mixed
