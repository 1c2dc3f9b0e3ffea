"""The client that `theria.torch` and `theria.jax` use when they are given none. Thread-safe."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import theria
from theria._differentiation_errors import NoClientError
from theria._errors import InvalidArgument

__all__ = ["AttentionClient", "chosen_client", "default_client", "set_default_client"]


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


def chosen_client(client: AttentionClient | None) -> AttentionClient:
    """`client`, or the default where it is None.

    Raises:
        InvalidArgument: It is none, such as an address, or an asynchronous one.
        NoClientError: None, and no default.
    """
    if client is None:
        return default_client()
    forward = getattr(client, "forward", None)
    if not callable(forward) or inspect.iscoroutinefunction(forward):
        raise InvalidArgument.of(
            "client",
            f"client is a {type(client).__module__}.{type(client).__qualname__}, must be what "
            "theria.connect returns",
        )
    return client


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
