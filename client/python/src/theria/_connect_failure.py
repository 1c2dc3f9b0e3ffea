"""Explains from gRPC's status message why a connection failed or was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ConnectFailure", "Peer", "connect_failure"]


@dataclass(frozen=True)
class Peer:
    """The target of a client, and how it connects."""

    target: str
    uses_tls: bool
    connect_timeout: float
    keepalive_timeout: float


@dataclass(frozen=True)
class ConnectFailure:
    """An explanation.

    Attributes:
        message: Names the target and the likely cause; ends with gRPC's own reason.
        was_connected: Whether a connection existed and was lost.
        is_final: Whether a retry would take as long or fail in the same way.
    """

    message: str
    was_connected: bool
    is_final: bool


_CONNECTING = "failed to connect to all addresses; last error: "
_RESOLVING = ("dns resolution failed", "errors resolving")


def connect_failure(peer: Peer, details: str) -> ConnectFailure | None:
    """Explains the details of an UNAVAILABLE. None if they do not concern the connection."""
    text = details.lower().replace("_", " ")
    connecting = text.startswith((_CONNECTING.partition(";")[0], *_RESOLVING))
    reason = details.removeprefix(_CONNECTING)
    for marks, explanation, is_final in _while_connecting(peer) if connecting else _lost(peer):
        if any(mark in text for mark in marks):
            return ConnectFailure(f"{explanation} ({reason})", not connecting, is_final)
    return None


def _while_connecting(peer: Peer) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Marks in the lower-case details, their meaning, and whether the failure is final."""
    target = peer.target
    yield _RESOLVING, f"the host of {target} cannot be resolved", False
    yield (
        ("connection refused",),
        f"no server listens at {target}; check that theria-server runs there, and the port",
        False,
    )
    yield (
        ("no such file or directory",),
        f"there is no socket at {target}; check that theria-server runs with --listen {target}",
        False,
    )
    yield ("permission denied",), f"this user may not connect to {target}", True
    yield (
        ("network is unreachable", "no route to host"),
        f"no network route leads to {target}",
        False,
    )
    yield (
        ("wrong version number",),
        f"{target} does not speak TLS; connect without tls, or check the port",
        True,
    )
    yield (
        ("certificate verify failed",),
        f"the certificate of {target} is not trusted; "
        "pass tls=theria.Tls(ca_file=...) with its authority's certificate",
        True,
    )
    yield (
        ("not in peer certificate", "hostname verification"),
        f"the certificate of {target} is for another name; "
        "pass tls=theria.Tls(server_name=...) with that name",
        True,
    )
    yield (
        ("http1", "failed parsing http/2"),
        f"{target} speaks HTTP/1, not gRPC; check the port (is it --metrics-listen?)",
        True,
    )
    yield (
        ("timed out", "handshake read failed", "endpoint closing", "timeout occurred"),
        f"{target} did not answer within {peer.connect_timeout:g} s; "
        "check the address, and that a firewall lets the port through",
        True,
    )
    yield (
        ("socket closed", "connection reset", "broken pipe"),
        (
            f"{target} closed the connection during the TLS handshake; if it asks for a client "
            "certificate, pass tls=theria.Tls(cert_file=..., key_file=...)"
            if peer.uses_tls
            else f"{target} closed the connection before it said anything; if the server uses "
            "TLS, pass tls=theria.Tls(...)"
        ),
        False,
    )
    yield ("",), f"cannot connect to {target}", False


def _lost(peer: Peer) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    yield (
        ("keepalive", "ping timeout"),
        f"the connection to {peer.target} is dead: it did not answer a ping within "
        f"{peer.keepalive_timeout:g} s",
        False,
    )
    yield (
        ("too many pings",),
        f"{peer.target} refuses this client's keepalive pings as too frequent; "
        "raise keepalive.interval",
        False,
    )
    yield (
        ("socket closed", "connection reset", "broken pipe"),
        f"{peer.target} closed the connection during the call; the server may have ended",
        False,
    )
