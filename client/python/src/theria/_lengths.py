"""Lengths and offsets among the options: `kv_lengths`, `cu_seqlens_q`, `cu_seqlens_kv`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from theria._errors import InvalidArgument
from theria._resident import ResidentTensor

__all__ = ["as_int32", "check_lengths"]

_INT32 = np.iinfo(np.int32)


def as_int32(value: Any, field: str) -> Any:
    """`value`, where it is an array of other integers or a sequence of them, as int32.

    Raises:
        InvalidArgument: A number that int32 cannot hold.
    """
    if isinstance(value, ResidentTensor):
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        is_integer = value.dtype in (torch.int64, torch.int16, torch.int8, torch.uint8)
        return value.to(torch.int32) if is_integer else value
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.dtype == np.int32:
        return array
    if array.size and not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise InvalidArgument.of(field, f"{field} has numbers that int32 cannot hold")
    return array.astype(np.int32)


def check_lengths(tensors: Mapping[str, Any], seq_q: int, seq_kv: int) -> None:
    """Checks the values of lengths in host memory, as a server does.

    Args:
        tensors: One-dimensional, by their paths in a request; of others none is looked at.
        seq_q: Rows of q.
        seq_kv: Rows of k.

    Raises:
        InvalidArgument: Names the element: ``options.cu_seqlens_q[2]``.
    """
    lengths = _host_values(tensors.get("options.kv_lengths"))
    for index, length in enumerate(lengths):
        if not 0 <= length <= seq_kv:
            raise _invalid("kv_lengths", index, length, f"must be in [0, {seq_kv}]")
    for name, end in (("cu_seqlens_q", seq_q), ("cu_seqlens_kv", seq_kv)):
        starts = _host_values(tensors.get(f"options.{name}"))
        for index, start in enumerate(starts):
            if index == 0 and start != 0:
                raise _invalid(name, index, start, "must be 0")
            if index > 0 and start < starts[index - 1]:
                raise _invalid(name, index, start, f"must be at least {starts[index - 1]}")
        if starts and starts[-1] != end:
            raise _invalid(name, len(starts) - 1, starts[-1], f"must be {end}")


def _host_values(tensor: Any) -> list[int]:
    """The elements; none of a tensor that is absent, on a device, or no vector of integers."""
    if tensor is None or getattr(tensor, "is_cuda", False):
        return []
    array = np.asarray(getattr(tensor, "array", tensor))
    return array.tolist() if array.ndim == 1 and array.dtype == np.int32 else []


def _invalid(name: str, index: int, value: int, rule: str) -> InvalidArgument:
    field = f"options.{name}[{index}]"
    return InvalidArgument.of(field, f"{field} is {value}, {rule}")
