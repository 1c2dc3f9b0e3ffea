"""Attention and its derivatives in float64 over visible pairs only, by the operator contract.

`explicit_attention` lets PyTorch multiply forbidden pairs by 0, which is NaN where an operand is
not finite. Here a forbidden pair contributes nothing, whatever its operands hold, and a visible one
that is not finite makes the sums that it takes part in NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from device_kernels import Options
from explicit_attention import ExplicitAttention


def _sum(weights: torch.Tensor, rows: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The product of weights and rows over visible pairs; NaN where one of those is not finite."""
    finite = torch.isfinite(weights) | ~visible
    clean = torch.where(visible & finite, weights, 0.0) @ torch.nan_to_num(rows, 0.0, 0.0, 0.0)
    spoiled = visible.double() @ (~torch.isfinite(rows)).double() > 0
    spoiled |= (~finite).any(-1, keepdim=True)
    return torch.where(spoiled, torch.nan, clean)


def _rank_four(shape: torch.Size) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + tuple(shape)


def visible_outputs(
    operation: str, inputs: Mapping[str, torch.Tensor | None], options: Options
) -> dict[str, torch.Tensor]:
    """All outputs of `operation`, [batch, heads, seq, dim] float64; absent tangents are 0."""
    x = {name: None if t is None else t.double() for name, t in inputs.items()}
    q, k, v = x["q"], x["k"], x["v"]
    assert q is not None and k is not None and v is not None
    attention = ExplicitAttention(q, k, options)
    group, scale = attention.group, attention.scale
    visible = ~attention.forbidden

    def of_keys(name: str, like: torch.Tensor) -> torch.Tensor:
        tensor = x.get(name)
        tensor = torch.zeros_like(like) if tensor is None else tensor
        return tensor.repeat_interleave(group, dim=1)

    def of_queries(name: str, like: torch.Tensor) -> torch.Tensor:
        tensor = x.get(name)
        return torch.zeros_like(like) if tensor is None else tensor

    def pairs(matrix: torch.Tensor) -> torch.Tensor:
        return torch.where(visible, matrix, 0.0)

    k_dot, v_dot = of_keys("k_dot", k), of_keys("v_dot", v)
    k, v = of_keys("k", k), of_keys("v", v)
    like_o = q.new_zeros(*q.shape[:3], v.shape[3])
    q_dot, o_bar = of_queries("q_dot", q), of_queries("o_bar", like_o)
    o_bar_dot = of_queries("o_bar_dot", like_o)
    like_lse = q.new_zeros(q.shape[:3])
    lse_bar, lse_bar_dot = (
        of_queries(name, like_lse)[..., None] for name in ("lse_bar", "lse_bar_dot")
    )

    s = scale * q @ k.mT
    u_dot = pairs(scale * (q_dot @ k.mT + q @ k_dot.mT))
    slope, bend = torch.ones_like(s), torch.zeros_like(s)
    if attention.softcap is not None:
        t = torch.tanh(s / attention.softcap)
        s = attention.softcap * t
        slope = 1 - t**2
        bend = pairs(2 / attention.softcap * t * slope * u_dot)
    if attention.alibi is not None:
        s = s + attention.alibi
    if attention.bias is not None:
        s = s + attention.bias.double()
    s = torch.where(visible, s, -torch.inf)
    maximum = s.amax(-1, keepdim=True)
    dead = ~visible.any(-1, keepdim=True)
    e = pairs(torch.exp(s - torch.where(dead, 0.0, maximum)))
    total = e.sum(-1, keepdim=True)
    p = e / torch.where(dead, 1.0, total)
    z = attention.zeros if attention.zeros is not None else torch.ones_like(p)
    s_dot = pairs(slope * u_dot)
    if (bias_dot := x.get("bias_dot")) is not None:
        s_dot = pairs(s_dot + bias_dot)
    mu = (p * s_dot).sum(-1, keepdim=True)
    p_dot = pairs(p * (s_dot - mu))
    result = {
        "o": _sum(p * z, v, visible),
        "lse": torch.where(dead, -torch.inf, maximum + total.log())[..., 0],
    }
    if operation in ("jvp", "hvp"):
        result["o_dot"] = _sum(p_dot * z, v, visible) + _sum(p * z, v_dot, visible)
        result["lse_dot"] = mu[..., 0]
    if operation in ("forward", "jvp"):
        return result

    p_bar = pairs(z * (o_bar @ v.mT))
    delta = (p * p_bar).sum(-1, keepdim=True) - lse_bar
    s_bar = pairs(p * (p_bar - delta))
    p_bar_dot = pairs(z * (o_bar_dot @ v.mT + o_bar @ v_dot.mT))
    delta_dot = (p_dot * p_bar + p * p_bar_dot).sum(-1, keepdim=True) - lse_bar_dot
    s_bar_dot = pairs(s_bar * (s_dot - mu) + p * (p_bar_dot - delta_dot))

    if attention.bias is not None:
        result["bias_bar"] = s_bar.sum_to_size(_rank_four(attention.bias.shape))
        result["bias_bar_dot"] = s_bar_dot.sum_to_size(_rank_four(attention.bias.shape))
        for name in ("bias_bar", "bias_bar_dot"):
            result[name] = result[name].reshape(attention.bias.shape)
    s_bar_dot = pairs(slope * s_bar_dot - bend * s_bar)
    s_bar = pairs(slope * s_bar)

    def grouped(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(1, (-1, group)).sum(2)

    columns = visible.mT
    result["q_bar"] = scale * _sum(s_bar, k, visible)
    result["k_bar"] = grouped(scale * _sum(s_bar.mT, q, columns))
    result["v_bar"] = grouped(_sum((p * z).mT, o_bar, columns))
    if operation == "hvp":
        result["q_bar_dot"] = scale * (_sum(s_bar_dot, k, visible) + _sum(s_bar, k_dot, visible))
        result["k_bar_dot"] = grouped(
            scale * (_sum(s_bar_dot.mT, q, columns) + _sum(s_bar.mT, q_dot, columns))
        )
        result["v_bar_dot"] = grouped(
            _sum((p_dot * z).mT, o_bar, columns) + _sum((p * z).mT, o_bar_dot, columns)
        )
    return result
