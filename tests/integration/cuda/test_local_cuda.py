"""The kernels in this process on a GPU: the caller's streams, graphs, allocator and devices.

Needs a GPU and a library with the CUDA kernels, $THERIA_KERNELS_LIBRARY; else skipped.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import theria
from theria.torch import sdpa

try:
    _client = theria.local("cuda")
    _why = "" if torch.cuda.is_available() else "this PyTorch sees no GPU"
except theria.Unavailable as error:
    _why = str(error)
pytestmark = pytest.mark.skipif(bool(_why), reason=f"needs a GPU and the CUDA kernels: {_why}")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def client() -> theria.Client:
    return theria.local()


def draw(
    count: int, dtype: torch.dtype = torch.float32, seq: int = 96, device: str = "cuda"
) -> Any:
    torch.manual_seed(3)
    return [torch.randn(2, 4, seq, 64, device=device).to(dtype) for _ in range(count)]


def explicit_hvp(q: Any, k: Any, v: Any, o_bar: Any, *dots: Any) -> Any:
    """q_bar, k_bar, v_bar and their tangents, in float64."""

    def bars(*primals: Any) -> Any:
        def forward(q: Any, k: Any, v: Any) -> Any:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            return scores.softmax(-1) @ v

        return torch.func.vjp(forward, *primals)[1](o_bar.double())

    return torch.func.jvp(
        bars, tuple(x.double() for x in (q, k, v)), tuple(x.double() for x in dots)
    )


@pytest.mark.parametrize("implementation", ["auto", "unfused"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values(client: theria.Client, dtype: torch.dtype, implementation: Any) -> None:
    inputs = draw(7, dtype)
    r = client.hvp(*inputs, implementation=implementation)
    expected_bars, expected_dots = explicit_hvp(*inputs)
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5}.get(dtype, 2e-2)
    for name, bar, dot in zip("qkv", expected_bars, expected_dots, strict=True):
        for actual, expected in (
            (getattr(r, f"{name}_bar"), bar),
            (getattr(r, f"{name}_bar_dot"), dot),
        ):
            assert actual.is_cuda
            assert actual.dtype == dtype
            assert (actual.double() - expected).norm() < tolerance * expected.norm()
    assert r.execution.device == "cuda:0"
    assert math.isnan(r.execution.compute_seconds)


def test_runs_on_the_current_stream_and_does_not_wait(client: theria.Client) -> None:
    q, k, v = draw(3)
    expected = client.forward(q, k, v).o
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        late = q * 1
        o = client.forward(late, k, v).o
        assert not stream.query(), "the call returned while the stream was at work"
    stream.synchronize()
    torch.testing.assert_close(o, expected, rtol=0, atol=0)


@pytest.mark.parametrize("implementation", ["auto", "unfused"])
def test_is_captured_into_a_graph(client: theria.Client, implementation: Any) -> None:
    inputs = draw(7)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        client.hvp(*inputs, implementation=implementation)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        r = client.hvp(*inputs, implementation=implementation)
    for each in inputs:
        each.copy_(torch.randn_like(each))
    graph.replay()
    torch.cuda.synchronize()
    expected = client.hvp(*inputs, implementation=implementation)
    torch.testing.assert_close(r.q_bar_dot, expected.q_bar_dot, rtol=0, atol=0)
    torch.testing.assert_close(r.v_bar, expected.v_bar, rtol=0, atol=0)


def test_workspace_comes_from_pytorchs_allocator(client: theria.Client) -> None:
    inputs = draw(7, torch.bfloat16, seq=1024)
    held = sum(x.numel() * x.element_size() for x in inputs)
    free_before = torch.cuda.mem_get_info()[0]
    for _ in range(3):  # the first asks by the callback, later ones bring a block along
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        r = client.hvp(*inputs)
        assert torch.cuda.max_memory_allocated() - before > held * 6 / 7, "outputs and workspace"
        del r
        assert torch.cuda.memory_allocated() == before
    torch.cuda.synchronize()
    reserved = torch.cuda.memory_reserved()
    assert free_before - torch.cuda.mem_get_info()[0] <= reserved, "nothing beside the allocator"


def test_strides_and_masks(client: theria.Client) -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in draw(3))
    mask = torch.rand(96, 96, device="cuda").t() < 0.7
    o = client.forward(q[..., :33], k[..., :33], v, attn_mask=mask).o
    expected = torch.nn.functional.scaled_dot_product_attention(
        q[..., :33].double(), k[..., :33].double(), v.double(), attn_mask=mask
    )
    assert (o.double() - expected).norm() < 1e-5 * expected.norm()


def test_host_arrays_are_copied_there_and_back() -> None:
    client = theria.local("cuda")
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 33, 16)) for _ in range(3))
    expected = theria.local("cpu").forward(q, k, v).o
    np.testing.assert_allclose(client.forward(q, k, v).o, expected, rtol=1e-10, atol=1e-12)
    o = client.forward(*(torch.from_numpy(x) for x in (q, k, v))).o
    assert o.device.type == "cpu"
    torch.testing.assert_close(o, torch.from_numpy(expected))


def test_resident_tensors_stay_on_the_device(client: theria.Client) -> None:
    q, k, v = draw(3)
    resident = client.put(k)
    assert client.stat(resident).device == "cuda:0"
    o = client.forward(q, resident, v).o
    torch.testing.assert_close(o, client.forward(q, k, v).o, rtol=0, atol=0)
    assert client.get(resident).is_cuda


def test_wrong_places_name_their_field(client: theria.Client) -> None:
    q, k, v = draw(3)
    for wrong in (k.cpu(), k.cpu().numpy(), k.to_sparse()):
        with pytest.raises(theria.InvalidArgument) as caught:
            client.forward(q, wrong, v)
        assert caught.value.field == "k"
    with pytest.raises(theria.InvalidArgument) as caught:
        client.forward(q, k[..., :3], v)
    assert caught.value.field == "k.shape[3]"
    with pytest.raises(theria.InvalidArgument):
        theria.local("cpu").forward(q, k, v)


def test_sdpa_computes_where_the_tensors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THERIA_TARGET", raising=False)
    query, key, value = (x.requires_grad_() for x in draw(3))
    o = sdpa(query, key, value)
    assert o.is_cuda
    (gradient,) = torch.autograd.grad(o.square().sum(), query, create_graph=True)
    twice = torch.autograd.grad(gradient.square().sum(), (query, key, value))
    double = [x.detach().double().requires_grad_() for x in (query, key, value)]
    with sdpa_kernel(SDPBackend.MATH):
        exact = torch.nn.functional.scaled_dot_product_attention(*double)
    (gradient,) = torch.autograd.grad(exact.square().sum(), double[0], create_graph=True)
    for actual, expected in zip(
        twice, torch.autograd.grad(gradient.square().sum(), double), strict=True
    ):
        assert (actual.double() - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_other_devices(client: theria.Client) -> None:
    q, k, v = draw(3, device="cuda:1")
    o = client.forward(q, k, v).o
    assert o.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    expected = client.forward(*(x.to("cuda:0") for x in (q, k, v))).o
    torch.testing.assert_close(o.to("cuda:0"), expected, rtol=0, atol=0)
    with pytest.raises(theria.InvalidArgument) as caught:
        client.forward(q, k.to("cuda:0"), v)
    assert caught.value.field == "k"
