"""A device that faults for good: the call says INTERNAL, health turns, the process ends with 3."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from server_process import ServerProcess

import theria

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def watch_health(target: str, seen: list[int], first: threading.Event) -> None:
    """Appends every status of the server to `seen` until it is gone."""
    with grpc.insecure_channel(target) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            for response in watch(health_pb2.HealthCheckRequest(), timeout=60):
                seen.append(response.status)
                first.set()
        except grpc.RpcError:
            pass


def test_a_fault_ends_the_process(
    start_server: Callable[..., ServerProcess],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THERIA_TEST_FAULT_AFTER_RUNS", "2")
    server = start_server()
    seen: list[int] = []
    first = threading.Event()
    watcher = threading.Thread(target=watch_health, args=(server.target, seen, first))
    watcher.start()
    assert first.wait(30)
    q, k, v = (rng.standard_normal((1, 2, 6, 4)) for _ in range(3))
    with theria.connect(server.target, timeout=30.0) as client:
        client.forward(q, k, v)
        client.forward(q, k, v)
        with pytest.raises(theria.Internal):
            client.forward(q, k, v)
    assert server.process.wait(timeout=30) == 3
    watcher.join(timeout=30)
    assert seen == [SERVING, NOT_SERVING]
    assert 'event="device fault"' in server.log()
