"""Workspace on a GPU from PyTorch's caching allocator."""

from __future__ import annotations

import ctypes
import itertools
import threading
from typing import Any

from theria._call_frame import CallFrame
from theria._kernels_library import ALLOCATE
from theria._local_context import LocalContext

__all__ = ["TorchWorkspace"]

_MAX_SIZES = 1024


class TorchWorkspace:
    """Runs calls on the current stream of one device, with memory of PyTorch's allocator.

    The first call of a kind asks the allocator for each block; the sum is remembered, and later
    calls of that kind bring it along. The allocator knows the stream: a block that is freed when
    the call returns serves only later work of the same stream.

    Args:
        torch_module: torch.
        ordinal: Of the device.
    """

    def __init__(self, torch_module: Any, ordinal: int):
        self._empty = torch_module.empty
        self._uint8 = torch_module.uint8
        self._out_of_memory = torch_module.OutOfMemoryError
        self._device = torch_module.device("cuda", ordinal)
        self._ordinal = ordinal
        # Without the objects that torch.cuda.current_stream makes.
        self._current_stream = torch_module._C._cuda_getCurrentRawStream
        self._sizes: dict[tuple[object, ...], int] = {}
        self._numbers = itertools.count(1)
        self._blocks: dict[int, list[Any]] = {}  # by the number of the call
        self._lock = threading.Lock()
        self._callback = ALLOCATE(self._allocate)
        callback = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert callback is not None
        self._callback_address = callback

    def run(
        self, context: LocalContext, operation: int, frame: CallFrame, key: tuple[object, ...]
    ) -> int:
        """The library's code of a call; `key` names what its workspace depends on."""
        size = self._sizes.get(key, 0)
        block = self._empty(size, dtype=self._uint8, device=self._device) if size else None
        number = next(self._numbers)
        self._blocks[number] = []
        frame.set_launch(
            stream=self._current_stream(self._ordinal),
            workspace=block.data_ptr() if block is not None else 0,
            workspace_bytes=size,
            allocate=self._callback_address,
            user=number,
        )
        try:
            code: int = context.library.run(
                context.address,
                operation,
                frame.inputs,
                frame.options,
                frame.outputs,
                frame.launch,
                frame.report,
            )
        finally:
            del self._blocks[number]
        if code == 0:
            used = frame.read_report()[3]
            if used != size:
                self._remember(key, used)
        return code

    def _remember(self, key: tuple[object, ...], size: int) -> None:
        with self._lock:
            if len(self._sizes) >= _MAX_SIZES:
                self._sizes.clear()
            self._sizes[key] = size

    def _allocate(self, user: int, size_bytes: int, _stream: int | None) -> int | None:
        """theria_launch.allocate; no exception may leave it."""
        try:
            block = self._empty(size_bytes, dtype=self._uint8, device=self._device)
        except self._out_of_memory:
            return None
        self._blocks[user].append(block)
        address: int = block.data_ptr()
        return address
