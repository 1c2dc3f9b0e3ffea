"""Shared by the two gRPC transports: the endpoint, and the translation of its failures."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import EncodeError, Message

from theria import _errors as errors
from theria._connect_failure import Peer, connect_failure
from theria._identity import Tls, channel_options
from theria._keepalive import Keepalive, seconds_option
from theria._status import STATUS_DETAILS_KEY, error_from_status

__all__ = [
    "REQUEST_ID_KEY",
    "ChannelCredentials",
    "Endpoint",
    "checked_target",
    "serialize",
]

ChannelCredentials = grpc.ChannelCredentials

# Initial metadata that holds the id of the request in the server's log.
REQUEST_ID_KEY = "theria-request-id"

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # The server's own limit holds; the client asks for it and moves what is larger.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Retries are the client's, so that they count against its timeout and reach streams as well.
    ("grpc.enable_retries", 0),
    # gRPC's own waits between connection attempts grow to two minutes; a restart takes seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Clients of one process would otherwise share one TCP connection.
    ("grpc.use_local_subchannel_pool", 1),
]

# https://github.com/grpc/grpc/blob/master/doc/naming.md
_SCHEMES = ("dns", "ipv4", "ipv6")
_SCHEMES_WITHOUT_PORTS = ("unix", "unix-abstract", "vsock", "xds")
# Colons within the host are those of an IPv6 address, in brackets, in a URI perhaps escaped.
_HOST_AND_PORT = re.compile(r"([^:]+|\[.+\]|%5[Bb].+%5[Dd]):(?P<port>[0-9]+)")


def checked_target(target: str) -> str:
    """`target`, checked to have a port in every address.

    gRPC would use port 443 if it is missing, and a port modulo 65536.

    Raises:
        InvalidArgument: A port is missing or over 65535.
    """
    scheme, _, rest = target.partition(":")
    if scheme in _SCHEMES_WITHOUT_PORTS:
        return target
    addresses = re.sub("^//[^/]*/", "", rest).split(",") if scheme in _SCHEMES else [target]
    for address in addresses:
        found = _HOST_AND_PORT.fullmatch(address)
        if not found:
            raise errors.InvalidArgument.of(
                "target",
                f"target is {target!r}, must be host:port such as localhost:50051 or [::1]:50051, "
                "or unix:PATH",
            )
        if int(found["port"]) > 65535:
            raise errors.InvalidArgument.of(
                "target", f"target: {target} has the port {found['port']}, over 65535"
            )
    return target


def serialize(message: Message) -> bytes:
    """The bytes of a request.

    Raises:
        InvalidArgument: The request exceeds protobuf's limit of 2 GiB.
    """
    try:
        return message.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise errors.InvalidArgument(f"the request cannot be serialised: {error}") from error


# In the details of what this client cancelled itself, by closing the channel or the call.
_CANCELLED_HERE = ("Channel closed", "Locally cancelled")

# How long calls of a client that never had a connection are retried by default. A target that
# refuses connections is then more likely wrong than restarting.
_FIRST_CONNECTION_SECONDS = 1.0


class Endpoint:
    """The connection parameters of a server, and explanations of its failures. Thread-safe.

    Args:
        target: As for `theria.connect`.
        credentials: For TLS; None for no encryption.
        tls: The same as a `Tls`.
        keepalive: None for no pings.
        connect_timeout: Seconds for each attempt to connect.
        is_patient: Whether the retry policy also applies before the first connection. Otherwise
            calls are retried for one second until there is a connection.

    Raises:
        InvalidArgument: `target`, `connect_timeout` or a file of `tls` is invalid.
    """

    def __init__(
        self,
        target: str,
        credentials: ChannelCredentials | None = None,
        tls: Tls | None = None,
        keepalive: Keepalive | None = None,
        connect_timeout: float = 5.0,
        is_patient: bool = True,
    ):
        self.target = checked_target(target)
        self.credentials = credentials if tls is None else tls.credentials()
        self.options = [
            *_CHANNEL_OPTIONS,
            *channel_options(tls),
            *(keepalive.channel_options() if keepalive else ()),
            # Despite its name, the time that each attempt to connect may take.
            (
                "grpc.min_reconnect_backoff_ms",
                seconds_option("connect_timeout", connect_timeout),
            ),
        ]
        self._peer = Peer(
            target,
            self.credentials is not None,
            connect_timeout,
            keepalive.timeout if keepalive else 0.0,
        )
        self._was_connected = False
        self._patience = math.inf if is_patient else _FIRST_CONNECTION_SECONDS
        self._first_failure: float | None = None

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turns gRPC's exceptions into `theria.Error`."""
        try:
            yield
            self._was_connected = True
        except errors.Error:
            raise
        except grpc.RpcError as error:
            # Not `from error`: gRPC's traceback and debug string would add twenty lines to each
            # report, and nothing that the message lacks.
            raise self._translate(error) from None
        except (ValueError, grpc.aio.UsageError) as error:
            if "closed" in str(error).lower():
                raise errors.Cancelled("the client is closed") from error
            raise

    def _translate(self, error: Any) -> errors.Error:
        code, details = error.code().name, error.details() or ""
        # A server that stops cancels calls that reach it in that moment, and computed nothing of
        # them.
        if code == "CANCELLED" and not any(mark in details for mark in _CANCELLED_HERE):
            code, details = "UNAVAILABLE", f"the server ended the call: {details}"
        failure = connect_failure(self._peer, details) if code == "UNAVAILABLE" else None
        if code == "DEADLINE_EXCEEDED" and not self._was_connected:
            details = f"the timeout passed before {self.target} answered"
        elif failure is None or failure.was_connected:
            self._was_connected = True
        translated = error_from_status(
            code,
            failure.message if failure else details,
            dict(error.trailing_metadata() or ()).get(STATUS_DETAILS_KEY),
            dict(error.initial_metadata() or ()).get(REQUEST_ID_KEY),
        )
        if failure and isinstance(translated, errors.Unavailable):
            translated.is_final = failure.is_final or self._is_out_of_patience()
        return translated

    def _is_out_of_patience(self) -> bool:
        if self._was_connected:
            return False
        now = time.monotonic()
        if self._first_failure is None:
            self._first_failure = now
        return now - self._first_failure >= self._patience
