"""How a client that computes in this process comes about."""

from __future__ import annotations

import re

from theria._client import Client
from theria._errors import InvalidArgument
from theria._kernels_library import kernels_library
from theria._local_client import LocalClient
from theria._local_context import local_context

__all__ = ["local"]


def local(device: str = "auto", *, threads: int = 0) -> Client:
    """A client that computes in this process: no server, and no copy of the tensors.

    On the CPU, numpy arrays, torch CPU tensors and jax arrays are read where they are. On a GPU,
    torch tensors of that device are too; calls are enqueued on PyTorch's current stream with
    workspace from its caching allocator, return before they are done, and can be captured into a
    CUDA graph once the same call has run. Host arrays are copied to the GPU and back.

    Resident tensors are arrays that the client keeps, without an end of lease unless `ttl` is
    given. There is no shared memory. Of a call on a GPU, `execution.compute_seconds` is NaN, and
    `timeout` bounds only what comes before its launch.

    A client may be pickled, and used in a forked child; a GPU, as ever with CUDA, only if the
    parent had not used it.

    Args:
        device: ``"cpu"``; ``"cuda"`` or ``"cuda:N"``; ``"auto"`` is the device of each call's `q`.
        threads: Of the CPU; 0 for one per core.

    Raises:
        InvalidArgument: No such device name, or no such number of threads.
        Unavailable: The package `theria-kernels` is not installed, or there is no such device.

    Example:
        >>> client = theria.local()
        >>> r = client.hvp(q, k, v, o_bar, q_dot, k_dot, v_dot)
    """
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d{1,4}))?", device if isinstance(device, str) else "")
    if found is None:
        raise InvalidArgument.of(
            "device", f"device is {device!r}, must be 'auto', 'cpu', 'cuda' or 'cuda:N'"
        )
    if not isinstance(threads, int) or threads < 0:
        raise InvalidArgument.of("threads", f"threads is {threads!r}, must be 0 or more")
    if device == "auto":
        kernels_library()
        return LocalClient(None, threads)
    ordinal = -1 if device == "cpu" else int(found[1] or 0)
    local_context(ordinal, threads if ordinal < 0 else 0)
    return LocalClient(ordinal, threads)
