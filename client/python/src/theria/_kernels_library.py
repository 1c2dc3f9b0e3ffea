"""libtheria_kernels.so, the kernels for this process (docs/decisions, "In process").

Attention goes through the extension module `theria_kernels._binding`, all else through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from ctypes import (
    POINTER,
    byref,
    c_char_p,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from theria._errors import InvalidArgument, Unavailable
from theria._status import error_from_status

__all__ = ["CPU", "CUDA", "KernelsLibrary", "kernels_library"]

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

    Attributes:
        path: As given.
        binding: The module `theria_kernels._binding`.
        functions: What `binding.Runner` calls of the library.

    Raises:
        Unavailable: It or its binding cannot be loaded, or is of another version of the interface.
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
        self._declare("synchronize", c_int32, c_void_p, c_void_p)
        self._declare("memory_allocate", c_int32, c_void_p, c_size_t, POINTER(c_void_p))
        self._declare("memory_free", None, c_void_p, c_void_p)
        self._declare("memory_write", c_int32, c_void_p, c_void_p, c_void_p, c_size_t)
        self._declare("memory_read", c_int32, c_void_p, c_void_p, c_void_p, c_size_t)
        self.binding = _load_binding(path)
        self.functions = tuple(
            self._address(name)
            for name in ("run", "validate", "flops", "error_message", "error_field")
        )

    def _address(self, name: str) -> int:
        address = ctypes.cast(getattr(self._library, f"theria_{name}"), c_void_p).value
        assert address is not None
        return address

    def _declare(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._library, f"theria_{name}")
        function.restype, function.argtypes = result, arguments
        return function

    def fail(self, code: int, message: str, field: str) -> NoReturn:
        """Raises the error of a call that returned `code`."""
        if field:
            raise InvalidArgument.of(field, message)
        raise error_from_status(_CODES.get(code, "INTERNAL"), message, None)

    def _error(self, code: int) -> NoReturn:
        message = self._library.theria_error_message().decode("utf-8", "replace")
        self.fail(code, message, self._library.theria_error_field().decode("utf-8", "replace"))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, f"theria_{name}")(*arguments)
        if code != 0:
            self._error(code)

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


def _load_binding(library: str) -> Any:
    """The binding that lies beside the library, else that of the package `theria-kernels`."""
    folders = [Path(library).parent, *_package_folders()]
    found = next((f for f in (each / "_binding.abi3.so" for each in folders) if f.exists()), None)
    if found is None:
        raise Unavailable(
            f"{library} has no binding beside it, and the package theria-kernels is not installed"
        )
    name = "theria_kernels._binding"
    try:
        spec = importlib.util.spec_from_loader(name, ExtensionFileLoader(name, str(found)))
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except ImportError as error:
        raise Unavailable(f"the kernels' binding cannot be loaded: {error}") from error
    if module.ABI != _ABI:
        raise Unavailable(f"{found} is of another release than this package")
    module.use_numpy(np.ndarray)
    return module


def _package_folders() -> list[Path]:
    spec = importlib.util.find_spec("theria_kernels")
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


@functools.cache
def kernels_library() -> KernelsLibrary:
    """The library of $THERIA_KERNELS_LIBRARY, else that of the package `theria-kernels`.

    Raises:
        Unavailable: Neither is there, or it cannot be loaded.
    """
    path = os.environ.get("THERIA_KERNELS_LIBRARY")
    if path:
        return KernelsLibrary(path)
    for folder in _package_folders():
        found = folder / "libtheria_kernels.so"
        if found.exists():
            return KernelsLibrary(str(found))
    raise Unavailable(
        "computing in this process needs the package theria-kernels: pip install 'theria[local]'"
    )
