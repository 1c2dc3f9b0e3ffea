"""Names of clients, for graph operators of a framework, which accept only plain values.

A name is unique in the process and never reused. The registry does not keep a client alive.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any

from theria._default_client import AttentionClient, default_client
from theria._differentiation_errors import NoClientError

__all__ = ["DEFAULT", "client_name", "known_name", "named_client"]

DEFAULT = ""  # the default client at the time of the call

_lock = threading.Lock()
_numbers = itertools.count(1)
_names: dict[int, str] = {}  # by the client's id
_clients: dict[str, Any] = {}  # by name, weak where the client's class allows it


def client_name(client: AttentionClient) -> str:
    """The client's name, which is assigned on the first call."""
    with _lock:
        name = known_name(client)
        if name is None:
            name = str(next(_numbers))
            _names[id(client)] = name
            try:
                _clients[name] = weakref.ref(client)
                weakref.finalize(client, _forget, id(client), name).atexit = False
            except TypeError:
                _clients[name] = lambda: client
        return name


def known_name(client: AttentionClient) -> str | None:
    """The name assigned by `client_name`, or None. torch.compile can trace this function."""
    return _names.get(id(client))


def named_client(name: str) -> AttentionClient:
    """The client of that name.

    Raises:
        NoClientError: It no longer exists, or belongs to another process; or the name is DEFAULT
            and there is no default client.
    """
    if name == DEFAULT:
        return default_client()
    client: AttentionClient | None = _clients.get(name, _nothing)()
    if client is None:
        raise NoClientError(
            f"client {name} of this graph does not exist (any more) in this process: keep the "
            "client for as long as the graph, or build the graph with client=None, which takes "
            "the default client when it runs"
        )
    return client


def _forget(identity: int, name: str) -> None:
    # Without the lock: a finalizer may run in a thread that holds it.
    if _names.get(identity) == name:
        del _names[identity]
    _clients.pop(name, None)


def _nothing() -> None:
    return None
