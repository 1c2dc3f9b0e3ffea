"""The client that `theria.torch` and `theria.jax` use when they are given none. Thread-safe."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import theria
from theria._differentiation_errors import NoClientError

__all__ = ["AttentionClient", "default_client", "set_default_client"]


class AttentionClient(Protocol):
    """What the frameworks need of `theria.Client`. Results have their outputs by name."""

    @property
    def forward(self) -> Callable[..., Any]:
        """See `theria.Client.forward`."""

    @property
    def vjp(self) -> Callable[..., Any]:
        """See `theria.Client.vjp`."""

    @property
    def jvp(self) -> Callable[..., Any]:
        """See `theria.Client.jvp`."""

    @property
    def hvp(self) -> Callable[..., Any]:
        """See `theria.Client.hvp`."""


_lock = threading.Lock()
_chosen: AttentionClient | None = None
_connected: tuple[int, str, theria.Client] | None = None  # process id, target, client


def set_default_client(client: AttentionClient | None) -> None:
    """Makes `client` the default of this process; None goes back to THERIA_TARGET.

    The caller keeps ownership: a client that was replaced is not closed.
    """
    global _chosen
    with _lock:
        _chosen = client


def default_client() -> AttentionClient:
    """The client set by `set_default_client`, else one connected to $THERIA_TARGET.

    The connection is made on first use and kept; a forked child makes its own.

    Raises:
        NoClientError: Neither is there.
        theria.Error: As `theria.connect`.
    """
    global _connected
    with _lock:
        if _chosen is not None:
            return _chosen
        target = os.environ.get("THERIA_TARGET")
        if not target:
            raise NoClientError(
                "attention has no client: pass client=, call set_default_client(client), "
                "or set THERIA_TARGET to a server's address such as localhost:50051"
            )
        if _connected is None or _connected[:2] != (os.getpid(), target):
            _connected = (os.getpid(), target, theria.connect(target))
        return _connected[2]
