"""How a blocking client comes about: target, credentials, metadata."""

from __future__ import annotations

import os

from theria._client import Client
from theria._grpc import GrpcTransport
from theria._grpc_channel import ChannelCredentials, Endpoint
from theria._identity import Metadata, MetadataSource, Priority, Tls
from theria._keepalive import DEFAULT_KEEPALIVE, Keepalive
from theria._remote_client import RemoteClient
from theria._session import Session
from theria._steps import RetryPolicy

__all__ = ["connect"]


def connect(
    target: str,
    *,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    credentials: ChannelCredentials | None = None,
    metadata: Metadata = (),
    tls: Tls | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    priority: Priority = "normal",
    connect_timeout: float = 5.0,
    keepalive: Keepalive | None = DEFAULT_KEEPALIVE,
) -> Client:
    """A client of the server at `target`.

    Does not wait for the server: the first call connects. A server that cannot be reached raises
    Unavailable, with a message that names the target and the likely cause. Causes that do not pass,
    such as TLS on one side only, are not retried.

    Args:
        target: ``host:port`` (``[::1]:50051`` for IPv6) or ``unix:PATH``; gRPC's other names of
            servers too, such as ``dns:///host:port``. There is no default port.
        timeout: Seconds for each call that names none of its own; None for no limit.
        retry: When to try again what failed with UNAVAILABLE. By default, as `RetryPolicy()`, but
            for one second only until the client has had its first connection. Pass a policy to wait
            for a server that is still starting.
        credentials: gRPC's own, for what `tls` cannot say; None for plain text.
        metadata: Sent with every request: pairs of a key (``[a-z0-9_.-]``) and a value, which is
            printable ASCII, or bytes where the key ends in ``-bin``.
        tls: For an encrypted connection.
        token: Bearer token that proves the tenant: one line of printable ASCII without spaces.
        token_file: File of that token, read again whenever it changes; not with `token`.
        priority: Rank of this client's calls among those of its tenant that wait.
        connect_timeout: Seconds for each attempt to connect, TLS handshake included. A call that
            finds no connection in that time raises Unavailable and is not retried.
        keepalive: When to decide that a connection is dead; None for never.

    Raises:
        InvalidArgument: A file of `tls` cannot be read or holds no PEM of its kind, `token` is no
            token, `timeout` no number, `connect_timeout` not positive, `target` without a port or
            with one over 65535, a key or value of `metadata` cannot be sent, or arguments exclude
            each other. For `token_file`, each call says so.

    Example:
        >>> with theria.connect("localhost:50051") as client:
        ...     r = client.forward(q, k, v, is_causal=True)
        ...     g = client.vjp(q, k, v, o_bar, o=r.o, lse=r.lse, is_causal=True)
    """
    endpoint = Endpoint(target, credentials, tls, keepalive, connect_timeout, retry is not None)
    transport = GrpcTransport(endpoint, MetadataSource(metadata, token, token_file, priority))
    return RemoteClient(transport, Session(timeout, retry or RetryPolicy()))
