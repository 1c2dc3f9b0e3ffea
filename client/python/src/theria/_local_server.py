"""What `Client.info` says of a local client."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence

from theria._local_context import LocalContext
from theria._local_options import IMPLEMENTATIONS, OPERATION_NUMBERS
from theria._local_store import LocalStore
from theria._results import KernelSupport, ServerInfo, ServerLimits, StoreInfo

__all__ = ["server_info"]

_DTYPES = ("float64", "float32", "float16", "bfloat16", "bool")
_OPERATIONS = tuple(OPERATION_NUMBERS)
_STARTED = time.monotonic()


def server_info(contexts: Sequence[LocalContext], store: LocalStore) -> ServerInfo:
    """Of the process: the first context computes; no limit but its memory."""
    tensors = store.infos()
    return ServerInfo(
        version=contexts[0].library.version(),
        commit="",
        backend="cuda" if contexts[0].is_cuda else "cpu",
        devices=tuple(context.device for context in contexts),
        kernels=tuple(kernel for context in contexts for kernel in _kernels(context)),
        limits=ServerLimits(
            max_message_bytes=sys.maxsize,
            max_tensor_bytes=sys.maxsize,
            max_queued_requests=sys.maxsize,
            max_queued_bytes=sys.maxsize,
            default_ttl=math.inf,
            max_ttl=math.inf,
            max_pin=math.inf,
            max_benchmark_repetitions=sys.maxsize,
        ),
        store=StoreInfo(
            capacity_bytes=sys.maxsize,
            used_bytes=sum(tensor.size_bytes for tensor in tensors),
            entries=len(tensors),
        ),
        uptime=time.monotonic() - _STARTED,
        shared_memory=False,
    )


def _kernels(context: LocalContext) -> list[KernelSupport]:
    return [
        KernelSupport(
            operation=_OPERATIONS[record.operation],
            implementation=IMPLEMENTATIONS[record.implementation],
            dtype=_DTYPES[record.dtype],
            min_head_dim=record.min_head_dim,
            max_head_dim=record.max_head_dim,
            head_dim_multiple=record.head_dim_multiple,
        )
        for record in context.library.kernels(context.address)
    ]
