"""What the two gRPC transports share: channel options and the translation of failures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import EncodeError, Message

from theria import _errors as errors
from theria._status import STATUS_DETAILS_KEY, error_from_status

__all__ = [
    "CHANNEL_OPTIONS",
    "REQUEST_ID_KEY",
    "ChannelCredentials",
    "checked_target",
    "serialize",
    "translated",
]

ChannelCredentials = grpc.ChannelCredentials

# Initial metadata that holds the id of the request in the server's log.
REQUEST_ID_KEY = "theria-request-id"

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # The server's own limit holds; the client asks for it and moves what is larger.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Retries are the client's, so that they count against its timeout and reach streams as well.
    ("grpc.enable_retries", 0),
    # gRPC's own waits between connection attempts grow to two minutes; a restart takes seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the least time that an attempt may take, TLS and a long way included.
    ("grpc.min_reconnect_backoff_ms", 2000),
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
    """`target` itself, in which every address has a port.

    gRPC would take 443 for one that is missing and wait there, and a port modulo 65536.

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
        InvalidArgument: It is over 2 GiB, which protobuf cannot hold.
    """
    try:
        return message.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise errors.InvalidArgument(f"the request cannot be serialised: {error}") from error


@contextmanager
def translated() -> Iterator[None]:
    """Turns gRPC's exceptions into `theria.Error`."""
    try:
        yield
    except errors.Error:
        raise
    except grpc.RpcError as error:
        raise _translate(error) from error
    except (ValueError, grpc.aio.UsageError) as error:
        if "closed" in str(error).lower():
            raise errors.Cancelled("the client is closed") from error
        raise


# In the details of what this client cancelled itself, by closing the channel or the call.
_CANCELLED_HERE = ("Channel closed", "Locally cancelled")


def _translate(error: Any) -> errors.Error:
    code, details = error.code().name, error.details() or ""
    # A server that stops cancels calls that reach it in that moment, and computed nothing of them.
    if code == "CANCELLED" and not any(mark in details for mark in _CANCELLED_HERE):
        code, details = "UNAVAILABLE", f"the server ended the call: {details}"
    return error_from_status(
        code,
        details,
        dict(error.trailing_metadata() or ()).get(STATUS_DETAILS_KEY),
        dict(error.initial_metadata() or ()).get(REQUEST_ID_KEY),
    )
