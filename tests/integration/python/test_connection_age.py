"""A bounded age of connections: calls go on, over connections that are made anew."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from observe import await_that
from server_process import ServerProcess

import theria


def peers(server: ServerProcess) -> set[str]:
    """The connections that calls came over."""
    words = [word for line in server.log().splitlines() for word in line.split()]
    return {word for word in words if word.startswith("peer=")}


def call_until(server: ServerProcess, is_enough: Callable[[], bool]) -> None:
    q = np.ones((1, 1, 2, 4))
    with theria.connect(server.target) as client:

        def call() -> bool:
            np.testing.assert_allclose(client.forward(q, q, q).o, q)
            return is_enough()

        await_that(call, otherwise=lambda: peers(server))


def test_a_client_connects_anew_and_loses_no_call(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server("--max-connection-age=500ms")
    call_until(server, lambda: len(peers(server)) >= 3)
    assert "code=Unavailable" not in server.log()


def test_without_one_a_connection_lasts(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    end = time.monotonic() + 1.0
    call_until(server, lambda: time.monotonic() > end)
    assert len(peers(server)) == 1
