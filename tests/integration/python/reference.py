"""The operator contract in plain PyTorch float64: explicit math, derivatives by autograd.

Independent of the server: nothing here is fused, tiled or derived by hand but dropout's Philox,
which is the published algorithm (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011) with the counters and keys of docs/operator_contract.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MASK32 = np.uint64(0xFFFFFFFF)


def philox4x32(counter: list[Any], key: tuple[int, int]) -> list[Any]:
    """Ten rounds; each word an array of uint64 that holds 32 bits."""
    x, y, z, w = (np.asarray(word, np.uint64) for word in counter)
    key_x, key_y = key
    for _ in range(10):
        product_x = np.uint64(0xD2511F53) * x
        product_z = np.uint64(0xCD9E8D57) * z
        x, y, z, w = (
            (product_z >> np.uint64(32)) ^ y ^ np.uint64(key_x),
            product_z & MASK32,
            (product_x >> np.uint64(32)) ^ w ^ np.uint64(key_y),
            product_x & MASK32,
        )
        key_x, key_y = (key_x + 0x9E3779B9) & 0xFFFFFFFF, (key_y + 0xBB67AE85) & 0xFFFFFFFF
    return [x, y, z, w]


def dropout_matrix(
    shape: tuple[int, int, int, int], probability: float, seed: int, offset: int
) -> torch.Tensor:
    """Z [batch, heads_q, seq_q, seq_kv]: 0 where dropped, else 1 / (1 - probability)."""
    derived = philox4x32([offset & 0xFFFFFFFF, offset >> 32, 0, 0], (seed & 0xFFFFFFFF, seed >> 32))
    key = (int(derived[0]), int(derived[1]))
    batch, heads, rows, columns = shape
    plane = np.arange(batch * heads, dtype=np.uint64).reshape(batch, heads, 1, 1)
    i = np.arange(rows, dtype=np.uint64).reshape(-1, 1)
    j = np.arange(columns, dtype=np.uint64)
    one = np.uint64(1)
    words = philox4x32(
        [
            *np.broadcast_arrays(j >> one, i >> one, plane & MASK32, plane >> np.uint64(32)),
        ],
        key,
    )
    number = np.broadcast_to(2 * (i & one) + (j & one), shape).astype(np.int64)
    bits = np.choose(number, words)
    keep = bits >= int(probability * 2**32 + 0.5)
    return torch.from_numpy(keep / (1 - probability))


@dataclass
class Options:
    """As the keyword options of `theria.Client`."""

    attn_mask: Any = None
    dropout_p: float = 0.0
    dropout_seed: int = 0
    dropout_offset: int = 0
    is_causal: bool = False
    window: tuple[int | None, int | None] | None = None
    scale: float | None = None
    softcap: float | None = None
    causal_alignment: str = "upper_left"
    alibi_slopes: Any = None
    kv_lengths: Any = None
    cu_seqlens_q: Any = None
    cu_seqlens_kv: Any = None

    @property
    def bias(self) -> Any:
        """The floating-point mask, if there is one."""
        is_bool = self.attn_mask is None or np.asarray(self.attn_mask).dtype == bool
        return None if is_bool else self.attn_mask


def distances(options: Options, rows: int, columns: int) -> torch.Tensor:
    """How far key j lies ahead of row i, infinite in other documents."""
    starts_q = [0, rows] if options.cu_seqlens_q is None else list(options.cu_seqlens_q)
    starts_kv = [0, columns] if options.cu_seqlens_kv is None else list(options.cu_seqlens_kv)
    distance = torch.full((rows, columns), torch.inf, dtype=torch.float64)
    for document in range(len(starts_q) - 1):
        (q0, q1), (k0, k1) = (starts[document : document + 2] for starts in (starts_q, starts_kv))
        offset = (k1 - k0) - (q1 - q0) if options.causal_alignment == "lower_right" else 0
        i, j = torch.arange(q1 - q0)[:, None] + offset, torch.arange(k1 - k0)
        distance[q0:q1, k0:k1] = (j - i).double()
    return distance


def additive_mask(options: Options, batch: int, rows: int, columns: int) -> torch.Tensor:
    """All but the bias, broadcast to [batch, heads_q, rows, columns]."""
    distance = distances(options, rows, columns)
    allowed = torch.isfinite(distance)
    if options.is_causal:
        allowed &= distance <= 0
    if options.window is not None:
        left, right = options.window
        if left is not None:
            allowed &= distance >= -left
        if right is not None:
            allowed &= distance <= right
    allowed = allowed[None, None]
    if options.kv_lengths is not None:
        lengths = torch.as_tensor(np.asarray(options.kv_lengths)).reshape(batch, 1, 1, 1)
        allowed = allowed & (torch.arange(columns) < lengths)
    if options.attn_mask is not None and options.bias is None:
        allowed = allowed & torch.as_tensor(np.asarray(options.attn_mask))
    mask = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -torch.inf)
    if options.alibi_slopes is not None:
        slopes = torch.as_tensor(np.asarray(options.alibi_slopes).astype(np.float64))
        slopes = slopes.reshape(-1, slopes.shape[-1], 1, 1)
        mask = mask - slopes * torch.where(torch.isfinite(distance), distance, 0.0).abs()
    return mask


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    options: Options,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """O and lse, float64. `bias`: that of the options, to be differentiated."""
    if bias is None and options.bias is not None:
        bias = torch.as_tensor(np.asarray(options.bias).astype(np.float64))
    group = q.shape[1] // max(k.shape[1], 1)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scale = q.shape[-1] ** -0.5 if options.scale is None else options.scale
    scores = scale * q @ k.mT
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores + additive_mask(options, q.shape[0], q.shape[2], k.shape[2])
    if bias is not None:
        scores = scores + bias
    forbidden = torch.isneginf(scores).all(-1, keepdim=True)
    lse = torch.logsumexp(scores.masked_fill(forbidden, 0.0), -1, keepdim=True)
    p = torch.exp(scores - lse).masked_fill(forbidden, 0.0)
    if options.dropout_p > 0:
        p = p * dropout_matrix(
            tuple(p.shape),
            options.dropout_p,
            options.dropout_seed,
            options.dropout_offset,
        )
    return p @ v, lse.masked_fill(forbidden, -torch.inf)[..., 0]


def vjp(inputs: tuple[torch.Tensor, ...], o_bar: torch.Tensor, options: Options) -> Any:
    """q_bar, k_bar, v_bar by reverse mode."""
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    return torch.autograd.grad(forward(*leaves, options)[0], leaves, o_bar)


def jvp(inputs: tuple[torch.Tensor, ...], dots: tuple[torch.Tensor, ...], options: Options) -> Any:
    """(o, lse), (o_dot, lse_dot) by forward mode."""
    return torch.func.jvp(lambda *x: forward(*x, options), inputs, dots)


def hvp(
    inputs: tuple[torch.Tensor, ...],
    o_bar: torch.Tensor,
    dots: tuple[torch.Tensor, ...],
    o_bar_dot: torch.Tensor,
    options: Options,
) -> Any:
    """q_bar_dot, k_bar_dot, v_bar_dot by reverse over reverse (the double-backward trick).

    With y(w) = VJP(inputs, w), the tangent of the VJP in a direction t is the gradient of
    <g, VJP> pulled back once more with respect to a dummy g.
    """
    leaves = tuple(x.detach().requires_grad_() for x in inputs)
    w = o_bar.detach().requires_grad_()
    bars = torch.autograd.grad(forward(*leaves, options)[0], leaves, w, create_graph=True)
    dummies = tuple(torch.zeros_like(x, requires_grad=True) for x in bars)
    pulled = torch.autograd.grad(bars, (*leaves, w), dummies, create_graph=True)
    return torch.autograd.grad(pulled, dummies, (*dots, o_bar_dot))
