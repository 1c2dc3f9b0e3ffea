"""When a client considers a connection dead."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from theria._errors import InvalidArgument

__all__ = ["DEFAULT_KEEPALIVE", "Keepalive", "seconds_option"]

# gRPC takes whole milliseconds in 31 bits, which is about 24 days.
_MOST_SECONDS = 24 * 86400.0


@dataclass(frozen=True)
class Keepalive:
    """HTTP/2 keepalive: pings that detect a dead connection.

    A connection can die without notice, for example after a link failure or behind a firewall that
    dropped its state. Pings do not limit how long a call may take: the server responds to them
    while it computes.

    Attributes:
        interval: Idle seconds before the client pings; at least 1.
        timeout: Seconds to wait for the response. Calls in progress then raise Unavailable and are
            retried.
        without_calls: Whether to ping between calls as well.

    Raises:
        InvalidArgument: A value is out of range.
    """

    interval: float = 30.0
    timeout: float = 20.0
    without_calls: bool = False

    def __post_init__(self) -> None:
        seconds_option("keepalive.interval", self.interval, least=1.0)
        seconds_option("keepalive.timeout", self.timeout)

    def channel_options(self) -> list[tuple[str, Any]]:
        """The gRPC channel options."""
        timeout_ms = seconds_option("keepalive.timeout", self.timeout)
        return [
            ("grpc.keepalive_time_ms", seconds_option("keepalive.interval", self.interval)),
            ("grpc.keepalive_timeout_ms", timeout_ms),
            # A minute by default, during which newer versions of gRPC wait for any ping.
            ("grpc.http2.ping_timeout_ms", timeout_ms),
            ("grpc.keepalive_permit_without_calls", int(self.without_calls)),
            # By default, gRPC stops pinging after two pings without data in between. A long
            # computation sends no data.
            ("grpc.http2.max_pings_without_data", 0),
        ]


def seconds_option(field: str, seconds: float, least: float = 0.0) -> int:
    """Positive seconds as whole milliseconds.

    Raises:
        InvalidArgument: `seconds` is not a number, not positive, or less than `least`.
    """
    if not (isinstance(seconds, Real) and seconds > 0 and seconds >= least):
        bound = f"at least {least:g}" if least else "positive"
        raise InvalidArgument.of(field, f"{field} is {seconds!r} s, must be {bound}")
    return max(1, round(min(float(seconds), _MOST_SECONDS) * 1e3))


DEFAULT_KEEPALIVE = Keepalive()
