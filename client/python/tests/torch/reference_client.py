"""An in-process stand-in for `theria.Client`: the operator contract in explicit float64 numpy.

Takes and returns torch tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Tensor = torch.Tensor
Array = npt.NDArray[Any]


@dataclass
class ReferenceClient:
    """Answers as the server does, and counts the calls by operation."""

    calls: dict[str, int] = field(default_factory=dict)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> SimpleNamespace:
        return self._answer("forward", q, k, v, {}, options)

    def vjp(
        self, q: Tensor, k: Tensor, v: Tensor, o_bar: Tensor | None = None, **options: Any
    ) -> SimpleNamespace:
        return self._answer("vjp", q, k, v, {"o_bar": o_bar}, options)

    def jvp(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_dot: Tensor | None = None,
        k_dot: Tensor | None = None,
        v_dot: Tensor | None = None,
        **options: Any,
    ) -> SimpleNamespace:
        given = {"q_dot": q_dot, "k_dot": k_dot, "v_dot": v_dot}
        return self._answer("jvp", q, k, v, given, options)

    def hvp(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o_bar: Tensor | None = None,
        q_dot: Tensor | None = None,
        k_dot: Tensor | None = None,
        v_dot: Tensor | None = None,
        o_bar_dot: Tensor | None = None,
        **options: Any,
    ) -> SimpleNamespace:
        given = {"q_dot": q_dot, "k_dot": k_dot, "v_dot": v_dot, "o_bar_dot": o_bar_dot}
        return self._answer("hvp", q, k, v, {"o_bar": o_bar, **given}, options)

    def _answer(
        self,
        operation: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        given: dict[str, Tensor | None],
        options: dict[str, Any],
    ) -> SimpleNamespace:
        for name in ("lse_bar", "lse_bar_dot", "bias_dot"):
            given[name] = options.pop(name, None)
        outputs = _Problem(q, k, v, options).results(given)
        self.calls[operation] = self.calls.get(operation, 0) + 1
        statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
        asked = [name for name, mode in options["outputs"].items() if mode == "inline"]

        def dtype(name: str) -> torch.dtype:
            if name.startswith("bias"):
                found: torch.dtype = options["attn_mask"].dtype
                return found
            return statistics if name.startswith("lse") else q.dtype

        return SimpleNamespace(
            **{name: torch.tensor(outputs[name]).to(dtype(name)) for name in asked}
        )


class _Problem:
    def __init__(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> None:
        known = {"attn_mask", "dropout_p", "dropout_seed", "dropout_offset", "is_causal", "window"}
        known |= {"scale", "implementation", "precision", "outputs", "o", "lse", "softcap"}
        known |= {"causal_alignment", "alibi_slopes", "kv_lengths", "cu_seqlens_q", "cu_seqlens_kv"}
        known |= {"deterministic"}
        assert set(options) <= known, set(options) - known
        assert q.ndim == k.ndim == v.ndim == 4
        self.group = q.shape[1] // max(k.shape[1], 1)
        self.q, self.k, self.v = _float64(q), self._repeat(k), self._repeat(v)
        scale = options.get("scale")
        self.scale = float(scale if scale is not None else 1.0 / np.sqrt(q.shape[-1]))
        scores = self.scale * self.q @ self.k.swapaxes(-1, -2)
        cap = options.get("softcap") or np.inf
        self.t = np.tanh(scores / cap)
        self.w, self.bend = 1 - self.t**2, 2 / cap * self.t * (1 - self.t**2)
        if np.isfinite(cap):
            scores = cap * self.t
        self.bias = options.get("attn_mask")
        scores = scores + self._added(options)
        peak = scores.max(-1, keepdims=True, initial=-np.inf)
        peak = np.where(np.isfinite(peak), peak, 0.0)
        weights = np.exp(scores - peak)
        total = weights.sum(-1, keepdims=True)
        self.p = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        with np.errstate(divide="ignore"):
            self.lse = (np.log(total) + peak)[..., 0]
        self.z = self._dropout(options)
        self.o = (self.p * self.z) @ self.v
        if "o" in options:
            np.testing.assert_allclose(_float64(options["o"]), self.o, rtol=2e-2, atol=2e-2)
            np.testing.assert_allclose(_float64(options["lse"]), self.lse, rtol=1e-5, atol=1e-5)

    def _repeat(self, x: Tensor) -> Array:
        return np.repeat(_float64(x), self.group, axis=1)

    def _sum_group(self, x: Array) -> Array:
        batch, heads, *rest = x.shape
        group = max(self.group, 1)
        summed: Array = x.reshape(batch, heads // group, group, *rest).sum(2)
        return summed

    def _added(self, options: dict[str, Any]) -> Array:
        """Mask, ALiBi and what is forbidden, [batch, heads, seq_q, seq_kv]."""
        rows, columns = self.q.shape[2], self.k.shape[2]
        starts_q, starts_kv = options.get("cu_seqlens_q"), options.get("cu_seqlens_kv")
        starts_q = [0, rows] if starts_q is None else starts_q.tolist()
        starts_kv = [0, columns] if starts_kv is None else starts_kv.tolist()
        ahead = np.full((rows, columns), np.inf)  # how far key j is ahead of row i
        for q0, q1, k0, k1 in zip(
            starts_q[:-1], starts_q[1:], starts_kv[:-1], starts_kv[1:], strict=True
        ):
            lower = options.get("causal_alignment") == "lower_right"
            offset = (k1 - k0) - (q1 - q0) if lower else 0
            i, j = np.arange(q1 - q0)[:, None] + offset, np.arange(k1 - k0)
            ahead[q0:q1, k0:k1] = j - i
        allowed = np.isfinite(ahead)
        left, right = options.get("window") or (None, None)
        if options.get("is_causal"):
            allowed &= ahead <= 0
        if left is not None:
            allowed &= ahead >= -left
        if right is not None:
            allowed &= ahead <= right
        allowed = np.broadcast_to(allowed, (self.q.shape[0], 1, rows, columns))
        if (lengths := options.get("kv_lengths")) is not None:
            allowed = allowed & (np.arange(columns) < lengths.numpy()[:, None, None, None])
        added = np.where(allowed, 0.0, -np.inf)
        if (slopes := options.get("alibi_slopes")) is not None:
            slopes = _float64(slopes).reshape(-1, self.q.shape[1], 1, 1)
            added = added - slopes * np.abs(np.where(np.isfinite(ahead), ahead, 0.0))
        mask = options.get("attn_mask")
        if mask is None:
            return added
        if mask.dtype == torch.bool:
            return added + np.where(mask.numpy(), 0.0, -np.inf)
        return added + _float64(mask)

    def _dropout(self, options: dict[str, Any]) -> Array:
        p = options.get("dropout_p", 0.0)
        if not p:
            return np.ones_like(self.p)
        key = np.array([options["dropout_seed"], options["dropout_offset"]], np.uint64)
        draws = np.random.Generator(np.random.Philox(key=key)).random(self.p.shape)
        kept: Array = (draws >= p) / (1.0 - p)
        return kept

    def results(self, given: dict[str, Tensor | None]) -> dict[str, Array]:
        """Every output of every operation; what is not given is zero."""
        q, k, v, p, z, scale = self.q, self.k, self.v, self.p, self.z, self.scale

        def rows(name: str, like: Array) -> Array:
            x = given.get(name)
            return np.zeros_like(like) if x is None else _float64(x)

        def keys(name: str, like: Array) -> Array:
            x = given.get(name)
            return np.zeros_like(like) if x is None else self._repeat(x)

        u, du = rows("o_bar", self.o), rows("o_bar_dot", self.o)
        statistic = p[..., :1].sum(-1, keepdims=True) * 0.0
        b = rows("lse_bar", statistic[..., 0])[..., None]
        db = rows("lse_bar_dot", statistic[..., 0])[..., None]
        dq, dk, dv = rows("q_dot", q), keys("k_dot", k), keys("v_dot", v)
        bias_dot = given.get("bias_dot")
        s_bar = p * ((u @ _t(v)) * z - _rowsum(u * self.o) + b)
        u_dot = scale * (dq @ _t(k) + q @ _t(dk))
        s_dot = self.w * u_dot + (0.0 if bias_dot is None else _float64(bias_dot))
        s_dot = np.where(p > 0, s_dot, 0.0)
        mu = _rowsum(p * s_dot)
        p_dot = p * (s_dot - mu)
        o_dot = (p_dot * z) @ v + (p * z) @ dv
        p_bar_dot = (du @ _t(v) + u @ _t(dv)) * z
        delta_dot = _rowsum(du * self.o + u * o_dot)
        s_bar_dot = s_bar * (s_dot - mu) + p * (p_bar_dot - delta_dot + db)
        u_bar, u_bar_dot = self.w * s_bar, self.w * s_bar_dot - self.bend * u_dot * s_bar
        return {
            "o": self.o,
            "lse": self.lse,
            "o_dot": o_dot,
            "lse_dot": mu[..., 0],
            "q_bar": scale * u_bar @ k,
            "k_bar": self._sum_group(scale * _t(u_bar) @ q),
            "v_bar": self._sum_group(_t(p * z) @ u),
            "bias_bar": self._like_bias(s_bar),
            "q_bar_dot": scale * (u_bar_dot @ k + u_bar @ dk),
            "k_bar_dot": self._sum_group(scale * (_t(u_bar_dot) @ q + _t(u_bar) @ dq)),
            "v_bar_dot": self._sum_group(_t(p_dot * z) @ u + _t(p * z) @ du),
            "bias_bar_dot": self._like_bias(s_bar_dot),
        }

    def _like_bias(self, x: Array) -> Array:
        """Summed over what the mask is broadcast over."""
        if self.bias is None:
            return x
        shape = (1,) * (4 - self.bias.ndim) + tuple(self.bias.shape)
        axes = tuple(axis for axis, extent in enumerate(shape) if extent == 1)
        summed: Array = x.sum(axes, keepdims=True)
        return summed.reshape(self.bias.shape)


def _float64(x: Tensor) -> Array:
    assert not x.requires_grad
    array: Array = x.double().numpy()
    return array


def _t(x: Array) -> Array:
    transposed: Array = x.swapaxes(-1, -2)
    return transposed


def _rowsum(x: Array) -> Array:
    total: Array = x.sum(-1, keepdims=True)
    return total
