"""The default client of `theria.torch` and `theria.jax`. Thread-safe.

It is the client set by `set_default_client`, otherwise a client of the server at $THERIA_TARGET,
otherwise one that computes in this process, on the device of the tensors.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

import theria
from theria._differentiation_errors import NoClientError
from theria._errors import InvalidArgument, Unavailable

__all__ = ["AttentionClient", "chosen_client", "default_client", "set_default_client"]


class AttentionClient(Protocol):
    """The part of `theria.Client` that the frameworks use. Results have their outputs by name."""

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
_local: theria.Client | None = None


def set_default_client(client: AttentionClient | None) -> None:
    """Makes `client` the default of this process. None restores the initial default.

    The caller keeps ownership: a client that is replaced is not closed.
    """
    global _chosen
    with _lock:
        _chosen = client


def chosen_client(client: AttentionClient | None) -> AttentionClient:
    """`client`, or the default client if it is None.

    Raises:
        InvalidArgument: `client` is not a client (for example an address), or is asynchronous.
        NoClientError: `client` is None, and there is no default.
    """
    if client is None:
        return default_client()
    forward = getattr(client, "forward", None)
    if not callable(forward) or inspect.iscoroutinefunction(forward):
        raise InvalidArgument.of(
            "client",
            f"client is a {type(client).__module__}.{type(client).__qualname__}, must be what "
            "theria.connect or theria.local returns",
        )
    return client


def default_client() -> AttentionClient:
    """The client of `set_default_client`, otherwise of $THERIA_TARGET, otherwise `theria.local()`.

    A connection is created on first use and kept. A forked child creates its own.

    Raises:
        NoClientError: There is none of the three.
        theria.Error: As for `theria.connect`.
    """
    global _connected, _local
    with _lock:
        if _chosen is not None:
            return _chosen
        target = os.environ.get("THERIA_TARGET")
        if not target:
            if _local is None:
                _local = _make_local()
            return _local
        if _connected is None or _connected[:2] != (os.getpid(), target):
            _connected = (os.getpid(), target, theria.connect(target))
        return _connected[2]


def _make_local() -> theria.Client:
    try:
        return theria.local()
    except Unavailable as error:
        raise NoClientError(
            f"attention has no client: {error}; or pass client=, call "
            "set_default_client(client), or set THERIA_TARGET to a server's address such as "
            "localhost:50051"
        ) from error
