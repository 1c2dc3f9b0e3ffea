"""The clients against a real server: asyncio, threads, errors, deadlines, unix sockets."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import endless
import numpy as np
import pytest
from observe import await_gauge, await_idle, await_that, computations, gauge
from server_process import ServerProcess

import theria
from theria import Client


def qkv(rng: np.random.Generator, seq: int = 6) -> list[Any]:
    return [rng.standard_normal((1, 2, seq, 4)) for _ in range(3)]


def test_info_says_what_there_is(client: Client) -> None:
    info = client.info()
    assert info.backend == "cpu"
    assert info.version
    assert info.devices[0].id == "cpu"
    assert info.devices[0].memory_bytes > 0
    kernels = {(k.operation, k.dtype) for k in info.kernels}
    for operation in ("forward", "vjp", "jvp", "hvp"):
        for dtype in ("float64", "float32", "float16", "bfloat16"):
            assert (operation, dtype) in kernels
    assert info.limits.max_message_bytes > 1_000_000
    assert info.uptime > 0


def test_execution_says_who_served(client: Client, rng: np.random.Generator) -> None:
    execution = client.forward(*qkv(rng)).execution
    assert execution.implementation == "reference"
    assert execution.device == "cpu"
    assert execution.kernel
    assert execution.compute_seconds > 0
    assert execution.queue_seconds >= 0
    other = client.forward(*qkv(rng)).execution
    assert execution.request_id != other.request_id


def test_the_request_id_of_an_error_stands_in_the_servers_log(
    server: ServerProcess, client: Client, rng: np.random.Generator
) -> None:
    with pytest.raises(theria.InvalidArgument) as caught:
        client.forward(*qkv(rng), scale=float("nan"))
    assert caught.value.field == "options.scale"
    assert caught.value.request_id
    await_that(lambda: caught.value.request_id in server.log(), otherwise=server.log)


def test_errors_name_fields_and_what_was_expected(client: Client, rng: np.random.Generator) -> None:
    q, k, v = qkv(rng)
    with pytest.raises(theria.InvalidArgument, match=r"k\.shape\[3\] is 3, must equal") as caught:
        client.forward(q, k[..., :3], v)
    assert caught.value.field == "k.shape[3]"
    with pytest.raises(theria.InvalidArgument) as caught:
        client.forward(q, k.astype(np.float32), v)
    assert caught.value.field == "k.dtype"
    with pytest.raises(theria.Unimplemented):
        client.forward(q, k, v, implementation="fused")


def test_benchmark(client: Client) -> None:
    r = client.benchmark("hvp", batch=1, heads_q=2, seq_q=16, head_dim=8, repetitions=3)
    assert len(r.seconds) == 3
    assert min(r.seconds) <= r.median_seconds <= max(r.seconds)
    assert r.flops_per_second == pytest.approx(r.flops / r.median_seconds, rel=1e-6)
    with pytest.raises(theria.InvalidArgument) as caught:
        client.benchmark("vjp", batch=0, heads_q=2, seq_q=16, head_dim=8)
    assert caught.value.field == "batch"
    with pytest.raises(theria.InvalidArgument, match="must be one of"):
        client.benchmark("sideways", batch=1, heads_q=2, seq_q=16, head_dim=8)


def test_health(client: Client) -> None:
    assert client.health() == "serving"
    for service in ("AttentionService", "TensorService", "ServerService"):
        assert client.health(f"theria.v1.{service}") == "serving"
    assert client.health("theria.v1.NoSuchService") == "service_unknown"


def test_a_deadline_ends_a_long_computation(server: ServerProcess, client: Client) -> None:
    ended = computations(server, "hvp")
    started = gauge(server, "theria_queue_seconds_count")
    timeout = 0.1
    while gauge(server, "theria_queue_seconds_count") == started:  # the deadline came before
        timeout *= 3
        with pytest.raises(theria.DeadlineExceeded):
            client.hvp(*endless.OPERANDS, **endless.OPTIONS, timeout=timeout)
        await_idle(server)
    assert computations(server, "hvp") == ended


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    client = theria.connect(server.target)
    client.info()
    client.close()
    client.close()
    with pytest.raises(theria.Cancelled, match="closed"):
        client.info()


def test_unix_sockets(
    start_server: Callable[..., ServerProcess], tmp_path: Path, rng: np.random.Generator
) -> None:
    start_server(listen=f"unix:{tmp_path}/socket")
    q, k, v = qkv(rng)
    with theria.connect(f"unix:{tmp_path}/socket") as client:
        assert client.forward(q, k, v).o.shape == q.shape


def test_one_client_many_threads(client: Client, rng: np.random.Generator) -> None:
    inputs = [qkv(rng, seq=3 + i) for i in range(8)]
    expected = [client.vjp(*x, x[0]).k_bar for x in inputs]
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            q, k, v = inputs[i]
            for _ in range(20):
                tensor = client.put(k)
                np.testing.assert_array_equal(client.vjp(q, tensor, v, q).k_bar, expected[i])
                client.delete(tensor)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_one_resident_tensor_lost_by_many_threads_at_once(
    client: Client, rng: np.random.Generator
) -> None:
    q, k, v = qkv(rng)
    expected = client.forward(q, k, v).o
    tensor = client.put(k)
    before = {info.handle for info in client.list()} - {tensor.handle}
    client.delete(tensor.handle)  # the tensor itself would be without its source then
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(client.forward(q, tensor, v).o))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for o in results:
        np.testing.assert_array_equal(o, expected)
    assert {info.handle for info in client.list()} - before == {tensor.handle}
    client.delete(tensor)


# A process of its own: gRPC may not survive a fork while other threads use it, as tests before may.
FORKED = """
import os, sys, theria

client = theria.connect(sys.argv[1], timeout=60.0)
client.info()
process = os.fork()
if process == 0:
    try:
        with client:
            client.info()
    except RuntimeError as error:
        os._exit(7 if "connect in the child" in str(error) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
assert client.health() == "serving", "the child closed nothing of the parent's"
"""


def squared(target: str, tensor: theria.ResidentTensor) -> Any:
    with theria.connect(target, timeout=60.0) as client:
        return client.get(tensor) ** 2


class TestProcesses:
    def test_a_forked_child_gets_an_error_not_a_hang(self, server: ServerProcess) -> None:
        command = [sys.executable, "-c", FORKED, server.target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def test_workers_take_targets_and_resident_tensors(
        self, client: Client, server: ServerProcess
    ) -> None:
        tensor = client.put(np.arange(3.0))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            answer = pool.apply(squared, (server.target, tensor))
            with pytest.raises(TypeError, match="pass the target"):
                pool.apply(client.get, (tensor,))
        np.testing.assert_array_equal(answer, [0.0, 1.0, 4.0])
        client.delete(tensor)


class TestAsyncio:
    def test_all_calls(self, server: ServerProcess, rng: np.random.Generator) -> None:
        q, k, v = qkv(rng)

        async def run() -> None:
            async with theria.aio.connect(server.target, timeout=60.0) as client:
                assert await client.health() == "serving"
                f, r, j, h = await asyncio.gather(
                    client.forward(q, k, v, is_causal=True),
                    client.vjp(q, k, v, v, is_causal=True),
                    client.jvp(q, k, v, q, k, v, is_causal=True),
                    client.hvp(q, k, v, v, q, k, v, is_causal=True),
                )
                np.testing.assert_array_equal(f.o, j.o)
                np.testing.assert_allclose(r.q_bar, h.q_bar, rtol=1e-12)
                adjoint = (
                    (v * j.o_dot).sum(),
                    sum((x * y).sum() for x, y in ((q, r.q_bar), (k, r.k_bar), (v, r.v_bar))),
                )
                assert adjoint[0] == pytest.approx(adjoint[1], rel=1e-10)

        asyncio.run(run())

    def test_store_and_chunks(self, server: ServerProcess, rng: np.random.Generator) -> None:
        array = rng.standard_normal((700, 1000))  # six chunks

        async def run() -> None:
            async with theria.aio.connect(server.target) as client:
                first = await client.put(array, content_address=True)
                second = await client.put(array, content_address=True)
                assert first.handle == second.handle
                np.testing.assert_array_equal(await client.get(second), array)
                await client.delete(first)
                with pytest.raises(theria.TensorMissing):
                    await client.stat(first)
                np.testing.assert_array_equal(await client.get(second), array)  # repaired
                await client.delete(second)

        asyncio.run(run())

    def test_cancelling_a_task_ends_its_computation(self, server: ServerProcess) -> None:
        ended = computations(server, "hvp")

        async def run() -> None:
            async with theria.aio.connect(server.target) as client:
                long = asyncio.create_task(client.hvp(*endless.OPERANDS, **endless.OPTIONS))
                await asyncio.to_thread(await_gauge, server, "theria_running_requests", 1)
                long.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await long

        asyncio.run(run())
        await_idle(server)
        assert computations(server, "hvp") == ended

    def test_closing_ends_calls_under_way(self, server: ServerProcess) -> None:
        """With the client's error: nobody cancelled the tasks that wait for them."""

        async def run() -> None:
            client = theria.aio.connect(server.target)
            long = asyncio.create_task(client.hvp(*endless.OPERANDS, **endless.OPTIONS))
            await asyncio.to_thread(await_gauge, server, "theria_running_requests", 1)
            await client.close()
            with pytest.raises(theria.Cancelled, match="closed"):
                await long

        asyncio.run(run())
        await_idle(server)

    def test_errors_and_close(self, server: ServerProcess) -> None:
        async def run() -> None:
            client = theria.aio.connect(server.target)
            with pytest.raises(theria.InvalidArgument):
                await client.forward(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 3)), np.ones(2))
            await client.close()
            with pytest.raises(theria.Cancelled, match="closed"):
                await client.info()

        asyncio.run(run())
