"""What the server and its clients promise when something breaks; docs/operations.md lists it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import endless
import grpc
import numpy as np
import pytest
from observe import await_gauge, await_idle, await_that, computations, gauge
from server_process import ServerProcess
from wall_clock import WallClock

import theria

StartServer = Callable[..., ServerProcess]
ONCE = theria.RetryPolicy(max_attempts=1)

SLOW_UPLOAD = """
import sys, time
import grpc
from theria.v1 import tensor_pb2, tensor_store_pb2 as pb

def messages():
    yield pb.UploadRequest(
        header=pb.UploadHeader(dtype=tensor_pb2.FLOAT32, shape=[1 << 20])
    ).SerializeToString()
    yield pb.UploadRequest(chunk=bytes(1 << 20)).SerializeToString()
    print("half way", flush=True)
    time.sleep(600)

channel = grpc.insecure_channel(sys.argv[1])
channel.stream_unary("/theria.v1.TensorService/Upload")(messages())
"""


def qkv(rng: np.random.Generator, seq: int = 8) -> list[np.ndarray]:
    return [rng.standard_normal((1, 2, seq, 8)) for _ in range(3)]


def large(rng: np.random.Generator) -> np.ndarray:
    """A problem that takes a while."""
    return rng.standard_normal((1, 8, 1024, 64))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)) @ v


def assert_serves(server: ServerProcess, rng: np.random.Generator) -> None:
    tensors = qkv(rng)
    with theria.connect(server.target, timeout=60.0) as client:
        np.testing.assert_allclose(client.forward(*tensors).o, attention(*tensors), rtol=1e-10)


def test_a_client_killed_in_mid_upload_leaves_nothing(
    start_server: StartServer, rng: np.random.Generator
) -> None:
    server = start_server()
    uploads = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW_UPLOAD, server.target], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        for upload in uploads:
            assert upload.stdout is not None
            assert upload.stdout.readline() == "half way\n"
        await_gauge(server, "theria_store_pending_bytes", 3 * 4 * (1 << 20))
    finally:
        for upload in uploads:
            upload.kill()
            upload.wait()
    await_idle(server)
    assert gauge(server, "theria_store_bytes") == 0
    assert_serves(server, rng)


def test_a_server_killed_and_restarted_under_load_is_recovered_from(
    start_server: StartServer, rng: np.random.Generator
) -> None:
    """Clients retry, and upload again what the server lost; every answer is right."""
    server = start_server()
    tensors = qkv(rng)
    expected = attention(*tensors)
    patient = theria.RetryPolicy(max_attempts=30, max_backoff=1.0)
    is_over = threading.Event()
    answers = [0] * 4

    def work(index: int) -> None:
        with theria.connect(server.target, timeout=120.0, retry=patient) as client:
            resident = [client.put(tensor) for tensor in tensors]
            while not is_over.is_set():
                np.testing.assert_allclose(client.forward(*resident).o, expected, rtol=1e-10)
                answers[index] += 1

    with ThreadPoolExecutor(len(answers)) as threads:
        workers = [threads.submit(work, index) for index in range(len(answers))]
        try:
            for _ in range(2):
                before = list(answers)
                await_that(lambda b=before: all(a > c for a, c in zip(answers, b, strict=True)))
                server.restart()
            before = list(answers)
            await_that(lambda: all(a > c for a, c in zip(answers, before, strict=True)))
        finally:
            is_over.set()
        for worker in workers:
            worker.result()


def sharing(tmp_path: Path, socket: str) -> str | None:
    """The flag of a server that shares memory at a socket of that name; "": that shares none."""
    return f"--shared-memory={tmp_path / socket}" if socket else None


@pytest.mark.parametrize("after", ["memory", "other", ""])
def test_a_restart_that_loses_shared_memory_costs_speed_alone(
    start_server: StartServer, rng: np.random.Generator, tmp_path: Path, after: str
) -> None:
    """Whatever the first call after it is, and whether the server shares memory again or not."""
    before = sharing(tmp_path, "memory")
    server = start_server(before)
    tensors = [rng.standard_normal((1, 2, 8, 8)) for _ in range(8)]
    q, k, v = tensors[:3]
    with theria.connect(server.target, timeout=60.0) as client:
        expected = client.hvp(*tensors[:7])
        fields = ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot")
        expected_values = [getattr(expected, field) for field in fields]

        def hvp(region: theria.SharedRegion, shared: list[np.ndarray]) -> None:
            result = client.hvp(*shared[:7], region=region)
            for field, value in zip(fields, expected_values, strict=True):
                np.testing.assert_array_equal(getattr(result, field), value)

        def forward(region: theria.SharedRegion, shared: list[np.ndarray]) -> None:
            result = client.forward(*shared[:3], region=region)
            np.testing.assert_allclose(result.o, attention(q, k, v), rtol=1e-10)
            assert region.part(result.o.reshape(-1)) is None

        def resident(region: theria.SharedRegion, shared: list[np.ndarray]) -> None:
            result = client.forward(shared[0], kept, shared[2], region=region)
            np.testing.assert_allclose(result.o, attention(q, k, v), rtol=1e-10)

        def put(_: theria.SharedRegion, shared: list[np.ndarray]) -> None:
            np.testing.assert_array_equal(client.get(client.put(shared[7])), tensors[7])

        def get(region: theria.SharedRegion, _: list[np.ndarray]) -> None:
            np.testing.assert_array_equal(client.get(kept, region=region), k)

        for call in (hvp, forward, resident, put, get):
            region = client.share(1 << 20)
            shared = [region.empty(tensor.shape, tensor.dtype) for tensor in tensors]
            for place, tensor in zip(shared, tensors, strict=True):
                place[...] = tensor
            kept = client.put(shared[1])
            in_place = client.forward(*shared[:3], region=region).o
            assert region.part(in_place.reshape(-1)) is not None
            server.restart(sharing(tmp_path, after))
            assert region.is_shared  # nobody knows yet
            call(region, shared)
            assert not region.is_shared, call.__name__
            hvp(region, shared)
            np.testing.assert_allclose(in_place, attention(q, k, v), rtol=1e-10)
            if after:  # a new region, together with arrays in the one that is lost
                fresh = client.share(1 << 20)
                result = client.forward(*shared[:3], region=fresh)
                np.testing.assert_allclose(result.o, attention(q, k, v), rtol=1e-10)
                assert fresh.part(result.o.reshape(-1)) is not None
                assert gauge(server, "theria_shared_memory_regions") == 1
            else:
                with pytest.raises(theria.Unimplemented, match="--shared-memory"):
                    client.share(1 << 20)
            with pytest.raises(theria.RegionMissing, match=r"Client\.share makes another"):
                client.unshare(region)
            server.restart(before)


def test_shared_memory_comes_and_goes_under_load(
    start_server: StartServer, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Threads of one client share regions, whenever they can; every answer is right."""
    server = start_server(sharing(tmp_path, "memory"))
    tensors = qkv(rng)
    expected = attention(*tensors)
    patient = theria.RetryPolicy(max_attempts=30, max_backoff=1.0)
    is_over = threading.Event()
    answers = {"in place": 0, "by message": 0}
    lock = threading.Lock()

    def share(client: theria.Client) -> theria.SharedRegion | None:
        try:
            return client.share(1 << 20)
        except (theria.Unimplemented, theria.Internal):
            return None  # shares none now, or stopped in the midst of it

    def work(client: theria.Client) -> None:
        region = share(client)
        while not is_over.is_set():
            if region is None or not region.is_shared:
                region = share(client)
            inputs = tensors
            if region is not None:
                inputs = [region.empty(tensor.shape, tensor.dtype) for tensor in tensors]
                for place, tensor in zip(inputs, tensors, strict=True):
                    place[...] = tensor
            result = client.forward(*inputs, region=region)
            np.testing.assert_allclose(result.o, expected, rtol=1e-10)
            in_place = region is not None and region.part(result.o.reshape(-1)) is not None
            with lock:
                answers["in place" if in_place else "by message"] += 1

    def await_some_more(way: str) -> None:
        before = answers[way]
        await_that(lambda: answers[way] > before + 20, 60)

    with (
        theria.connect(server.target, timeout=120.0, retry=patient) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        workers = [threads.submit(work, client) for _ in range(4)]
        try:
            await_some_more("in place")
            for after in ("", "memory", "other", ""):
                server.restart(sharing(tmp_path, after))
                await_some_more("in place" if after else "by message")
        finally:
            is_over.set()
        for worker in workers:
            worker.result()


def test_a_storm_of_deadlines_passes(start_server: StartServer, rng: np.random.Generator) -> None:
    """Over calls of which each other one cannot be answered in time."""
    server = start_server("--compute-slots=1", "--max-queued-requests=64")
    tensor = large(rng)
    outcomes: dict[str, int] = {}
    lock = threading.Lock()

    def call(index: int) -> None:
        timeout = 0.005 * (1 + index // 2 % 40)
        with theria.connect(server.target, retry=ONCE) as client:
            try:
                if index % 2:
                    client.hvp(*endless.OPERANDS, **endless.OPTIONS, timeout=timeout)
                else:
                    client.vjp(tensor, tensor, tensor, tensor, timeout=timeout)
                outcome = "OK"
            except theria.Error as error:
                outcome = error.code
        with lock:
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(call, range(160)))
    assert set(outcomes) <= {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert outcomes.get("DEADLINE_EXCEEDED", 0) > 0, outcomes
    await_idle(server)
    assert computations(server, "hvp") == 0
    assert_serves(server, rng)


def test_cancelled_calls_stop_computing(
    start_server: StartServer, rng: np.random.Generator
) -> None:
    """The one that runs and those that wait: the server is idle, and computed none to its end."""
    server = start_server("--compute-slots=1")

    async def cancel_many() -> list[object]:
        async with theria.aio.connect(server.target) as client:
            calls = [
                asyncio.create_task(client.hvp(*endless.OPERANDS, **endless.OPTIONS))
                for _ in range(8)
            ]
            await asyncio.to_thread(await_gauge, server, "theria_running_requests", 1)
            await asyncio.to_thread(await_gauge, server, "theria_queue_depth", 7)
            for call in calls:
                call.cancel()
            return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(cancel_many())
    assert [type(result) for result in results] == 8 * [asyncio.CancelledError], results
    await_idle(server)
    assert computations(server, "hvp") == 0
    assert_serves(server, rng)


def test_a_slow_reader_is_cut_and_holds_up_nobody(
    start_server: StartServer, rng: np.random.Generator
) -> None:
    server = start_server("--transfer-stall-timeout=1s")
    with theria.connect(server.target, timeout=60.0) as client:
        tensor = client.put(np.zeros((1, 1, 4096, 1024), np.float32))  # 16 MiB
        request = theria.v1.tensor_store_pb2.DownloadRequest(handle=tensor.handle)
        window = [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)]
        with grpc.insecure_channel(server.target, options=window) as channel:
            stub = channel.unary_stream("/theria.v1.TensorService/Download")
            responses = stub(request.SerializeToString(), timeout=60)
            next(responses)
            assert_serves(server, rng)
            client.delete(tensor)
            # The reader's lease holds the bytes until the server cuts him off.
            await_gauge(server, "theria_store_bytes", 0)
            with pytest.raises(grpc.RpcError):
                list(responses)


def test_a_full_store_says_so_and_recovers(
    start_server: StartServer, rng: np.random.Generator
) -> None:
    server = start_server("--cache-bytes=4MiB")
    with theria.connect(server.target, timeout=60.0, retry=ONCE) as client:
        mebibyte = np.zeros((1, 1, 512, 512), np.float32)
        pinned = [client.put(mebibyte, pin=600.0) for _ in range(4)]
        q = rng.standard_normal((1, 1, 256, 64), dtype=np.float32)
        for attempt in (
            lambda: client.put(mebibyte),
            lambda: client.forward(q, q, q, outputs={"o": "resident"}),
        ):
            with pytest.raises(theria.ResourceExhausted) as caught:
                attempt()
            assert caught.value.retry_delay
        np.testing.assert_allclose(
            client.forward(q, q, q).o, attention(q, q, q), rtol=1e-4, atol=1e-6
        )
        client.unpin(pinned[0])
        np.testing.assert_array_equal(client.get(client.put(mebibyte)), mebibyte)
        assert gauge(server, "theria_store_pending_bytes") == 0


@pytest.mark.parametrize("jump", [86_400, -86_400])
def test_leases_do_not_mind_a_jump_of_the_clock(
    start_server: StartServer, rng: np.random.Generator, wall_clock: WallClock, jump: int
) -> None:
    server = start_server(environment=wall_clock.environment)
    with theria.connect(server.target, timeout=60.0) as client:
        kept = client.put(np.ones(4), ttl=600.0, retain="none")
        brief = client.put(np.ones(4), ttl=3.0, retain="none")
        wall_clock.jump(jump)
        assert 500 < client.stat(kept).expires_in <= 600
        np.testing.assert_array_equal(client.get(kept), np.ones(4))

        def is_gone() -> bool:
            try:
                client.stat(brief)
            except theria.TensorMissing:
                return True
            return False

        await_that(is_gone)
    assert_serves(server, rng)


def test_sigterm_under_load_answers_what_was_accepted(
    start_server: StartServer, rng: np.random.Generator
) -> None:
    """Each call ends with its right answer or with UNAVAILABLE; none that ran is lost."""
    server = start_server("--compute-slots=2")
    tensors = qkv(rng, seq=128)
    expected = attention(*tensors)
    answered: set[str] = set()
    refused: list[str] = []
    lock = threading.Lock()

    def work() -> None:
        with theria.connect(server.target, timeout=60.0, retry=ONCE) as client:
            while True:
                try:
                    result = client.forward(*tensors)
                except theria.Error as error:
                    with lock:
                        refused.append(error.code)
                    return
                np.testing.assert_allclose(result.o, expected, rtol=1e-10)
                with lock:
                    answered.add(result.execution.request_id)

    with ThreadPoolExecutor(8) as threads:
        workers = [threads.submit(work) for _ in range(8)]
        await_that(lambda: len(answered) > 40)
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        for worker in workers:
            worker.result(timeout=60)
    assert set(refused) == {"UNAVAILABLE"}
    finished = re.findall(
        r"id=(\w+) method=/theria.v1.AttentionService/Forward code=(\w+)", server.log()
    )
    assert {code for _, code in finished} <= {"OK", "Unavailable"}
    # What the server says that it answered, and what the clients have.
    assert {name for name, code in finished if code == "OK"} == answered
    assert "drained=true" in server.log()


def test_calls_on_their_way_to_a_server_that_ends_get_unavailable(
    start_server: StartServer,
) -> None:
    """Not CANCELLED, as those get that gRPC itself ends when it shuts down."""
    server = start_server()
    answered = threading.Semaphore(0)

    def work() -> list[grpc.StatusCode]:
        local = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.target, options=local) as channel:
            call = channel.unary_unary("/theria.v1.ServerService/GetServerInfo")
            codes: list[grpc.StatusCode] = []
            pauses = 20  # after refusals, of a client that tries again
            while pauses > 0:
                calls = [call.future(b"", timeout=30) for _ in range(16)]
                refused = [one.code() for one in calls if one.code() != grpc.StatusCode.OK]
                codes += refused
                answered.release()
                if refused:
                    pauses -= 1
                    time.sleep(0.005)
            return codes

    with ThreadPoolExecutor(8) as threads:
        workers = [threads.submit(work) for _ in range(8)]
        for _ in range(80):
            answered.acquire()
        os.kill(server.process.pid, signal.SIGTERM)
        codes = [code for worker in workers for code in worker.result(timeout=120)]
    assert server.process.wait(timeout=60) == 0
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
