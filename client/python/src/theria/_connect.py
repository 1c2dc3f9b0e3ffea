"""Construction of a blocking client: target, credentials, metadata."""

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
    """Returns a client of the server at `target`.

    This function does not connect; the first call does. If the server is unreachable, calls raise
    Unavailable with a message that names the target and the likely cause. Permanent causes, such as
    TLS on only one side, are not retried.

    Args:
        target: ``host:port`` (``[::1]:50051`` for IPv6), ``unix:PATH``, or another gRPC target
            name, such as ``dns:///host:port``. There is no default port.
        timeout: Seconds for each call that does not set its own; None for no limit.
        retry: When to retry after UNAVAILABLE. The default is `RetryPolicy()`, limited to one
            second before the client's first connection. Pass a policy to wait for a server that is
            still starting.
        credentials: gRPC credentials, for cases that `tls` does not cover; None for no encryption.
        metadata: Sent with every request: pairs of a key (``[a-z0-9_.-]``) and a value. A value is
            printable ASCII, or bytes if the key ends in ``-bin``.
        tls: For an encrypted connection.
        token: Bearer token of the tenant: one line of printable ASCII without spaces.
        token_file: File that contains the token; reread when it changes. Not together with `token`.
        priority: Order of this client's calls among the waiting calls of its tenant.
        connect_timeout: Seconds for each attempt to connect, including the TLS handshake. A call
            that cannot connect in that time raises Unavailable and is not retried.
        keepalive: When to consider a connection dead; None for never.

    Raises:
        InvalidArgument: A file of `tls` cannot be read or is not the required kind of PEM; `token`
            is not a token; `timeout` is not a number; `connect_timeout` is not positive; the port
            of `target` is missing or above 65535; a key or value of `metadata` is invalid; or
            arguments exclude each other. Errors of `token_file` are raised by each call.

    Example:
        >>> with theria.connect("localhost:50051") as client:
        ...     r = client.forward(q, k, v, is_causal=True)
        ...     g = client.vjp(q, k, v, o_bar, o=r.o, lse=r.lse, is_causal=True)
    """
    endpoint = Endpoint(target, credentials, tls, keepalive, connect_timeout, retry is not None)
    transport = GrpcTransport(endpoint, MetadataSource(metadata, token, token_file, priority))
    return RemoteClient(transport, Session(timeout, retry or RetryPolicy()))
