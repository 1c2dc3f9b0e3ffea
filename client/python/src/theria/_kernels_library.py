"""libtheria_kernels.so, the kernels for this process, through ctypes (docs/decisions)."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

from theria._errors import Error, InvalidArgument, Unavailable
from theria._status import error_from_status

__all__ = ["ALLOCATE", "CPU", "CUDA", "KernelsLibrary", "kernels_library"]

# theria/kernels.h, whose names these are.
_ABI = 1
CPU, CUDA = 0, 1
_CODES = {
    1: "CANCELLED",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    8: "RESOURCE_EXHAUSTED",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
}
# void* allocate(void* user, size_t size_bytes, void* stream)
ALLOCATE = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_void_p)


class _ContextOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("device_type", c_int32),
        ("device_ordinal", c_int32),
        ("threads", c_int32),
        ("tuning_table", c_char_p),
    ]


class DeviceRecord(ctypes.Structure):
    """theria_device_info."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("device_type", c_int32),
        ("memory_bytes", c_uint64),
        ("id", c_char_p),
        ("name", c_char_p),
        ("architecture", c_char_p),
    ]


class SupportRecord(ctypes.Structure):
    """theria_kernel_support."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("operation", c_int32),
        ("implementation", c_int32),
        ("dtype", c_int32),
        ("min_head_dim", c_int64),
        ("max_head_dim", c_int64),
        ("head_dim_multiple", c_int64),
    ]


class KernelsLibrary:
    """The loaded library; its functions as methods that raise `theria.Error`.

    Args:
        path: Of the shared library.

    Raises:
        Unavailable: It cannot be loaded, or is of another version of the interface.
    """

    def __init__(self, path: str):
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise Unavailable(f"the kernels cannot be loaded: {error}") from error
        abi = library.theria_abi()
        if abi != _ABI:
            raise Unavailable(
                f"{path} has version {abi} of the interface, this package needs {_ABI}: install "
                "theria and theria-kernels of one release"
            )
        self.path = path
        self._library = library
        self._declare("error_message", c_char_p)
        self._declare("error_field", c_char_p)
        self._declare("version", c_char_p)
        self._declare("context_create", c_int32, POINTER(_ContextOptions), POINTER(c_void_p))
        self._declare("context_device", c_int32, c_void_p, POINTER(DeviceRecord))
        self._declare("context_kernel", c_int32, c_void_p, c_int32, POINTER(SupportRecord))
        self._declare("validate", c_int32, c_int32, c_void_p, c_void_p)
        self._declare("flops", c_int32, c_int32, c_void_p, c_void_p, POINTER(c_double))
        self._declare("synchronize", c_int32, c_void_p, c_void_p)
        self._declare("memory_allocate", c_int32, c_void_p, c_size_t, POINTER(c_void_p))
        self._declare("memory_free", None, c_void_p, c_void_p)
        self._declare("memory_write", c_int32, c_void_p, c_void_p, c_void_p, c_size_t)
        self._declare("memory_read", c_int32, c_void_p, c_void_p, c_void_p, c_size_t)
        # Called as it is, for speed: (context, operation, inputs, options, outputs, launch, report)
        # -> code.
        self.run = self._declare("run", c_int32, c_void_p, c_int32, *[c_void_p] * 5)

    def _declare(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._library, f"theria_{name}")
        function.restype, function.argtypes = result, arguments
        return function

    def error(self, code: int) -> Error:
        """The exception for the last call of this thread, which returned `code`."""
        message = self._library.theria_error_message().decode("utf-8", "replace")
        field = self._library.theria_error_field().decode("utf-8", "replace")
        if field:
            return InvalidArgument.of(field, message)
        return error_from_status(_CODES.get(code, "INTERNAL"), message, None)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"theria_{name}")(*arguments)
        if code != 0:
            raise self.error(code)

    def version(self) -> str:
        """Its release."""
        version: bytes = self._library.theria_version()
        return version.decode()

    def cuda_device_count(self) -> int:
        """CUDA devices that the library can compute on."""
        return int(self._library.theria_cuda_device_count())

    def create_context(self, device_type: int, ordinal: int, threads: int) -> int:
        """The address of a new context, which lives as long as the process."""
        options = _ContextOptions(
            ctypes.sizeof(_ContextOptions), device_type, ordinal, threads, None
        )
        context = c_void_p()
        self._call("context_create", byref(options), byref(context))
        assert context.value is not None
        return context.value

    def device(self, context: int) -> DeviceRecord:
        """What a context computes on."""
        record = DeviceRecord(struct_size=ctypes.sizeof(DeviceRecord))
        self._call("context_device", context, byref(record))
        return record

    def kernels(self, context: int) -> list[SupportRecord]:
        """What a context supports."""
        records: list[SupportRecord] = []
        while True:
            record = SupportRecord(struct_size=ctypes.sizeof(SupportRecord))
            code = self._library.theria_context_kernel(context, len(records), byref(record))
            if code != 0:
                return records
            records.append(record)

    def validate(self, operation: int, inputs: int, options: int) -> None:
        """Raises what is wrong with a call; looks at no element."""
        self._call("validate", operation, inputs, options)

    def flops(self, operation: int, inputs: int, options: int) -> float:
        """Floating-point operations of a call's definition."""
        flops = c_double()
        self._call("flops", operation, inputs, options, byref(flops))
        return flops.value

    def synchronize(self, context: int, stream: int) -> None:
        """Waits for a stream."""
        self._call("synchronize", context, stream)

    def allocate(self, context: int, size_bytes: int) -> int:
        """The address of device memory, to be given to `free`."""
        data = c_void_p()
        self._call("memory_allocate", context, size_bytes, byref(data))
        assert data.value is not None
        return data.value

    def free(self, context: int, data: int) -> None:
        """Ends what `allocate` returned."""
        self._library.theria_memory_free(context, data)

    def write(self, context: int, device: int, host: int, size_bytes: int) -> None:
        """Copies from the host to the device."""
        self._call("memory_write", context, device, host, size_bytes)

    def read(self, context: int, host: int, device: int, size_bytes: int) -> None:
        """Copies from the device to the host."""
        self._call("memory_read", context, host, device, size_bytes)


@functools.cache
def kernels_library() -> KernelsLibrary:
    """The library of $THERIA_KERNELS_LIBRARY, else that of the package `theria-kernels`.

    Raises:
        Unavailable: Neither is there, or it cannot be loaded.
    """
    path = os.environ.get("THERIA_KERNELS_LIBRARY")
    if path:
        return KernelsLibrary(path)
    spec = importlib.util.find_spec("theria_kernels")
    for folder in (spec and spec.submodule_search_locations) or ():
        found = Path(folder) / "libtheria_kernels.so"
        if found.exists():
            return KernelsLibrary(str(found))
    raise Unavailable(
        "computing in this process needs the package theria-kernels: pip install 'theria[local]'"
    )
