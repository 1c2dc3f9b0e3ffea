"""The attention problem of a classification, with directions of differentiation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch

__all__ = ["Attention", "Problem"]

Attention: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Problem:
    """Standard normal tensors, the same numbers for every dtype and device up to rounding.

    The numbers are drawn in float64 on the CPU and rounded to `dtype`. The float64 reference starts
    from the rounded numbers, so rounding of the inputs is not counted as an error.

    Attributes:
        batch: As in q [batch, heads, seq_q, head_dim].
        heads: The same; k and v have as many.
        seq_q: The same.
        seq_kv: As in k and v [batch, heads, seq_kv, head_dim].
        head_dim: A multiple of 8, which PyTorch's half-precision kernels require.
        seed: Of the generator.
        dtype: Of all tensors.
        device: Of all tensors.
        rounded_to: A dtype that the numbers are rounded to first.
    """

    batch: int = 2
    heads: int = 2
    seq_q: int = 64
    seq_kv: int = 48
    head_dim: int = 32
    seed: int = 0
    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    rounded_to: torch.dtype | None = None
    _drawn: dict[str, torch.Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "seq_q", "seq_kv", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not isinstance(self.dtype, torch.dtype):
            raise ValueError(f"dtype is {self.dtype!r}, must be a torch.dtype")
        q = (self.batch, self.heads, self.seq_q, self.head_dim)
        kv = (self.batch, self.heads, self.seq_kv, self.head_dim)
        shapes = {"q": q, "k": kv, "v": kv, "o_bar": q}
        generator = torch.Generator().manual_seed(self.seed)
        names = [*shapes, *(f"{name}_dot" for name in shapes), *(f"g_{n}" for n in ("q", "k", "v"))]
        drawn = {
            name: torch.randn(
                shapes[name.removeprefix("g_").removesuffix("_dot")],
                generator=generator,
                dtype=torch.float64,
            )
            .to(self.rounded_to or self.dtype)
            .to(self.device, self.dtype)
            for name in names
        }
        object.__setattr__(self, "_drawn", drawn)

    def __getitem__(self, name: str) -> torch.Tensor:
        """q, k, v, o_bar; their tangents q_dot .. o_bar_dot; g_q, g_k, g_v, cotangents of the VJP.

        Each call returns new tensors, so that a callable that writes to one does not affect others.
        """
        return self._drawn[name].clone()

    def in_float64(self) -> Problem:
        """The same numbers, rounded to `dtype`, in float64 on the CPU."""
        return replace(self, dtype=torch.float64, device="cpu", rounded_to=self.dtype)
