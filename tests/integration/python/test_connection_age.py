"""A bounded age of connections: calls go on, over connections that are made anew."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from server_process import ServerProcess

import theria


def peers(server: ServerProcess) -> set[str]:
    """The connections that calls came over."""
    words = [word for line in server.log().splitlines() for word in line.split()]
    return {word for word in words if word.startswith("peer=")}


def call_for(server: ServerProcess, seconds: float) -> None:
    q = np.ones((1, 1, 2, 4))
    with theria.connect(server.target) as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            np.testing.assert_allclose(client.forward(q, q, q).o, q)
            time.sleep(0.02)


def test_a_client_connects_anew_and_loses_no_call(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server("--max-connection-age=500ms")
    call_for(server, 2.0)
    assert len(peers(server)) >= 3
    assert "code=Unavailable" not in server.log()


def test_without_one_a_connection_lasts(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    call_for(server, 1.0)
    assert len(peers(server)) == 1
