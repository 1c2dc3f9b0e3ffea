"""Attention by explicit PyTorch operations, differentiated by PyTorch, in any dtype.

In float64 it is the reference of the device tests; in the tensors' own dtype it is PyTorch's own
low-precision math, whose error is the yardstick (design: at most twice that error).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from device_kernels import Options
from torch.utils._python_dispatch import TorchDispatchMode

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def _multiply(a: torch.Tensor, constant: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of a * constant; `a` holds 32-bit values as int64."""
    low = a * (constant & 0xFFFF)
    high = a * (constant >> 16)
    middle = (low >> 16) + (high & 0xFFFF)
    return (high >> 16) + (middle >> 16), ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: list[torch.Tensor], key: tuple[int, int]) -> list[torch.Tensor]:
    """Philox4x32-10 (Salmon et al., SC 2011) over int64 tensors of 32-bit values."""
    x, y, z, w = counter
    k0, k1 = key
    for _ in range(10):
        hx, lx = _multiply(x, _M0)
        hz, lz = _multiply(z, _M1)
        x, y, z, w = hz ^ y ^ k0, lz, hx ^ w ^ k1, lx
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return [x, y, z, w]


def dropout_matrix(shape: tuple[int, int, int, int], options: Options) -> torch.Tensor | None:
    """Z of the operator contract, `[batch, heads_q, seq_q, seq_kv]` float64, or None."""
    if options.dropout == 0.0:
        return None
    batch, heads, rows, columns = shape
    one = torch.zeros((), dtype=torch.int64)
    derived = philox(
        [
            one + (options.offset & _MASK),
            one + (options.offset >> 32),
            one,
            one,
        ],
        (options.seed & _MASK, options.seed >> 32),
    )
    key = (int(derived[0]), int(derived[1]))
    plane = torch.arange(batch * heads, device="cuda").view(batch, heads, 1, 1)
    i = torch.arange(rows, device="cuda").view(1, 1, rows, 1)
    j = torch.arange(columns, device="cuda").view(1, 1, 1, columns)
    zero = torch.zeros(shape, dtype=torch.int64, device="cuda")
    draws = philox([zero + (j >> 1), zero + (i >> 1), zero + plane, zero], key)
    number = zero + 2 * (i & 1) + (j & 1)
    bits = torch.stack(draws).gather(0, number.unsqueeze(0))[0]
    threshold = min(int(options.dropout * 4294967296.0 + 0.5), 4294967295)
    return (bits >= threshold).to(torch.float64) / (1.0 - options.dropout)


class Tf32Products(TorchDispatchMode):
    """Rounds the operands of every matrix product to TF32, as float32 products on tensor cores do.

    cuBLAS itself uses TF32 for some shapes only, so that its error would be no yardstick.
    """

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls `func`, with rounded operands if it is a matrix product."""
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            args = tuple(self._round(x) for x in args)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _round(x: torch.Tensor) -> torch.Tensor:
        bits = x.float().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).to(x.dtype)


def key_limits(
    options: Options, batch: int, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which keys causal, window, lengths and documents leave, and ALiBi's distances.

    Both broadcast to [batch, 1, rows, columns].
    """
    i = torch.arange(rows, device="cuda").view(rows, 1)
    j = torch.arange(columns, device="cuda").view(1, columns)
    allowed = torch.ones(batch, 1, rows, columns, dtype=torch.bool, device="cuda")
    diagonal = i
    shift: torch.Tensor | int = columns - rows
    if options.cu_seqlens_q is not None and options.cu_seqlens_kv is not None:
        starts_q, starts_kv = options.cu_seqlens_q.long(), options.cu_seqlens_kv.long()
        document = torch.searchsorted(starts_q[1:].contiguous(), i, right=True)
        allowed &= torch.searchsorted(starts_kv[1:].contiguous(), j, right=True) == document
        diagonal = i - starts_q[document] + starts_kv[document]
        shift = starts_kv.diff()[document] - starts_q.diff()[document]
    if options.causal_alignment == "lower_right":
        diagonal = diagonal + shift
    left, right = options.window or (None, None)
    if options.is_causal:
        right = 0
    if left is not None:
        allowed &= j >= diagonal - left
    if right is not None:
        allowed &= j <= diagonal + right
    if options.kv_lengths is not None:
        allowed &= j < options.kv_lengths.long().view(batch, 1, 1, 1)
    return allowed, (diagonal - j).abs().double()


class ExplicitAttention:
    """o and lse as a function of q, k, v and the bias, with the options bound.

    `forbidden` is [batch, heads_q, seq_q, seq_kv]; `bias` (a floating-point mask), `alibi` and
    `zeros` (Z of the operator contract) broadcast to it, or are None.
    """

    def __init__(
        self, q: torch.Tensor, k: torch.Tensor, options: Options, scaled: str = "q"
    ) -> None:
        """`scaled`: what the scale multiplies, "q", "k" or "scores"; it rounds differently."""
        self._scaled = scaled
        rows, columns = q.shape[2], k.shape[2]
        self.group = q.shape[1] // k.shape[1]
        self.scale = max(q.shape[3], 1) ** -0.5 if options.scale is None else options.scale
        shape = (q.shape[0], q.shape[1], rows, columns)
        allowed, distance = key_limits(options, shape[0], rows, columns)
        allowed = allowed.expand(shape)
        self.softcap = options.softcap
        self.alibi: torch.Tensor | None = None
        if (slopes := options.alibi_slopes) is not None:
            self.alibi = -slopes.double().view(-1, shape[1], 1, 1) * distance
        self.bias: torch.Tensor | None = None
        if options.mask is not None:
            if options.mask.dtype is torch.bool:
                allowed = allowed & options.mask
            else:
                allowed = allowed & (options.mask != -torch.inf)
                self.bias = options.mask
        self.forbidden = ~allowed
        self._dead = ~allowed.any(-1, keepdim=True)
        self.zeros = dropout_matrix(shape, options)

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[.., seq_q, head_dim_v] and [.., seq_q], in the dtype of q.

        `bias` stands for that of the options, to be differentiated.
        """
        k = k.repeat_interleave(self.group, dim=1)
        v = v.repeat_interleave(self.group, dim=1)
        if self._scaled == "q":
            s = (q * self.scale) @ k.mT
        elif self._scaled == "k":
            s = q @ (k * self.scale).mT
        else:
            s = (q @ k.mT) * self.scale
        if self.softcap is not None:
            s = self.softcap * torch.tanh(s / self.softcap)
        if self.alibi is not None:
            s = s + self.alibi.to(s.dtype)
        if self.bias is not None:
            bias = self.bias if bias is None else bias
            s = s + bias.masked_fill(self.bias == -torch.inf, 0.0).to(s.dtype)
        s = s.masked_fill(self.forbidden, -torch.inf).masked_fill(self._dead, 0.0)
        p = torch.softmax(s, dim=-1).masked_fill(self._dead, 0.0)
        lse = torch.logsumexp(s, dim=-1).masked_fill(self._dead[..., 0], -torch.inf)
        if self.zeros is not None:
            p = p * self.zeros.to(p.dtype)
        return p @ v, lse


def explicit_outputs(
    operation: str,
    inputs: Mapping[str, torch.Tensor | None],
    options: Options,
    dtype: torch.dtype,
    scaled: str = "q",
) -> dict[str, torch.Tensor]:
    """All outputs of `operation`, computed and differentiated in `dtype`; absent tangents are 0.

    `scaled`: as for `ExplicitAttention`.
    """
    given = {name: None if x is None else x.to(dtype) for name, x in inputs.items()}
    q, k, v = (given[name] for name in ("q", "k", "v"))
    assert q is not None and k is not None and v is not None
    attention = ExplicitAttention(q, k, options, scaled)

    def or_zero(name: str, like: torch.Tensor) -> torch.Tensor:
        x = given.get(name)
        return torch.zeros_like(like) if x is None else x

    names = ["q_bar", "k_bar", "v_bar"]
    primals = (q, k, v)
    tangents = tuple(or_zero(name, x) for name, x in (("q_dot", q), ("k_dot", k), ("v_dot", v)))
    if attention.bias is not None:
        names.append("bias_bar")
        primals += (attention.bias.to(dtype),)
        tangents += (or_zero("bias_dot", primals[3]),)

    def gradients(
        primals: tuple[torch.Tensor, ...], o_bar: torch.Tensor, lse_bar: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        _, pull = torch.func.vjp(attention, *primals)
        return pull((o_bar, lse_bar))

    result: dict[str, torch.Tensor] = {}
    if operation in ("forward", "vjp"):
        result["o"], result["lse"] = attention(*primals)
    else:
        (result["o"], result["lse"]), (result["o_dot"], result["lse_dot"]) = torch.func.jvp(
            attention, primals, tangents
        )
    o_bar = or_zero("o_bar", result["o"])
    lse_bar = or_zero("lse_bar", result["lse"])
    if operation == "vjp":
        result.update(zip(names, gradients(primals, o_bar, lse_bar), strict=True))
    if operation == "hvp":
        cotangent_tangents = (or_zero("o_bar_dot", o_bar), or_zero("lse_bar_dot", lse_bar))
        primal, tangent = torch.func.jvp(
            gradients, (primals, o_bar, lse_bar), (tangents, *cotangent_tangents)
        )
        result.update(zip(names, primal, strict=True))
        result.update(zip((f"{name}_dot" for name in names), tangent, strict=True))
    return result
