"""The trace of a caller (W3C Trace Context) stands in the server's log."""

from __future__ import annotations

import grpc
from observe import await_that
from server_process import ServerProcess

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
INFO = "/theria.v1.ServerService/GetServerInfo"
HEALTH = "/grpc.health.v1.Health/Check"


def call(server: ServerProcess, method: str, *traceparents: str) -> str:
    """The line that the log has about it."""
    with grpc.insecure_channel(server.target) as channel:
        _, call = channel.unary_unary(method).with_call(
            b"", metadata=[("traceparent", value) for value in traceparents], timeout=60
        )
    metadata = dict(call.initial_metadata())
    request_id = metadata["theria-request-id"]

    def lines() -> list[str]:
        return [line for line in server.log().splitlines() if f"id={request_id} " in line]

    await_that(lambda: bool(lines()), otherwise=server.log)
    return lines()[0]


def test_a_trace_is_logged_with_the_call(server: ServerProcess) -> None:
    for method in (INFO, HEALTH):
        line = call(server, method, f"00-{TRACE}-{PARENT}-01")
        assert f"trace_id={TRACE} parent_id={PARENT} sampled=true" in line
    assert "sampled=false" in call(server, INFO, f"00-{TRACE}-{PARENT}-00")


def test_no_trace_or_a_broken_one_is_ignored(server: ServerProcess) -> None:
    good = f"00-{TRACE}-{PARENT}-01"
    for traceparents in ((), ("nonsense",), (good.upper(),)):
        assert "trace_id" not in call(server, INFO, *traceparents)
