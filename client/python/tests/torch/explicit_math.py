"""Attention with every option in plain differentiable PyTorch, independent of any client."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


def positions(rows: int, columns: int, starts: Any = None, *, lower_right: bool = False) -> Tensor:
    """How far key j is ahead of row i; infinite in another document."""
    starts_q, starts_kv = starts or ([0, rows], [0, columns])
    ahead = torch.full((rows, columns), torch.inf, dtype=torch.float64)
    for q0, q1, k0, k1 in zip(
        starts_q[:-1], starts_q[1:], starts_kv[:-1], starts_kv[1:], strict=True
    ):
        offset = (k1 - k0) - (q1 - q0) if lower_right else 0
        i, j = torch.arange(q1 - q0)[:, None] + offset, torch.arange(k1 - k0)
        ahead[q0:q1, k0:k1] = (j - i).double()
    return ahead


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    causal_alignment: str = "upper_left",
    is_causal: bool = False,
    window: tuple[int | None, int | None] = (None, None),
    kv_lengths: Tensor | None = None,
    starts: Any = None,
) -> tuple[Tensor, Tensor]:
    """O and lse of [batch, heads, seq, dim]; lse is 0 in rows that see no key."""
    ahead = positions(
        q.shape[-2], k.shape[-2], starts, lower_right=causal_alignment == "lower_right"
    )
    allowed = torch.isfinite(ahead)
    left, right = window
    if is_causal:
        allowed &= ahead <= 0
    if left is not None:
        allowed &= ahead >= -left
    if right is not None:
        allowed &= ahead <= right
    if kv_lengths is not None:
        allowed = allowed & (torch.arange(k.shape[-2]) < kv_lengths[:, None, None, None])
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if alibi_slopes is not None:
        distance = torch.where(torch.isfinite(ahead), ahead, 0.0).abs()
        scores = scores - alibi_slopes.reshape(-1, alibi_slopes.shape[-1], 1, 1) * distance
    scores = scores.masked_fill(~allowed, -torch.inf)
    forbidden = ~allowed.expand(scores.shape).any(-1, keepdim=True)
    lse = torch.logsumexp(scores.masked_fill(forbidden, 0.0), -1, keepdim=True)
    p = torch.exp(scores - lse).masked_fill(forbidden, 0.0)
    return p @ v, lse.masked_fill(forbidden, 0.0)[..., 0]
