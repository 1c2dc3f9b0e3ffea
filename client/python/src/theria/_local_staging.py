"""Host arrays for a CUDA device: copied there before a call and back after it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from theria._arrays import Framework, host_tensor, to_framework
from theria._local_context import LocalContext
from theria._local_runner import DTYPE_CODES, DTYPES

if TYPE_CHECKING:
    from theria_kernels import _binding

__all__ = ["Described", "StagedPlace"]

# Address, theria_dtype, shape, strides in elements.
Described: TypeAlias = "tuple[int, int, tuple[int, ...], tuple[int, ...]]"


class StagedPlace:
    """Device memory of the library's own, for one call. Ends with `close`.

    Args:
        context: Of a CUDA device.
    """

    def __init__(self, context: LocalContext):
        self._context = context
        self._memory: list[int] = []
        self._framework: Framework = "numpy"

    def runner(self) -> _binding.Runner:
        """Runs calls whose outputs are for `fetch`."""
        library = self._context.library
        runner: _binding.Runner = library.binding.Runner(
            library.functions,
            self._context.address,
            True,
            self._context.ordinal,
            False,
            self.copy_in,
            self.new_output,
            library.fail,
        )
        return runner

    def copy_in(self, value: Any, field: str) -> Described:
        """A copy of the elements on the device; a broadcast stays one."""
        host = host_tensor(value, field)
        if field == "q":
            self._framework = host.framework
        memory, strides = host.payload
        address = self._allocate(memory.nbytes)
        self._context.library.write(
            self._context.address, address, memory.ctypes.data, memory.nbytes
        )
        if strides is None:
            strides = _row_major(host.shape)
        return address, DTYPE_CODES[host.wire_dtype], host.shape, strides

    def new_output(self, _q: Any, dtype: int, shape: tuple[int, ...]) -> Described:
        """Device memory for an output."""
        address = self._allocate(prod(shape) * DTYPES[dtype].itemsize)
        return address, dtype, shape, _row_major(shape)

    def fetch(self, outputs: Sequence[Described]) -> list[Any]:
        """Waits for the call and copies its outputs into arrays of the framework of q."""
        library, context = self._context.library, self._context.address
        library.synchronize(context, 0)
        arrays = []
        for address, dtype, shape, _ in outputs:
            array = np.empty(shape, DTYPES[dtype])
            library.read(context, array.ctypes.data, address, array.nbytes)
            arrays.append(to_framework(array, self._framework))
        return arrays

    def close(self) -> None:
        """Frees the device memory."""
        for address in self._memory:
            self._context.library.free(self._context.address, address)

    def _allocate(self, size_bytes: int) -> int:
        address = self._context.library.allocate(self._context.address, size_bytes)
        self._memory.append(address)
        return address


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
