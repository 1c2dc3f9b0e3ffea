"""Explicit attention, optionally with chosen parts held constant.

Holding a part constant means that derivatives do not flow through it in any mode, as a detached
tensor does in reverse mode. The known ways to lose a derivative without an error correspond to
choices of such parts. Parts of the forward affect all derivatives. Parts of a hand-written backward
leave first derivatives exact and affect second derivatives.

With S = q k^T / sqrt(head_dim), lse = logsumexp_j S and P = exp(S - lse), o = P v; and for the VJP
delta = rowsum(o_bar o), S_bar = P (o_bar v^T - delta). docs/operator_contract.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any

import torch

from theria.safety._problem import Attention

__all__ = [
    "BACKWARD_PARTS",
    "FORWARD_PARTS",
    "explicit_attention",
    "explicit_vjp",
    "holding",
    "losses",
]

FORWARD_PARTS = ("q", "k", "v", "probabilities", "statistics")
BACKWARD_PARTS = ("q", "k", "v", "o_bar", "probabilities", "lse", "delta")


def explicit_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) v in PyTorch operations."""
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1) @ v


def holding(parts: Collection[str]) -> Attention:
    """Attention with `parts` of `FORWARD_PARTS` held constant; the statistics are lse."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        hold = _Holder(parts)
        q, k, v = hold("q", q), hold("k", k), hold("v", v)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        lse = hold("statistics", scores.logsumexp(-1, keepdim=True))
        return hold("probabilities", (scores - lse).exp()) @ v

    return attention


def explicit_vjp(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    o_bar: torch.Tensor,
    parts: Collection[str] = (),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q_bar, k_bar, v_bar by their formulas, with `parts` of `BACKWARD_PARTS` held constant."""
    hold = _Holder(parts)
    q, k, v, o_bar = hold("q", q), hold("k", k), hold("v", v), hold("o_bar", o_bar)
    scale = q.shape[-1] ** -0.5
    scores = scale * q @ k.mT
    lse = hold("lse", scores.logsumexp(-1, keepdim=True))
    p = hold("probabilities", (scores - lse).exp())
    delta = hold("delta", (o_bar * (p @ v)).sum(-1, keepdim=True))
    s_bar = p * (o_bar @ v.mT - delta)
    return scale * s_bar @ k, scale * s_bar.mT @ q, p.mT @ o_bar


def losses(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The subsets of up to four `parts`, the simplest first; the first is empty."""
    subsets = [subset for size in range(5) for subset in combinations(parts, size)]
    return sorted(subsets, key=_simplicity)


def _simplicity(parts: tuple[str, ...]) -> float:
    """Their number; all inputs at once, an output that leads nowhere, come right after one."""
    return 1.5 if parts in (("q", "k", "v"), ("q", "k", "v", "o_bar")) else len(parts)


class _Holder:
    def __init__(self, parts: Collection[str]) -> None:
        self._parts = parts

    def __call__(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return _Constant.apply(x) if name in self._parts else x  # type: ignore[no-untyped-call]


class _Constant(torch.autograd.Function):
    """The identity, with a zero derivative in both modes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(_ctx: Any, _inputs: Any, _output: Any) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> Any:
        return torch.zeros_like(gradient)

    @staticmethod
    def jvp(_ctx: Any, tangent: torch.Tensor) -> Any:
        return torch.zeros_like(tangent)
