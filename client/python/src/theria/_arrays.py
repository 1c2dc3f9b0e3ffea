"""Arrays of the caller <-> strided bytes on the wire.

An array becomes a `HostTensor`: a numpy view of the caller's memory and the framework of the
results. numpy arrays and torch tensors with non-negative strides are not copied. Elements are
serialised in the smaller of two forms: the memory that the view spans, with its strides, or a
row-major copy. Dimensions of stride 0 are sent once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from theria._dtypes import decode_dtype, encode_dtype
from theria._errors import Internal, InvalidArgument
from theria.v1 import tensor_pb2

if TYPE_CHECKING:
    import torch

__all__ = ["ArrayLike", "Framework", "HostTensor", "decode_data", "host_tensor", "to_framework"]

# numpy arrays, torch CPU tensors, and what `numpy.asarray` takes (jax arrays, nested lists).
ArrayLike: TypeAlias = "npt.ArrayLike | torch.Tensor"
Framework: TypeAlias = Literal["numpy", "torch"]
NumpyArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


@dataclass(frozen=True)
class HostTensor:
    """A caller's array, ready to be sent.

    Attributes:
        array: A view of the caller's memory: little-endian, strides of whole elements, none of
            them negative.
        wire_dtype: `theria.v1.DType` of its elements.
        framework: The framework of the array.
    """

    array: NumpyArray
    wire_dtype: tensor_pb2.DType
    framework: Framework

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def payload_bytes(self) -> int:
        """The number of bytes that `write` adds to a message."""
        return self.payload[0].nbytes

    @property
    def memory(self) -> NumpyArray:
        """The elements that `write` sends, one-dimensional; a view if possible."""
        return self.payload[0]

    def write(
        self, message: tensor_pb2.Tensor, part: tensor_pb2.SharedMemoryRef | None = None
    ) -> None:
        """Fills an empty message with dtype, shape, strides and elements.

        Args:
            message: To fill.
            part: The location of the elements in shared memory; None to send them.
        """
        message.dtype = self.wire_dtype
        message.shape.extend(self.array.shape)
        memory, strides = self.payload
        if strides is not None:
            message.strides.extend(strides)
        if part is not None:
            message.shared_memory.CopyFrom(part)
        else:
            message.data = memory.tobytes()

    @cached_property
    def payload(self) -> tuple[NumpyArray, tuple[int, ...] | None]:
        """The elements sent, one-dimensional, and their strides; None for row-major."""
        return _compact(self.array)

    def chunks(self, chunk_bytes: int) -> Iterator[bytes]:
        """The elements, row-major, in pieces of at most `chunk_bytes`."""
        return _row_major_chunks(self.array, chunk_bytes)


def host_tensor(value: ArrayLike, field: str) -> HostTensor:
    """Views `value`. Copies only big-endian arrays and arrays with odd or negative strides.

    Args:
        value: An array, or anything that `numpy.asarray` accepts.
        field: Name of the argument, for errors.

    Raises:
        InvalidArgument: The value is not numeric, has an unsupported dtype, or is a torch tensor
            that is sparse, not on the CPU, or requires a gradient.
    """
    torch = sys.modules.get("torch")
    framework: Framework = "numpy"
    if torch is not None and isinstance(value, torch.Tensor):
        framework = "torch"
        array = _view_torch(value, field)
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InvalidArgument.of(field, f"{field} is no array: {error}") from error
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    wire_dtype = encode_dtype(array.dtype, field)
    if any(s < 0 or s % array.itemsize for s in array.strides):
        array = np.ascontiguousarray(array)
    return HostTensor(array, wire_dtype, framework)


def to_framework(array: NumpyArray, framework: Framework) -> Any:
    """`array` itself, or a torch tensor that shares its memory."""
    if framework == "numpy":
        return array
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def decode_data(message: tensor_pb2.Tensor) -> NumpyArray:
    """A writable row-major array of an inline tensor that the server sent."""
    dtype = decode_dtype(message.dtype)
    shape = tuple(message.shape)
    array = np.empty(shape, dtype)
    if array.nbytes != len(message.data):
        raise Internal(f"the server sent {len(message.data)} bytes for {dtype}{list(shape)}")
    array.reshape(-1).view(np.uint8)[:] = np.frombuffer(message.data, np.uint8)
    return array


def _view_torch(tensor: torch.Tensor, field: str) -> NumpyArray:
    import torch

    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise InvalidArgument.of(
            field,
            f"{field} is a {tensor.layout} tensor on {tensor.device}; expected a strided one on "
            "the CPU",
        )
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument.of(
            field,
            f"{field} requires a gradient, which no result of a client carries: use "
            "theria.torch.sdpa, or detach it",
        )
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        bits: NumpyArray = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    try:
        array: NumpyArray = tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise InvalidArgument.of(f"{field}.dtype", f"{field} cannot be sent: {error}") from error
    return array


def _compact(array: NumpyArray) -> tuple[NumpyArray, tuple[int, ...] | None]:
    """The memory to send, one-dimensional, and its strides in elements; None for row-major.

    The memory is a view if the span of `array` is no larger than its distinct elements.
    """
    if array.flags.c_contiguous:
        return array.reshape(-1), None
    repeated = tuple(s == 0 and n > 1 for s, n in zip(array.strides, array.shape, strict=True))
    core = array[tuple(slice(0, 1) if r else slice(None) for r in repeated)]
    span = 1 + sum(
        (n - 1) * (s // core.itemsize) for s, n in zip(core.strides, core.shape, strict=True)
    )
    if span > core.size:
        core, span = np.ascontiguousarray(core), core.size
    strides = tuple(
        s // core.itemsize if n > 1 else 0 for s, n in zip(core.strides, core.shape, strict=True)
    )
    memory = np.lib.stride_tricks.as_strided(core, (span,), (core.itemsize,), writeable=False)
    return memory, strides


def _row_major_chunks(array: NumpyArray, chunk_bytes: int) -> Iterator[bytes]:
    if array.nbytes <= chunk_bytes:
        yield array.tobytes()
        return
    row_bytes = array.nbytes // len(array)
    if row_bytes > chunk_bytes:
        for row in array:
            yield from _row_major_chunks(row, chunk_bytes)
        return
    rows = chunk_bytes // row_bytes
    for start in range(0, len(array), rows):
        yield array[start : start + rows].tobytes()
