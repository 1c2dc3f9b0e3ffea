"""Setting the date moves no deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import endless
import numpy as np
import pytest
from observe import await_gauge
from server_process import ServerProcess
from test_faults import ONCE, attention, qkv
from wall_clock import WallClock

import theria

StartServer = Callable[..., ServerProcess]


@pytest.mark.parametrize("jump", [300, -3600])
def test_deadlines_do_not_mind_a_jump_of_the_clock(
    start_server: StartServer, rng: np.random.Generator, wall_clock: WallClock, jump: int
) -> None:
    """Neither those of running calls nor those of waiting ones."""
    tensors = qkv(rng)
    server = start_server("--compute-slots=1", environment=wall_clock.environment)
    with (
        theria.connect(server.target, timeout=100.0, retry=ONCE) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        started = time.monotonic()
        brief = threads.submit(client.hvp, *endless.OPERANDS, **endless.OPTIONS, timeout=8.0)
        await_gauge(server, "theria_running_requests", 1)
        waiting = threads.submit(client.forward, *tensors)
        await_gauge(server, "theria_queue_depth", 1)
        wall_clock.jump(jump)
        with pytest.raises(theria.DeadlineExceeded):
            brief.result(timeout=60)
        assert time.monotonic() - started > 7.9
        np.testing.assert_allclose(waiting.result(timeout=60).o, attention(*tensors), rtol=1e-10)


def test_the_descriptor_socket_does_not_mind_a_jump_of_the_clock(
    start_server: StartServer, tmp_path: Path, wall_clock: WallClock
) -> None:
    """Silent connections, of which it has 64, are cut after a second all the same."""
    path = tmp_path / "memory"
    server = start_server(
        f"--listen=unix:{tmp_path}/rpc",
        f"--shared-memory={path}",
        environment=wall_clock.environment,
    )
    silent = [socket.socket(socket.AF_UNIX) for _ in range(64)]
    try:
        for connection in silent:
            connection.connect(str(path))
        time.sleep(0.5)  # until the server has accepted them
        wall_clock.jump(-3600)
        for connection in silent:
            connection.settimeout(20)
            assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()
    assert server.is_running()
