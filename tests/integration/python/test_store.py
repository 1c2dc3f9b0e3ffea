"""Resident tensors on a real server: leases, pins, content, repair after a restart, large ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from observe import await_that
from server_process import ServerProcess

import theria
from theria import Client, ResidentTensor

MIB = 1 << 20


def qkv(rng: np.random.Generator) -> list[Any]:
    return [rng.standard_normal((1, 2, 6, 4)) for _ in range(3)]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, bool])
def test_what_goes_up_comes_down(client: Client, dtype: Any) -> None:
    array = (np.arange(3 * 5 * 7).reshape(3, 5, 7) % 2).astype(dtype).transpose(2, 0, 1)
    tensor = client.put(array)
    back = client.get(tensor)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)
    info = client.stat(tensor)
    assert (info.shape, info.dtype, info.size_bytes) == (array.shape, array.dtype, array.nbytes)
    client.delete(tensor)
    with pytest.raises(theria.TensorMissing):
        client.get(tensor.handle)


def test_torch_in_torch_out(client: Client) -> None:
    value = torch.randn(4, 3).bfloat16().t()
    back = client.get(client.put(value))
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, value)


def test_resident_wherever_an_array_is(client: Client, rng: np.random.Generator) -> None:
    q, k, v = qkv(rng)
    mask = rng.random((6, 6)) < 0.8
    expected = client.hvp(q, k, v, v, q, k, v, q, attn_mask=mask)
    rq, rk, rv, rmask = (client.put(x) for x in (q, k, v, mask))
    f = client.forward(rq, rk, rv, attn_mask=rmask, outputs={"o": "resident", "lse": "resident"})
    r = client.hvp(
        rq,
        rk,
        rv,
        rv,
        rq,
        rk,
        rv,
        rq,
        attn_mask=rmask,
        o=f.o,
        lse=f.lse,
        outputs={"q_bar_dot": "resident"},
    )
    assert isinstance(r.q_bar_dot, ResidentTensor)
    np.testing.assert_allclose(client.get(r.q_bar_dot), expected.q_bar_dot, rtol=1e-12)
    np.testing.assert_allclose(r.v_bar_dot, expected.v_bar_dot, rtol=1e-12)
    assert f.lse.shape == (1, 2, 6)
    again = client.attach(f.o.handle)
    assert (again.shape, again.dtype) == (f.o.shape, np.float64)


def test_leases_pins_and_listing(client: Client) -> None:
    before = {info.handle for info in client.list()}
    tensor = client.put(np.ones(8), ttl=200.0, pin=100.0)
    info = client.stat(tensor)
    assert 140 < info.expires_in <= 200
    assert 40 < info.pinned_for <= 100
    assert 340 < client.renew(tensor, 400.0).expires_in <= 400
    assert client.unpin(tensor).pinned_for == 0
    assert 240 < client.pin(tensor, 300.0).pinned_for <= 300
    assert {info.handle for info in client.list()} - before == {tensor.handle}
    client.delete(tensor)

    brief = client.put(np.ones(8), ttl=0.2, retain="none")
    time.sleep(0.5)
    with pytest.raises(theria.TensorMissing) as caught:
        client.forward(brief, brief, brief)
    assert caught.value.handles == (brief.handle,)


def is_gone(client: Client, tensor: ResidentTensor | str) -> bool:
    try:
        client.stat(tensor)
    except theria.TensorMissing:
        return True
    return False


def test_a_lost_lease_is_repaired(client: Client) -> None:
    """With a lease of the same length, in which the call has to begin."""
    q = np.ones((1, 1, 2, 4))
    tensor = client.put(q, ttl=3.0)
    lost = tensor.handle
    await_that(lambda: is_gone(client, lost))
    np.testing.assert_allclose(client.forward(q, q, tensor).o, q)
    assert tensor.handle != lost


def test_content_is_stored_once(client: Client, rng: np.random.Generator) -> None:
    array = rng.standard_normal((64, 4096))  # two chunks
    first = client.put(array, content_address=True)
    used = client.info().store.used_bytes
    second = client.put(array.copy(), content_address=True)
    assert first.handle == second.handle
    assert client.info().store.used_bytes == used
    sha256 = client.stat(first).sha256
    assert sha256 is not None
    assert len(sha256) == 32
    np.testing.assert_array_equal(client.get(second), array)
    client.delete(first)


def test_a_restarted_server_gets_its_tensors_again(
    start_server: Callable[..., ServerProcess], rng: np.random.Generator
) -> None:
    server = start_server()
    q, k, v = qkv(rng)
    with theria.connect(server.target, timeout=30.0) as client:
        rk, rv = client.put(k), client.put(v, content_address=True)
        expected = client.forward(q, rk, rv).o
        server.restart()
        np.testing.assert_array_equal(client.forward(q, rk, rv).o, expected)
        assert client.info().store.entries == 2

        orphan = client.put(q, retain="none")
        server.restart()
        with pytest.raises(theria.TensorMissing) as caught:
            client.forward(orphan, rk, rv)
        assert orphan.handle in caught.value.handles


def test_calls_wait_for_a_server_that_restarts(
    start_server: Callable[..., ServerProcess], rng: np.random.Generator
) -> None:
    server = start_server()
    q, k, v = qkv(rng)
    patient = theria.RetryPolicy(max_attempts=1000)
    with theria.connect(server.target, timeout=60.0, retry=patient) as client:
        expected = client.forward(q, k, v).o
        server.kill()
        results: list[Any] = []
        caller = threading.Thread(target=lambda: results.append(client.forward(q, k, v).o))
        caller.start()
        time.sleep(0.5)  # it fails meanwhile; if not, it has less to wait for
        server.restart()
        caller.join()
        np.testing.assert_array_equal(results[0], expected)


def test_no_server_is_unavailable() -> None:
    brief = theria.RetryPolicy(max_attempts=3)
    with theria.connect("127.0.0.1:1", timeout=60.0, retry=brief) as client:
        with pytest.raises(theria.Unavailable):
            client.info()
        with pytest.raises(theria.Unavailable):
            client.health()


class TestMessageLimit:
    """A server that takes 5 MiB a message; the calls below need up to 24 MB each way."""

    @pytest.fixture
    def limited(self, start_server: Callable[..., ServerProcess]) -> ServerProcess:
        return start_server("--max-message-bytes=5242880")

    def test_large_inputs_and_outputs_go_through_the_store(
        self, limited: ServerProcess, client: Client, rng: np.random.Generator
    ) -> None:
        q = rng.standard_normal((1, 4, 3000, 256)).astype(np.float32)  # 12 MB
        k, v = (rng.standard_normal((1, 4, 5, d)).astype(np.float32) for d in (256, 511))
        expected = client.vjp(q, k, v, client.forward(q, k, v).o)
        with theria.connect(limited.target) as small:
            o = small.forward(q, k, v).o
            assert o.nbytes > 20e6
            r = small.vjp(q, k, v, o)
            for name in ("q_bar", "k_bar", "v_bar"):
                np.testing.assert_array_equal(getattr(r, name), getattr(expected, name))
            assert small.list() == ()

    @pytest.mark.parametrize("elements", range(1_300_000, 1_310_721, 2144))
    def test_sizes_around_the_limit(self, limited: ServerProcess, elements: int) -> None:
        """5 MiB are 1310720 float32: no size falls between what fits and what is moved."""
        q = np.ones((1, 1, elements // 32, 32), np.float32)
        with theria.connect(limited.target) as small:
            r = small.forward(q, q[:, :, :1], q[:, :, :1], outputs={"lse": "skip"})
            np.testing.assert_array_equal(r.o, q)


@pytest.mark.timeout(1200)
def test_a_large_tensor_goes_up_and_comes_back(
    start_server: Callable[..., ServerProcess],
) -> None:
    """3 GiB, beyond what one protobuf message can hold."""
    rows = 3 * 1024
    server = start_server("--cache-bytes=4GiB")
    block = np.arange(MIB // 4, dtype=np.float32)
    array = np.broadcast_to(block, (rows, block.size))  # 1 MiB here, 3 GiB there
    with theria.connect(server.target, timeout=1000.0) as client:
        tensor = client.put(array, retain="none")
        assert client.stat(tensor).size_bytes == rows * MIB
        back = client.get(tensor)
        assert back.shape == array.shape
        assert all(np.array_equal(row, block) for row in back)
        client.delete(tensor)
        assert client.info().store.used_bytes == 0


def test_a_store_full_of_pins_is_exhausted(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server("--cache-bytes=8MiB", "--spill-bytes=0")
    large = np.ones((6, MIB // 4), np.float32)
    with theria.connect(server.target) as client:
        pinned = client.put(large, pin=60.0)
        with pytest.raises(theria.ResourceExhausted) as caught:
            client.put(large)
        assert caught.value.retry_delay is not None
        assert caught.value.retry_delay > 0
        client.unpin(pinned)
        client.put(large)  # evicts the other
        with pytest.raises(theria.TensorMissing):
            client.stat(pinned)
        np.testing.assert_array_equal(client.get(pinned), large)  # which evicts this one again
        assert client.info().store.entries == 1


def test_a_cut_upload_leaves_nothing(start_server: Callable[..., ServerProcess]) -> None:
    """Of 3 GiB, most of which no machine sends in time."""
    server = start_server("--cache-bytes=4GiB")
    array = np.broadcast_to(np.float32(1), (768, MIB))
    with theria.connect(server.target) as client:
        with pytest.raises(theria.DeadlineExceeded):
            client.put(array, timeout=0.2)
        await_that(
            lambda: (client.info().store.used_bytes, client.info().store.entries) == (0, 0),
            otherwise=client.info,
        )
