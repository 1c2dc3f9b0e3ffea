"""The MAML meta-gradient through an attention, compared with the exact one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn.functional import cross_entropy

from theria._errors import SERVER_FAILURES
from theria.maml import (
    InnerLoop,
    MetaGradient,
    Mode,
    Params,
    Task,
    from_module,
    meta_gradient,
    rel_diff,
)
from theria.maml.tasks import AttentionClassifier, Episode, TaskSpec, make_task
from theria.safety._explicit import explicit_attention
from theria.safety._problem import Attention

__all__ = ["INNER", "MetaLoss", "meta_loss"]

INNER = InnerLoop(steps=5, learning_rate=0.1)
_SPEC = TaskSpec()


@dataclass(frozen=True)
class MetaLoss:
    """Results of full MAML on the attention classifier of `theria.maml.tasks`, task and seed 0.

    The inner loop of 5 steps of 0.1 is unrolled and differentiated by `torch.autograd.grad`. The
    model is float64; only attention computes in the dtype under test.

    Attributes:
        error: |g - g_64| / |g_64| of the full meta-gradient; None if it raises.
        rel_diff: |g - g_fo| / |g|, g_fo the first-order meta-gradient through the same attention.
        exact_rel_diff: The same of the exact meta-gradients.
        reason: The exception, if it raises.
    """

    error: float | None
    rel_diff: float | None
    exact_rel_diff: float
    reason: str = ""


def meta_loss(attention: Attention, dtype: torch.dtype, device: str) -> MetaLoss:
    """Measures the error of the meta-gradient through `attention`."""
    exact_full, exact_first_order = _exact()
    exact = rel_diff(exact_full, exact_first_order)
    try:
        full = _on_cpu(_compute(attention, dtype, device, "full"))
        first_order = _on_cpu(_compute(attention, dtype, device, "fo"))
    except SERVER_FAILURES:  # says nothing about the attention
        raise
    except Exception as error:  # whatever a backend raises is the finding
        line = next(iter(str(error).strip().splitlines()), "")
        return MetaLoss(None, None, exact, f"{type(error).__name__}: {line}")
    return MetaLoss(rel_diff(exact_full, full), rel_diff(full, first_order), exact)


@lru_cache(maxsize=1)
def _exact() -> tuple[Params, Params]:
    def gradient(mode: Mode) -> Params:
        return _compute(explicit_attention, torch.float64, "cpu", mode).gradient

    return gradient("full"), gradient("fo")


def _compute(attention: Attention, dtype: torch.dtype, device: str, mode: Mode) -> MetaGradient:
    def in_dtype(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attention(q.to(dtype), k.to(dtype), v.to(dtype)).to(q.dtype)

    def moved(episode: Episode) -> Episode:
        x, labels = episode
        return x.to(device), labels.to(device)

    model = AttentionClassifier(_SPEC, 0, in_dtype).to(device)
    loss, params = from_module(model, cross_entropy)
    task = make_task(_SPEC)
    task = Task(moved(task.support), moved(task.query))
    return meta_gradient(loss, params, task, INNER, mode=mode, method="unrolled")


def _on_cpu(result: MetaGradient) -> Params:
    return {name: gradient.cpu() for name, gradient in result.gradient.items()}
