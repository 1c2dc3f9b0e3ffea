"""Transports execute the steps of a flow on a server. Tests use a fake one.

Transports raise only `theria.Error` (through `error_from_status`) and do not retry. They are
thread-safe; asyncio transports are bound to one event loop.
"""

from __future__ import annotations

from typing import Any, Protocol

from theria._steps import Call, Download, Upload

__all__ = ["AsyncTransport", "Transport"]


class Transport(Protocol):
    """A blocking transport."""

    def call(self, step: Call) -> Any:
        """Sends the request; returns the response."""

    def upload(self, step: Upload) -> Any:
        """Streams the requests; returns the response."""

    def download(self, step: Download) -> None:
        """Sends the request; passes each response to `step.receive`."""

    def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""


class AsyncTransport(Protocol):
    """The same as `Transport`, for asyncio."""

    async def call(self, step: Call) -> Any:
        """Sends the request; returns the response."""

    async def upload(self, step: Upload) -> Any:
        """Streams the requests; returns the response."""

    async def download(self, step: Download) -> None:
        """Sends the request; passes each response to `step.receive`."""

    async def close(self) -> None:
        """Ends the connection; calls under way are cancelled."""
