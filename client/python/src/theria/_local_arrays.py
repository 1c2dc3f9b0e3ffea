"""Arrays as the kernels' library reads and writes them: where they are, without a copy.

A place is where one call's tensors live. Its `add_input` describes a caller's array to the library,
`add_output` makes a result of the framework of `q`. An array must be kept alive until the library
has returned; on a CUDA stream the frameworks' allocators see to it from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from theria._arrays import host_tensor
from theria._call_frame import CallFrame
from theria._dtypes import encode_dtype, statistics_dtype
from theria._errors import InvalidArgument
from theria.v1 import tensor_pb2

if TYPE_CHECKING:
    import torch

__all__ = ["DTYPE_CODES", "CudaPlace", "HostPlace", "Place", "TorchDTypes", "torch_dtypes"]

# theria_dtype by the wire's number.
DTYPE_CODES = {
    tensor_pb2.FLOAT64: 0,
    tensor_pb2.FLOAT32: 1,
    tensor_pb2.FLOAT16: 2,
    tensor_pb2.BFLOAT16: 3,
    tensor_pb2.BOOL: 4,
}


class Place(Protocol):
    """See the module."""

    def add_input(self, frame: CallFrame, slot: int, value: Any, field: str) -> Any:
        """Describes `value`; returns what has its shape and must be kept alive."""

    def add_output(self, frame: CallFrame, slot: int, shape: Sequence[int], like: Any) -> Any:
        """A new row-major array of the dtype of `like`, described."""

    def add_statistics(self, frame: CallFrame, slot: int, shape: Sequence[int], like: Any) -> Any:
        """A new array for `lse` or `lse_dot`, described."""


class TorchDTypes:
    """What the library knows of torch's dtypes."""

    def __init__(self, torch_module: Any):
        self.torch = torch_module
        self.codes = {
            torch_module.float64: 0,
            torch_module.float32: 1,
            torch_module.float16: 2,
            torch_module.bfloat16: 3,
            torch_module.bool: 4,
        }

    def check(self, tensor: torch.Tensor, field: str) -> int:
        """The dtype's number in the library.

        Raises:
            InvalidArgument: `tensor` requires a gradient, or is of another dtype.
        """
        if tensor.requires_grad and self.torch.is_grad_enabled():
            raise InvalidArgument.of(
                field,
                f"{field} requires a gradient, which no result of a client carries: use "
                "theria.torch.sdpa, or detach it",
            )
        code = self.codes.get(tensor.dtype)
        if code is None:
            raise InvalidArgument.of(
                f"{field}.dtype",
                f"{field} has dtype {str(tensor.dtype).removeprefix('torch.')}; expected float64, "
                "float32, float16, bfloat16 or, for a mask, bool",
            )
        return code

    def output(
        self,
        frame: CallFrame,
        slot: int,
        shape: Sequence[int],
        like: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """A new row-major tensor on the device of `like`, described to the library."""
        # Without arguments where that says enough: they take longer to parse than the rest does.
        tensor = (
            like.new_empty(shape) if dtype is like.dtype else like.new_empty(shape, dtype=dtype)
        )
        frame.set_row_major(slot, tensor.data_ptr(), self.codes[dtype], shape)
        return tensor

    def statistics(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of `lse` for inputs of `dtype`."""
        torch_module = self.torch
        found: torch.dtype = (
            torch_module.float64 if dtype == torch_module.float64 else torch_module.float32
        )
        return found


_torch_dtypes: TorchDTypes | None = None


def torch_dtypes(torch_module: Any) -> TorchDTypes:
    """Of the torch that the caller has imported."""
    global _torch_dtypes
    if _torch_dtypes is None:
        _torch_dtypes = TorchDTypes(torch_module)
    return _torch_dtypes


class HostPlace:
    """Host memory: numpy arrays, torch CPU tensors, and what `numpy.asarray` takes.

    Args:
        dtypes: None if torch is not imported, so that no argument is a tensor.
        gives_torch: Whether results are torch tensors.
    """

    def __init__(self, dtypes: TorchDTypes | None, gives_torch: bool):
        self._dtypes = dtypes
        self._gives_torch = gives_torch

    def add_input(self, frame: CallFrame, slot: int, value: Any, field: str) -> Any:
        dtypes = self._dtypes
        if dtypes is not None and isinstance(value, dtypes.torch.Tensor):
            if not value.is_cpu or value.layout is not dtypes.torch.strided:
                host_tensor(value, field)  # says what is wrong
            code = dtypes.check(value, field)
            if value.is_neg():
                value = value.resolve_neg()
            frame.set_tensor(slot, value.data_ptr(), code, value.shape, value.stride())
            return value
        array = host_tensor(value, field).array
        itemsize = array.itemsize
        frame.set_tensor(
            slot,
            array.__array_interface__["data"][0],
            DTYPE_CODES[encode_dtype(array.dtype, field)],
            array.shape,
            [stride // itemsize for stride in array.strides],
        )
        return array

    def add_output(self, frame: CallFrame, slot: int, shape: Sequence[int], like: Any) -> Any:
        if self._gives_torch and self._dtypes is not None:
            return self._dtypes.output(frame, slot, shape, like, like.dtype)
        return self._numpy_output(frame, slot, shape, like.dtype)

    def add_statistics(self, frame: CallFrame, slot: int, shape: Sequence[int], like: Any) -> Any:
        if self._gives_torch and self._dtypes is not None:
            statistics = self._dtypes.statistics(like.dtype)
            return self._dtypes.output(frame, slot, shape, like, statistics)
        return self._numpy_output(frame, slot, shape, statistics_dtype(like.dtype))

    def _numpy_output(
        self, frame: CallFrame, slot: int, shape: Sequence[int], dtype: np.dtype[Any]
    ) -> Any:
        array = np.empty(shape, dtype)
        code = DTYPE_CODES[encode_dtype(dtype, "output")]
        frame.set_row_major(slot, array.__array_interface__["data"][0], code, shape)
        return array


class CudaPlace:
    """The memory of one CUDA device: torch tensors there."""

    def __init__(self, dtypes: TorchDTypes, ordinal: int):
        self._dtypes = dtypes
        self._ordinal = ordinal
        self._device = dtypes.torch.device("cuda", ordinal)

    def add_input(self, frame: CallFrame, slot: int, value: Any, field: str) -> Any:
        torch_module = self._dtypes.torch
        if not isinstance(value, torch_module.Tensor):
            raise InvalidArgument.of(
                field,
                f"{field} is a {type(value).__qualname__}; expected a torch tensor on "
                f"{self._device}, the device of q",
            )
        if (
            not value.is_cuda
            or value.get_device() != self._ordinal
            or value.layout is not torch_module.strided
        ):
            raise InvalidArgument.of(
                field,
                f"{field} is a {value.layout} tensor on {value.device}; expected a strided one on "
                f"{self._device}, the device of q",
            )
        code = self._dtypes.check(value, field)
        if value.is_neg():
            value = value.resolve_neg()
        frame.set_tensor(slot, value.data_ptr(), code, value.shape, value.stride())
        return value

    def add_output(self, frame: CallFrame, slot: int, shape: Sequence[int], like: Any) -> Any:
        return self._dtypes.output(frame, slot, shape, like, like.dtype)

    def add_statistics(self, frame: CallFrame, slot: int, shape: Sequence[int], like: Any) -> Any:
        statistics = self._dtypes.statistics(like.dtype)
        return self._dtypes.output(frame, slot, shape, like, statistics)
