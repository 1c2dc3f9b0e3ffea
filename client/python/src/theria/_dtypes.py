"""Element types: numpy (and ml_dtypes) <-> the wire."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from theria._errors import Internal, InvalidArgument
from theria.v1 import tensor_pb2

__all__ = ["decode_dtype", "encode_dtype", "statistics_dtype"]

_NUMPY_BY_WIRE: dict[tensor_pb2.DType, np.dtype[Any]] = {
    tensor_pb2.FLOAT64: np.dtype("<f8"),
    tensor_pb2.FLOAT32: np.dtype("<f4"),
    tensor_pb2.FLOAT16: np.dtype("<f2"),
    tensor_pb2.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    tensor_pb2.BOOL: np.dtype(np.bool_),
    tensor_pb2.INT32: np.dtype("<i4"),
}
_WIRE_BY_NUMPY = {dtype: wire for wire, dtype in _NUMPY_BY_WIRE.items()}


def encode_dtype(dtype: np.dtype[Any], field: str) -> tensor_pb2.DType:
    """The wire's number of a little-endian dtype. `field` names the argument in the error."""
    try:
        return _WIRE_BY_NUMPY[dtype]
    except KeyError:
        raise InvalidArgument.of(
            f"{field}.dtype",
            f"{field} has dtype {dtype}; expected float64, float32, float16, bfloat16 or, for a "
            "mask, bool",
        ) from None


def decode_dtype(wire: tensor_pb2.DType) -> np.dtype[Any]:
    """The dtype of a tensor that the server sent."""
    try:
        return _NUMPY_BY_WIRE[wire]
    except KeyError:
        raise Internal(f"the server sent a tensor of unknown dtype {wire}") from None


def statistics_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of `lse` and `lse_dot` for inputs of `dtype`."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
