"""What somebody without a token can do to a server that he reaches: docs/operations.md lists it."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from observe import await_that, gauge, metrics
from raw_http2 import call_compressed, gzip_of_zeros
from server_process import ServerProcess, server_binary

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


class TestDescriptors:
    def test_the_limit_is_raised_at_the_start(self, start_server: StartServer) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        low = min(soft, 128)
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        try:
            server = start_server()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert gauge(server, "process_max_fds") == pytest.approx(hard, rel=1e-5)
        assert f"event=descriptors limit={hard} given={low}" in server.log()

    def test_a_server_out_of_descriptors_ends_for_its_supervisor(self, tmp_path: Path) -> None:
        """Not deaf for good, which nobody would restart."""
        server = ServerProcess(tmp_path / "server")
        connections: list[socket.socket] = []
        try:
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (64, 64))
            connections = [connect_to(server.target) for _ in range(80)]
            assert server.process.wait(timeout=60) == 4
        finally:
            server.kill()
            for connection in connections:
                connection.close()
        assert 'event="listener fault"' in server.log()


@pytest.fixture
def unread_server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, int]]:
    """A server whose log nobody reads, its target, and the end of the pipe to read it from."""
    reader, writer = os.pipe()
    ports = tmp_path / "ports"
    process = subprocess.Popen(
        [
            str(server_binary()),
            "--listen=127.0.0.1:0",
            f"--port-file={ports}",
            "--metrics-listen=none",
        ],
        stderr=writer,
    )
    os.close(writer)
    try:
        await_that(lambda: ports.exists() and ports.read_text().endswith("\n"))
        yield process, ports.read_text().strip(), reader
    finally:
        process.kill()
        process.wait()
        os.close(reader)


class TestLog:
    def test_a_reader_that_stops_holds_up_nobody(
        self, unread_server: tuple[subprocess.Popen[bytes], str, int]
    ) -> None:
        process, target, _ = unread_server
        calls = 1500  # the pipe is full after some 300
        with grpc.insecure_channel(target) as channel:
            check = channel.unary_unary(HEALTH)
            for _ in range(calls):
                check(b"", timeout=20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0

    def test_a_reader_that_comes_back_gets_the_backlog(
        self, unread_server: tuple[subprocess.Popen[bytes], str, int]
    ) -> None:
        process, target, reader = unread_server
        calls = 1000
        with grpc.insecure_channel(target) as channel:
            check = channel.unary_unary(HEALTH)
            for _ in range(calls):
                check(b"", timeout=20)
        text = b""

        def read() -> None:
            nonlocal text
            while chunk := os.read(reader, 65536):
                text += chunk

        thread = threading.Thread(target=read)
        thread.start()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        thread.join(timeout=20)
        lines = text.decode().splitlines()
        assert sum("Health/Check" in line for line in lines) == calls
        assert all(line.startswith("time=") for line in lines)
        assert "drained=true" in lines[-1]


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
