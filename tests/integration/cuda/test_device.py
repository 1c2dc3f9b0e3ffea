"""The service on a GPU: who served, resident tensors, spill and restore, a full device."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from server_process import ServerProcess

import theria

pytestmark = pytest.mark.usefixtures("needs_a_gpu")

MIB = 1 << 20
Start = Callable[..., ServerProcess]


def metric(server: ServerProcess, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics_target}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith(name + " ")]
    return float(line.split()[1])


def draw(*shape: int, seed: int = 1, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def relative_error(actual: Any, expected: Any) -> float:
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def test_who_serves(start_server: Start) -> None:
    server = start_server()
    with theria.connect(server.target, timeout=60.0) as client:
        info = client.info()
        assert info.backend == "cuda"
        assert info.devices[0].id == "cuda:0"
        assert info.devices[0].architecture.startswith("sm_")
        assert info.devices[0].memory_bytes > 1 << 30
        q, k, v = (draw(2, 4, 128, 64, seed=i) for i in range(3))
        for implementation in ("fused", "unfused"):
            execution = client.forward(q, k, v, implementation=implementation).execution
            assert execution.implementation == implementation
            assert execution.device == "cuda:0"
            assert 0 < execution.compute_seconds < 1


def test_resident_o_and_lse_serve_the_vjp(start_server: Start) -> None:
    server = start_server()
    with theria.connect(server.target, timeout=60.0) as client:
        q, k, v, o_bar = (draw(2, 4, 197, 64, seed=i) for i in range(4))
        expected = client.vjp(q, k, v, o_bar, implementation="unfused")
        rq, rk, rv = (client.put(x) for x in (q, k, v))
        f = client.forward(rq, rk, rv, outputs={"o": "resident", "lse": "resident"})
        assert client.stat(f.o).device == "cuda:0"
        r = client.vjp(rq, rk, rv, o_bar, o=f.o, lse=f.lse)
        assert "forward" not in r.execution.kernel  # it did not run again
        for name in ("q_bar", "k_bar", "v_bar"):
            assert relative_error(getattr(r, name), getattr(expected, name)) < 1e-5, name


def test_spill_and_restore_under_pressure(start_server: Start) -> None:
    server = start_server("--cache-bytes=64MiB", "--spill-bytes=256MiB")
    with theria.connect(server.target, timeout=60.0) as client:
        arrays = [draw(2 * MIB, seed=i) for i in range(24)]  # 8 MiB each
        tensors = [client.put(array) for array in arrays]
        assert metric(server, "theria_store_spills_total") > 0
        assert metric(server, "theria_store_bytes") <= 64 * MIB
        assert metric(server, "theria_store_spilled_bytes") > 0
        assert client.stat(tensors[0]).device == "pinned"
        for array, tensor in zip(arrays, tensors, strict=True):
            np.testing.assert_array_equal(client.get(tensor), array)
        assert metric(server, "theria_store_restores_total") >= len(arrays) - 8
        assert metric(server, "theria_store_restore_bytes_total") % (8 * MIB) == 0
        # And as inputs of a kernel.
        shape = (1, 4, 8192, 64)
        q, k, v = (array.reshape(shape) for array in arrays[:3])
        rq, rk, rv = (client.put(x) for x in (q, k, v))
        for array in arrays[3:]:
            client.put(array)
        assert client.stat(rq).device == "pinned"
        actual = client.forward(rq, rk, rv, is_causal=True)
        expected = client.forward(q, k, v, is_causal=True)
        np.testing.assert_array_equal(actual.o, expected.o)


def test_a_workspace_that_no_device_has_is_refused(start_server: Start) -> None:
    server = start_server("--max-queued-bytes=64GiB")
    with theria.connect(server.target, timeout=60.0) as client:
        kept = client.put(draw(1000))
        x = np.broadcast_to(draw(1, 1, 1, 1), (1, 1, 400_000, 8))  # 640 GB of probabilities
        for _ in range(2):
            with pytest.raises(theria.ResourceExhausted):
                client.forward(x, x, x, implementation="unfused")
        q = draw(1, 2, 64, 64)
        assert client.forward(q, q, q).execution.implementation == "fused"
        np.testing.assert_array_equal(client.get(kept), draw(1000))


def test_a_full_device_spills_and_then_refuses(start_server: Start) -> None:
    """Resident outputs of 2 GiB each, until neither device nor host memory has room."""
    server = start_server(
        "--cache-bytes=1TiB",
        "--spill-bytes=4GiB",
        "--max-queued-bytes=64GiB",
        "--max-pin=1h",
    )
    seq = 1 << 21
    with theria.connect(server.target, timeout=120.0) as client:
        memory_bytes = client.info().devices[0].memory_bytes
        q = np.broadcast_to(draw(1, 1, 1, 256), (1, 1, seq, 256))
        k = draw(1, 1, 1, 256)
        outputs = {"o": "resident", "lse": "skip"}
        first = client.forward(q, k, k, outputs=outputs).o
        kept: list[theria.ResidentTensor] = []
        refused = False
        fitting = int(memory_bytes / (seq * 256 * 4))
        while not refused and len(kept) < fitting + 8:
            try:
                kept.append(client.forward(q, k, k, outputs=outputs).o)
            except theria.ResourceExhausted:
                refused = True
            else:
                client.pin(kept[-1], 3000.0)
        assert refused
        assert len(kept) > fitting / 2
        assert metric(server, "theria_store_spills_total") > 0  # `first`, which is not pinned
        assert client.stat(first).device == "pinned"
        for tensor in kept:
            client.delete(tensor)
        small = draw(1, 2, 64, 64)
        assert client.forward(small, small, small).execution.device == "cuda:0"
