"""What the calls of one client share."""

from __future__ import annotations

from dataclasses import dataclass, field

from theria._options import CallOptions
from theria._results import ServerLimits
from theria._steps import Deadline, RetryPolicy

__all__ = ["Session"]


@dataclass
class Session:
    """Settings of a client, and what it learned about its server. Thread-safe.

    Attributes:
        timeout: Seconds for a call that names no timeout of its own; None for no limit.
        retry: When to try again.
        chunk_bytes: Of uploads and downloads.
        limits: The server's limits, once known.
    """

    timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    chunk_bytes: int = 1 << 20
    limits: ServerLimits | None = None

    def deadline(self, options: CallOptions) -> Deadline:
        """The deadline of a call that starts now."""
        return Deadline(options.get("timeout", self.timeout))
