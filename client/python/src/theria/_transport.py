"""What carries the steps of a flow to a server. Real ones speak gRPC; tests bring a fake.

Transports raise `theria.Error` (through `error_from_status`) and nothing else, and do not retry.
They are thread-safe (asyncio ones: within their event loop).
"""

from __future__ import annotations

from typing import Any, Protocol

from theria._steps import Call, Download, Upload

__all__ = ["AsyncTransport", "Transport"]


class Transport(Protocol):
    """Blocking."""

    def call(self, step: Call) -> Any:
        """Sends the request; returns the response."""

    def upload(self, step: Upload) -> Any:
        """Streams the requests; returns the response."""

    def download(self, step: Download) -> None:
        """Sends the request; passes each response to `step.receive`."""

    def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""


class AsyncTransport(Protocol):
    """For asyncio; otherwise as `Transport`."""

    async def call(self, step: Call) -> Any:
        """Sends the request; returns the response."""

    async def upload(self, step: Upload) -> Any:
        """Streams the requests; returns the response."""

    async def download(self, step: Download) -> None:
        """Sends the request; passes each response to `step.receive`."""

    async def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
