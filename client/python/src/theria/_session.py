"""The state shared by the calls of one client."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from theria._arrays import HostTensor
from theria._options import CallOptions
from theria._results import ServerLimits
from theria._steps import Deadline, RetryPolicy
from theria.v1 import tensor_pb2

if TYPE_CHECKING:
    from theria._shared_memory import SharedRegion

__all__ = ["Session"]


@dataclass
class Session:
    """Settings of a client, and its knowledge of the server. Thread-safe.

    Attributes:
        timeout: Seconds for a call that does not set its own; None for no limit.
        retry: When to retry.
        chunk_bytes: Of uploads and downloads.
        limits: The server's limits, once known.
        regions: Memory shared with the server, as far as known.
    """

    timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    chunk_bytes: int = 1 << 20
    limits: ServerLimits | None = None
    regions: weakref.WeakSet[SharedRegion] = field(default_factory=weakref.WeakSet)

    def __post_init__(self) -> None:
        Deadline(self.timeout)  # says so if it is no number

    def deadline(self, options: CallOptions) -> Deadline:
        """The deadline of a call that starts now."""
        return Deadline(options.get("timeout", self.timeout))

    def shared_part(self, tensor: HostTensor) -> tensor_pb2.SharedMemoryRef | None:
        """The location of the elements in shared memory; None if they are not there."""
        for region in tuple(self.regions):
            part = region.part(tensor.memory)
            if part is not None:
                return part
        return None
