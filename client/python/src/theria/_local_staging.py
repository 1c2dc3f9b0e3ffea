"""Host arrays for a CUDA device: copied there before a call and back after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from theria._arrays import Framework, HostTensor, host_tensor, to_framework
from theria._call_frame import CallFrame
from theria._dtypes import encode_dtype, statistics_dtype
from theria._local_arrays import DTYPE_CODES
from theria._local_context import LocalContext

__all__ = ["StagedPlace"]


class StagedPlace:
    """Device memory of the library's own, for one call. Ends with `close`.

    Args:
        context: Of a CUDA device.
    """

    def __init__(self, context: LocalContext):
        self._context = context
        self._memory: list[int] = []
        self._outputs: list[tuple[Any, int]] = []
        self._framework: Framework = "numpy"

    def add_input(self, frame: CallFrame, slot: int, value: Any, field: str) -> HostTensor:
        """See `Place`. The elements are copied once, a broadcast stays one."""
        host = host_tensor(value, field)
        if field == "q":
            self._framework = host.framework
        memory, strides = host.payload
        address = self._allocate(memory.nbytes)
        self._context.library.write(
            self._context.address, address, memory.ctypes.data, memory.nbytes
        )
        code = DTYPE_CODES[host.wire_dtype]
        if strides is None and len(host.shape) <= 4:
            frame.set_row_major(slot, address, code, host.shape)
        else:
            frame.set_tensor(slot, address, code, host.shape, strides or ())
        return host

    def add_output(
        self, frame: CallFrame, slot: int, shape: Sequence[int], like: HostTensor
    ) -> Any:
        """See `Place`."""
        return self._output(frame, slot, shape, like.dtype)

    def add_statistics(
        self, frame: CallFrame, slot: int, shape: Sequence[int], like: HostTensor
    ) -> Any:
        """See `Place`."""
        return self._output(frame, slot, shape, statistics_dtype(like.dtype))

    def fetch(self) -> None:
        """Waits for the call and copies the results into the arrays that `add_output` returned."""
        library, context = self._context.library, self._context.address
        library.synchronize(context, 0)
        for array, address in self._outputs:
            library.read(context, array.ctypes.data, address, array.nbytes)

    def close(self) -> None:
        """Frees the device memory."""
        for address in self._memory:
            self._context.library.free(self._context.address, address)

    def _output(
        self, frame: CallFrame, slot: int, shape: Sequence[int], dtype: np.dtype[Any]
    ) -> Any:
        array = np.empty(shape, dtype)
        address = self._allocate(array.nbytes)
        self._outputs.append((array, address))
        code = DTYPE_CODES[encode_dtype(dtype, "output")]
        frame.set_row_major(slot, address, code, shape)
        return to_framework(array, self._framework)

    def _allocate(self, size_bytes: int) -> int:
        address = self._context.library.allocate(self._context.address, size_bytes)
        self._memory.append(address)
        return address
