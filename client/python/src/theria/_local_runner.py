"""Runners of the kernels' binding, for arrays where they are: host memory, or that of a GPU."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from theria._arrays import host_tensor
from theria._dtypes import decode_dtype
from theria._errors import InvalidArgument
from theria._kernels_library import KernelsLibrary
from theria._local_context import LocalContext
from theria.v1 import tensor_pb2

if TYPE_CHECKING:
    import torch
    from theria_kernels import _binding

__all__ = ["DTYPES", "DTYPE_CODES", "new_array", "runner_in_place", "use_torch"]

# theria_dtype is the place in this tuple.
_DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16", "bool", "int32")
_WIRE_DTYPES = (
    tensor_pb2.FLOAT64,
    tensor_pb2.FLOAT32,
    tensor_pb2.FLOAT16,
    tensor_pb2.BFLOAT16,
    tensor_pb2.BOOL,
    tensor_pb2.INT32,
)
DTYPES = tuple(map(decode_dtype, _WIRE_DTYPES))
DTYPE_CODES = {wire: code for code, wire in enumerate(_WIRE_DTYPES)}


@functools.cache
def use_torch(library: KernelsLibrary) -> bool:
    """Lets the binding read torch tensors, for a process that has imported torch.

    Returns:
        False for a torch before 2.10, whose tensors `convert` describes.
    """
    torch_module = sys.modules["torch"]
    capsule = getattr(torch_module.Tensor, "__dlpack_c_exchange_api__", None)
    is_read_in_place: bool = library.binding.use_torch(
        torch_module.Tensor,
        torch_module.nn.Parameter,
        capsule,
        torch_module.is_grad_enabled,
        torch_module.empty_like,
        torch_module.float32,
    )
    return is_read_in_place


def runner_in_place(context: LocalContext) -> _binding.Runner:
    """Runs calls on host arrays on the CPU, on torch tensors of the device on a GPU.

    On a GPU it enqueues them on PyTorch's current stream, with workspace of its caching allocator:
    one block of the size that an earlier call of that kind reported. The allocator knows the
    stream, so that a block freed on return serves only later work of the same stream.
    """
    runner = context.runners.get("in place")
    if runner is None:
        make = _cuda_runner if context.is_cuda else _host_runner
        runner = context.runners["in place"] = make(context)
    return runner


def new_array(q: Any, dtype: int, shape: tuple[int, ...]) -> Any:
    """A row-major torch tensor on the device of `q` if that is one, else a numpy array."""
    torch_module = sys.modules.get("torch")
    if torch_module is not None and isinstance(q, torch_module.Tensor):
        name = _DTYPE_NAMES[dtype]
        return torch_module.empty(shape, dtype=getattr(torch_module, name), device=q.device)
    return np.empty(shape, DTYPES[dtype])


def _host_runner(context: LocalContext) -> _binding.Runner:
    library = context.library
    runner: _binding.Runner = library.binding.Runner(
        library.functions, context.address, False, 0, True, _on_host, new_array, library.fail
    )
    return runner


def _cuda_runner(context: LocalContext) -> _binding.Runner:
    torch_module, library = sys.modules["torch"], context.library
    device = torch_module.device("cuda", context.ordinal)
    workspace = functools.partial(torch_module.empty, dtype=torch_module.uint8, device=device)
    runner: _binding.Runner = library.binding.Runner(
        library.functions,
        context.address,
        True,
        context.ordinal,
        True,
        functools.partial(_on_device, device),
        new_array,
        library.fail,
        workspace,
        torch_module._C._cuda_getCurrentRawStream,
    )
    return runner


def _on_host(value: Any, field: str) -> Any:
    """What the binding reads of an array that it does not know.

    Raises:
        InvalidArgument: It is none, or of a kind that attention does not take.
    """
    torch_module = sys.modules.get("torch")
    if torch_module is None or not isinstance(value, torch_module.Tensor):
        return host_tensor(value, field).array
    if not value.is_cpu or value.layout is not torch_module.strided:
        host_tensor(value, field)  # says what is wrong
    return _readable(value, field)


def _on_device(device: torch.device, value: Any, field: str) -> Any:
    """As `_on_host`, for a GPU."""
    torch_module: Any = sys.modules["torch"]
    if not isinstance(value, torch_module.Tensor):
        raise InvalidArgument.of(
            field,
            f"{field} is a {type(value).__qualname__}; expected a torch tensor on "
            f"{device}, the device of q",
        )
    if value.device != device or value.layout is not torch_module.strided:
        raise InvalidArgument.of(
            field,
            f"{field} is a {value.layout} tensor on {value.device}; expected a strided one on "
            f"{device}, the device of q",
        )
    return _readable(value, field)


def _readable(tensor: torch.Tensor, field: str) -> Any:
    """A plain tensor with the elements of `tensor`; a description of it for an older torch."""
    torch_module: Any = sys.modules["torch"]
    if tensor.requires_grad and torch_module.is_grad_enabled():
        raise InvalidArgument.of(
            field,
            f"{field} requires a gradient, which no result of a client carries: use "
            "theria.torch.sdpa, or detach it",
        )
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _DTYPE_NAMES:
        raise InvalidArgument.of(
            f"{field}.dtype",
            f"{field} has dtype {name}; expected float64, float32, float16, bfloat16 or, for a "
            "mask, bool",
        )
    tensor = tensor.detach().resolve_neg()
    if hasattr(torch_module.Tensor, "__dlpack_c_exchange_api__"):
        return tensor.as_subclass(torch_module.Tensor)
    return tensor.data_ptr(), _DTYPE_NAMES.index(name), tuple(tensor.shape), tensor.stride()
