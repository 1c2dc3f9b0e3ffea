"""Connections that die without a word, and servers that are not there.

The intervals are as short as gRPC allows: pings of one second.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import endless
import grpc
import pytest
from black_hole import BlackHole
from observe import await_gauge, await_idle
from server_process import ServerProcess

import theria

StartServer = Callable[..., ServerProcess]
ONCE = theria.RetryPolicy(max_attempts=1)
EVERY_SECOND = theria.Keepalive(interval=1.0, timeout=1.0)

# Runs a call of a client of either kind, connected with these arguments.
Run = Callable[..., Any]


def run_blocking(
    target: str, method: str, *arguments: Any, call: Any = None, **options: Any
) -> Any:
    with theria.connect(target, **options) as client:
        return getattr(client, method)(*arguments, **(call or {}))


def run_aio(target: str, method: str, *arguments: Any, call: Any = None, **options: Any) -> Any:
    async def run() -> Any:
        async with theria.aio.connect(target, **options) as client:
            coroutine: Coroutine[Any, Any, Any] = getattr(client, method)(
                *arguments, **(call or {})
            )
            return await coroutine

    return asyncio.run(run())


@pytest.fixture(params=[run_blocking, run_aio], ids=["blocking", "aio"])
def run(request: pytest.FixtureRequest) -> Run:
    value: Run = request.param
    return value


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_keepalive_ends_a_call_over_a_dead_connection(start_server: StartServer, run: Run) -> None:
    server = start_server()
    with BlackHole(server.target) as proxy, ThreadPoolExecutor(1) as threads:
        call = threads.submit(
            run,
            proxy.target,
            "hvp",
            *endless.OPERANDS,
            call={**endless.OPTIONS, "timeout": 90.0},
            retry=ONCE,
            keepalive=EVERY_SECOND,
        )
        await_gauge(server, "theria_running_requests", 1)
        proxy.stop_forwarding()
        with at_most(20.0), pytest.raises(theria.Unavailable, match=f"{proxy.target} is dead"):
            call.result()


def test_the_server_cancels_calls_over_a_dead_connection(start_server: StartServer) -> None:
    server = start_server("--keepalive-interval=1s", "--keepalive-timeout=1s")
    with (
        BlackHole(server.target) as proxy,
        ThreadPoolExecutor(1) as threads,
        theria.connect(proxy.target, keepalive=None, retry=ONCE) as client,
    ):
        call = threads.submit(client.hvp, *endless.OPERANDS, **endless.OPTIONS)
        await_gauge(server, "theria_running_requests", 1)
        proxy.stop_forwarding()
        with at_most(20.0):
            await_idle(server)
        client.close()
        with pytest.raises(theria.Cancelled):
            call.result()


def test_keepalive_leaves_a_long_call_alone(start_server: StartServer, run: Run) -> None:
    """Both sides ping each second while the server computes, and no byte of data passes."""
    server = start_server("--keepalive-interval=1s", "--keepalive-timeout=10s")
    with pytest.raises(theria.DeadlineExceeded):
        run(
            server.target,
            "hvp",
            *endless.OPERANDS,
            call={**endless.OPTIONS, "timeout": 6.0},
            retry=ONCE,
            keepalive=theria.Keepalive(interval=1.0, timeout=10.0),
        )


def test_frequent_pings_are_permitted(server: ServerProcess) -> None:
    """Each second, by a client of gRPC's own, with a call and without."""
    options = [
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    states: list[grpc.ChannelConnectivity] = []
    with (
        grpc.insecure_channel(server.target, options) as idle,
        grpc.insecure_channel(server.target, options) as busy,
    ):
        grpc.channel_ready_future(idle).result(timeout=60)
        idle.subscribe(states.append)
        watch = busy.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=7)
        with pytest.raises(grpc.RpcError) as caught:
            list(watch)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, caught.value.details()
        assert set(states) == {grpc.ChannelConnectivity.READY}


def test_the_connect_timeout_holds(run: Run) -> None:
    with (
        BlackHole() as proxy,
        at_most(4.0),
        pytest.raises(theria.Unavailable, match=f"{proxy.target} did not answer within 1 s"),
    ):
        run(proxy.target, "info", connect_timeout=1.0)


def test_a_timeout_before_the_first_connection_says_so(run: Run) -> None:
    with (
        BlackHole() as proxy,
        pytest.raises(theria.DeadlineExceeded, match=f"before {proxy.target} answered"),
    ):
        run(proxy.target, "info", timeout=0.3)


def test_a_wrong_port_is_told_at_once(run: Run) -> None:
    target = f"127.0.0.1:{unused_port()}"
    with at_most(3.0), pytest.raises(theria.Unavailable, match=f"no server listens at {target}"):
        run(target, "info")


def test_a_policy_waits_for_a_server_that_starts(run: Run) -> None:
    target = f"127.0.0.1:{unused_port()}"
    policy = theria.RetryPolicy(max_attempts=4, initial_backoff=0.5, multiplier=1.0, jitter=0.0)
    start = time.monotonic()
    with pytest.raises(theria.Unavailable):
        run(target, "info", retry=policy)
    assert time.monotonic() - start >= 1.5


def test_a_missing_socket_is_told(run: Run, tmp_path: Path) -> None:
    target = f"unix:{tmp_path}/socket"
    with at_most(3.0), pytest.raises(theria.Unavailable, match=f"there is no socket at {target}"):
        run(target, "info")


def test_the_metrics_address_is_told(server: ServerProcess, run: Run) -> None:
    with at_most(3.0), pytest.raises(theria.Unavailable, match="speaks HTTP/1, not gRPC"):
        run(server.metrics_target, "info")


def test_tls_to_a_server_in_plain_text_is_told(server: ServerProcess, run: Run) -> None:
    with at_most(3.0), pytest.raises(theria.Unavailable, match="does not speak TLS"):
        run(server.target, "info", tls=theria.Tls())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"connect_timeout": 0.0}, "connect_timeout"),
        ({"connect_timeout": float("nan")}, "connect_timeout"),
        ({"connect_timeout": "5"}, "connect_timeout"),
    ],
)
def test_a_connect_timeout_must_be_positive(
    run: Run, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(theria.InvalidArgument) as caught:
        run("localhost:1", "info", **arguments)
    assert caught.value.field == field


def test_keepalive_must_be_in_range() -> None:
    for arguments, field in (
        ({"interval": 0.9}, "keepalive.interval"),
        ({"timeout": -1.0}, "keepalive.timeout"),
    ):
        with pytest.raises(theria.InvalidArgument) as caught:
            theria.Keepalive(**arguments)
        assert caught.value.field == field
