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
        return self._answer("forward", _Problem(q, k, v, options).forward(), q, options)

    def vjp(
        self, q: Tensor, k: Tensor, v: Tensor, o_bar: Tensor, **options: Any
    ) -> SimpleNamespace:
        outputs = _Problem(q, k, v, options).hvp(o_bar, None, None, None, None)
        return self._answer("vjp", outputs, q, options)

    def jvp(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_dot: Tensor | None,
        k_dot: Tensor | None,
        v_dot: Tensor | None,
        **options: Any,
    ) -> SimpleNamespace:
        outputs = _Problem(q, k, v, options).hvp(torch.zeros(()), q_dot, k_dot, v_dot, None)
        return self._answer("jvp", outputs, q, options)

    def hvp(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o_bar: Tensor,
        q_dot: Tensor | None,
        k_dot: Tensor | None,
        v_dot: Tensor | None,
        o_bar_dot: Tensor | None = None,
        **options: Any,
    ) -> SimpleNamespace:
        outputs = _Problem(q, k, v, options).hvp(o_bar, q_dot, k_dot, v_dot, o_bar_dot)
        return self._answer("hvp", outputs, q, options)

    def _answer(
        self,
        operation: str,
        outputs: dict[str, Array],
        q: Tensor,
        options: dict[str, Any],
    ) -> SimpleNamespace:
        self.calls[operation] = self.calls.get(operation, 0) + 1
        statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
        asked = [name for name, mode in options["outputs"].items() if mode == "inline"]
        return SimpleNamespace(
            **{
                name: torch.tensor(outputs[name]).to(statistics if name == "lse" else q.dtype)
                for name in asked
            }
        )


class _Problem:
    def __init__(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> None:
        known = {"attn_mask", "dropout_p", "dropout_seed", "dropout_offset", "is_causal", "window"}
        known |= {"scale", "implementation", "precision", "outputs", "o", "lse"}
        assert set(options) <= known, set(options) - known
        assert q.ndim == k.ndim == v.ndim == 4
        self.group = q.shape[1] // k.shape[1]
        self.q, self.k, self.v = _float64(q), self._repeat(k), self._repeat(v)
        scale = options.get("scale")
        self.scale = float(scale if scale is not None else 1.0 / np.sqrt(q.shape[-1]))
        scores = self.scale * self.q @ self.k.swapaxes(-1, -2) + self._bias(options)
        peak = scores.max(-1, keepdims=True)
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
        summed: Array = x.reshape(batch, heads // self.group, self.group, *rest).sum(2)
        return summed

    def _bias(self, options: dict[str, Any]) -> Array:
        i, j = np.arange(self.q.shape[2])[:, None], np.arange(self.k.shape[2])[None, :]
        allowed = (j <= i) if options.get("is_causal") else np.ones_like(i + j, dtype=bool)
        left, right = options.get("window") or (None, None)
        if left is not None:
            allowed = allowed & (j >= i - left)
        if right is not None:
            allowed = allowed & (j <= i + right)
        bias = np.where(allowed, 0.0, -np.inf)
        mask = options.get("attn_mask")
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            return bias + np.where(mask.numpy(), 0.0, -np.inf)
        return bias + _float64(mask)

    def _dropout(self, options: dict[str, Any]) -> Array:
        p = options.get("dropout_p", 0.0)
        if not p:
            return np.ones_like(self.p)
        key = np.array([options["dropout_seed"], options["dropout_offset"]], np.uint64)
        draws = np.random.Generator(np.random.Philox(key=key)).random(self.p.shape)
        kept: Array = (draws >= p) / (1.0 - p)
        return kept

    def forward(self) -> dict[str, Array]:
        return {"o": self.o, "lse": self.lse}

    def hvp(
        self,
        o_bar: Tensor,
        q_dot: Tensor | None,
        k_dot: Tensor | None,
        v_dot: Tensor | None,
        o_bar_dot: Tensor | None,
    ) -> dict[str, Array]:
        q, k, v, p, z, scale = self.q, self.k, self.v, self.p, self.z, self.scale
        u = _float64(o_bar) + np.zeros_like(self.o)
        dq = np.zeros_like(q) if q_dot is None else _float64(q_dot)
        dk = np.zeros_like(k) if k_dot is None else self._repeat(k_dot)
        dv = np.zeros_like(v) if v_dot is None else self._repeat(v_dot)
        du = np.zeros_like(u) if o_bar_dot is None else _float64(o_bar_dot)
        s_bar = p * ((u @ _t(v)) * z - _rowsum(u * self.o))
        s_dot = scale * (dq @ _t(k) + q @ _t(dk))
        mu = _rowsum(p * s_dot)
        p_dot = p * (s_dot - mu)
        o_dot = (p_dot * z) @ v + (p * z) @ dv
        p_bar_dot = (du @ _t(v) + u @ _t(dv)) * z
        delta_dot = _rowsum(du * self.o + u * o_dot)
        s_bar_dot = s_bar * (s_dot - mu) + p * (p_bar_dot - delta_dot)
        return {
            "o": self.o,
            "lse": self.lse,
            "o_dot": o_dot,
            "q_bar": scale * s_bar @ k,
            "k_bar": self._sum_group(scale * _t(s_bar) @ q),
            "v_bar": self._sum_group(_t(p * z) @ u),
            "q_bar_dot": scale * (s_bar_dot @ k + s_bar @ dk),
            "k_bar_dot": self._sum_group(scale * (_t(s_bar_dot) @ q + _t(s_bar) @ dq)),
            "v_bar_dot": self._sum_group(_t(p_dot * z) @ u + _t(p * z) @ du),
        }


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
