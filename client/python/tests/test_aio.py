"""The asyncio client runs the same flows; cancellation cleans up."""

from __future__ import annotations

import asyncio
import inspect
import os

import numpy as np
import pytest
from fake_server import AsyncFakeServer, FakeServer

import theria

Q = np.ones((1, 1, 2, 4))


def test_same_methods_with_the_same_signatures() -> None:
    # The frameworks ask `computes_on`, and take blocking clients only.
    names = [
        name for name in vars(theria.Client) if not name.startswith("_") and name != "computes_on"
    ]
    assert len(names) > 12
    for name in names:
        blocking = inspect.signature(getattr(theria.Client, name))
        asynchronous = inspect.signature(getattr(theria.aio.Client, name))
        assert blocking.parameters == asynchronous.parameters
        assert inspect.iscoroutinefunction(getattr(theria.aio.Client, name))


def test_a_client_open_at_a_fork_forbids_others_in_the_child(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect_in_a_child() -> None:
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            await theria.aio.connect("127.0.0.1:1").close()

    async def run() -> None:
        async with theria.aio.Client(AsyncFakeServer(server)):
            with pytest.raises(RuntimeError, match=r"open theria\.aio client"):
                await connect_in_a_child()
        await connect_in_a_child()

    asyncio.run(run())


def test_calls_and_store(server: FakeServer) -> None:
    async def run() -> None:
        async with theria.aio.Client(AsyncFakeServer(server)) as client:
            k = await client.put(Q)
            server.lose_all()
            results = await asyncio.gather(*(client.forward(Q * i, k, Q) for i in range(4)))
            assert all((r.o == 1).all() for r in results)
            np.testing.assert_array_equal(await client.get(k), Q)
            with pytest.raises(theria.TensorMissing):
                await client.stat("nothing")

    asyncio.run(run())
    assert server.closed


def test_unavailable_is_retried(server: FakeServer) -> None:
    def starting(_: str) -> theria.Error | None:
        return theria.Unavailable("starting") if len(server.requests) < 2 else None

    server.faults.append(starting)

    async def run() -> None:
        client = theria.aio.Client(AsyncFakeServer(server))
        await client.forward(Q, Q, Q)

    asyncio.run(run())
    assert server.names() == ["Forward"] * 3


def test_a_cancelled_task_leaves_nothing() -> None:
    server = FakeServer(max_message_bytes=5_000_000)
    q = np.ones((1, 1, 2, 300_000))

    async def run() -> None:
        client = theria.aio.Client(AsyncFakeServer(server, block="Forward"))
        task = asyncio.create_task(client.forward(q, q, q))
        while len(server.tensors) < 2:  # the third fits into the message
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert server.tensors == {}
