"""What somebody without a token can do to a server that he reaches: docs/operations.md lists it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from observe import await_that, metrics
from raw_http2 import call_compressed, gzip_of_zeros
from server_process import ServerProcess

import theria

StartServer = Callable[..., ServerProcess]

FORWARD = "/theria.v1.AttentionService/Forward"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def connect_to(target: str) -> socket.socket:
    host, port = target.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=20)


def assert_answers(target: str) -> None:
    with theria.connect(target, timeout=20.0) as client:
        assert client.health() == "serving"


class TestCompression:
    """No compressed message is inflated: a thousandth of the memory that it takes comes in."""

    @pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    def test_a_compressed_request_is_refused_with_the_reason(
        self, start_server: StartServer, algorithm: grpc.Compression
    ) -> None:
        server = start_server()
        with grpc.insecure_channel(server.target) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(FORWARD)(bytes(10_000), compression=algorithm, timeout=20)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "Compression algorithm" in caught.value.details()

    def test_a_mebibyte_that_inflates_to_a_gibibyte_takes_no_memory(
        self, start_server: StartServer
    ) -> None:
        server = start_server()
        assert_answers(server.target)
        bomb = gzip_of_zeros(1 << 30)
        assert len(bomb) < 1.1 * (1 << 20)
        answer = call_compressed(server.target, FORWARD, "gzip", bomb)
        assert b"Compression algorithm" in answer
        assert peak_bytes(server) < 256 << 20
        assert_answers(server.target)

    def test_a_message_that_lies_about_its_compression_is_not_inflated(
        self, start_server: StartServer
    ) -> None:
        server = start_server()
        call_compressed(server.target, FORWARD, "identity", gzip_of_zeros(1 << 30))
        assert peak_bytes(server) < 256 << 20
        assert_answers(server.target)


def peak_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_silent_connections_do_not_block_the_metrics(start_server: StartServer) -> None:
    server = start_server()
    silent = [connect_to(server.metrics_target) for _ in range(32)]
    try:
        time.sleep(0.5)  # until the HTTP server has them
        started = time.monotonic()
        assert "process_open_fds" in metrics(server)
        assert time.monotonic() - started < 15
    finally:
        for connection in silent:
            connection.close()


def test_reflection_streams_hold_few_threads(start_server: StartServer) -> None:
    server = start_server()
    threads = Path(f"/proc/{server.process.pid}/task")
    # ServerReflectionRequest{list_services: "*"}
    request = b"\x3a\x01*"
    before = len(list(threads.iterdir()))
    is_over = threading.Event()

    def requests() -> Iterator[bytes]:
        yield request
        is_over.wait(timeout=60)

    codes: list[grpc.StatusCode] = []
    with grpc.insecure_channel(server.target) as channel:
        calls = [channel.stream_stream(REFLECTION)(requests(), timeout=60) for _ in range(80)]
        answered = 0
        for call in calls:
            try:
                assert next(call)
                answered += 1
            except grpc.RpcError as error:
                codes.append(error.code())
        assert len(list(threads.iterdir())) < before + 32
        assert answered > 0
        assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert_answers(server.target)
        is_over.set()
        for call in calls:
            call.cancel()

        def reflects() -> bool:
            try:
                return bool(next(channel.stream_stream(REFLECTION)(iter([request]), timeout=20)))
            except grpc.RpcError:
                return False

        await_that(reflects)
