"""The devices of this process that compute."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from theria._kernels_library import CPU, CUDA, KernelsLibrary, kernels_library
from theria._results import DeviceInfo

if TYPE_CHECKING:
    from theria_kernels import _binding

__all__ = ["LocalContext", "local_context"]


@dataclass(frozen=True)
class LocalContext:
    """A device with its kernels. Thread-safe.

    Attributes:
        library: That computes.
        address: Of the library's context.
        ordinal: Of the CUDA device; -1 for the CPU.
        device: What it is.
        runners: Those of `_local_runner`, by what they are for.
    """

    library: KernelsLibrary
    address: int
    ordinal: int
    device: DeviceInfo
    runners: dict[str, _binding.Runner] = field(default_factory=dict, compare=False)

    @property
    def is_cuda(self) -> bool:
        """Whether its tensors live in the memory of a GPU."""
        return self.ordinal >= 0


# Contexts live as long as the process: their threads and their memory are the device's.
_contexts: dict[tuple[int, int], LocalContext] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    # The threads of the parent's contexts are not in the child.
    global _lock
    _lock = threading.Lock()
    _contexts.clear()


os.register_at_fork(after_in_child=_after_fork)


def local_context(ordinal: int, threads: int = 0) -> LocalContext:
    """The context of a device, made on first use.

    Args:
        ordinal: Of the CUDA device; -1 for the CPU.
        threads: Of the CPU; 0 for one per core.

    Raises:
        Unavailable: There is no such device, or no library.
    """
    context = _contexts.get((ordinal, threads))
    if context is not None:
        return context
    library = kernels_library()
    with _lock:
        context = _contexts.get((ordinal, threads))
        if context is None:
            context = _contexts[ordinal, threads] = _create(library, ordinal, threads)
        return context


def _create(library: KernelsLibrary, ordinal: int, threads: int) -> LocalContext:
    device_type = CPU if ordinal < 0 else CUDA
    address = library.create_context(device_type, max(ordinal, 0), threads)
    record = library.device(address)
    device = DeviceInfo(
        id=record.id.decode(),
        name=record.name.decode(errors="replace"),
        memory_bytes=record.memory_bytes,
        architecture=record.architecture.decode(),
    )
    return LocalContext(library, address, ordinal, device)
