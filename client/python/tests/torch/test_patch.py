"""`patch`: what it reaches, whom it concerns, and that it leaves nothing behind."""

from __future__ import annotations

import _thread
import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from reference_client import ReferenceClient
from sdpa_cases import PLAIN
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import theria.torch
from theria._kernels_library import kernels_library
from theria.torch import DerivativeOrderError, NoClientError, patch

Tensor = torch.Tensor
ORIGINAL = F.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    assert torch.backends.mha.get_fastpath_enabled()
    yield
    assert F.scaled_dot_product_attention is ORIGINAL
    assert torch._C._nn.scaled_dot_product_attention is ORIGINAL
    assert torch.backends.mha.get_fastpath_enabled()


def call() -> Tensor:
    return F.scaled_dot_product_attention(*PLAIN.inputs())


def test_both_names_are_ours(client: ReferenceClient) -> None:
    expected = call()
    with patch(client=client):
        torch.testing.assert_close(call(), expected)
        torch.testing.assert_close(
            torch._C._nn.scaled_dot_product_attention(*PLAIN.inputs()), expected
        )
    assert client.calls == {"forward": 2}
    call()
    assert client.calls == {"forward": 2}


def test_the_innermost_counts() -> None:
    outer, inner = ReferenceClient(), ReferenceClient()
    context = patch(client=outer)
    with context:
        with patch(client=inner):
            call()
        assert (outer.calls, inner.calls) == ({}, {"forward": 1})
        with patch(client=outer):
            call()
        call()
    assert (outer.calls, inner.calls) == ({"forward": 2}, {"forward": 1})


def test_it_is_restored_after_an_error(client: ReferenceClient) -> None:
    with pytest.raises(ZeroDivisionError), patch(client=client), patch(client=client):
        raise ZeroDivisionError
    call()
    assert client.calls == {}


def test_no_client(monkeypatch: pytest.MonkeyPatch, client: ReferenceClient) -> None:
    monkeypatch.delenv("THERIA_TARGET", raising=False)
    monkeypatch.setenv("THERIA_KERNELS_LIBRARY", "/no/such/library.so")
    monkeypatch.setattr("theria._default_client._local", None)
    kernels_library.cache_clear()
    with pytest.raises(NoClientError), patch():
        pass
    kernels_library.cache_clear()
    theria.torch.set_default_client(client)
    try:
        with patch():
            call()
    finally:
        theria.torch.set_default_client(None)
    assert client.calls == {"forward": 1}


def test_other_threads_are_not_concerned(client: ReferenceClient) -> None:
    with patch(client=client), ThreadPoolExecutor(1) as pool:
        torch.testing.assert_close(pool.submit(call).result(), call())
    assert client.calls == {"forward": 1}


def test_threads_with_clients_of_their_own() -> None:
    """Overlapping in every order: each thread's calls go to its own client."""
    clients = [ReferenceClient() for _ in range(8)]
    barrier = threading.Barrier(len(clients))

    def work(client: ReferenceClient) -> None:
        barrier.wait()
        for _ in range(5):
            with patch(client=client):
                call()
            call()

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(work, clients))
    assert [client.calls for client in clients] == [{"forward": 5}] * len(clients)


def test_tasks_with_clients_of_their_own() -> None:
    clients = [ReferenceClient(), ReferenceClient()]

    async def work(client: ReferenceClient) -> None:
        with patch(client=client):
            await asyncio.sleep(0)
            call()
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(*map(work, clients))

    asyncio.run(both())
    assert [client.calls for client in clients] == [{"forward": 1}] * 2


def test_threads_that_python_did_not_start_follow_the_last(client: ReferenceClient) -> None:
    """As autograd's, in which a checkpoint of another device is computed again."""
    done = threading.Event()

    def work() -> None:
        call()
        done.set()

    with patch(client=ReferenceClient()), patch(client=client):
        _thread.start_new_thread(work, ())
        assert done.wait(30)
    assert client.calls == {"forward": 1}


def encoder_layer(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options).double()


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.MultiheadAttention(8, 2, **options).double()

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        o: Tensor = self.inner(x, x, x, need_weights=False, **options)[0]
        return o


PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
MODULES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "attention": (lambda: SelfAttention(batch_first=True), {}),
    "attention_eval": (lambda: SelfAttention(batch_first=True).eval(), {}),
    "attention_key_padding": (
        lambda: SelfAttention(batch_first=True),
        {"key_padding_mask": PADDING},
    ),
    "attention_bias_kv": (lambda: SelfAttention(add_bias_kv=True, add_zero_attn=True), {}),
    "encoder_layer": (encoder_layer, {}),
    "encoder_layer_eval": (lambda: encoder_layer().eval(), {}),
    "encoder_layer_norm_first": (lambda: encoder_layer(norm_first=True), {}),
    "encoder_layer_causal": (encoder_layer, {"src_mask": CAUSAL, "is_causal": True}),
    "encoder_layer_padding": (encoder_layer, {"src_key_padding_mask": PADDING}),
    "encoder": (lambda: nn.TransformerEncoder(encoder_layer(), 2).eval(), {}),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_differentiate_twice(name: str, client: ReferenceClient) -> None:
    """Values, gradients and double backward of every parameter are those of explicit attention."""
    make, options = MODULES[name]
    module = make()
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)).double()

    def derivatives() -> list[Tensor]:
        y = x.clone().requires_grad_()
        wanted = [y, *module.parameters()]
        o = module(y, **options)
        first = torch.autograd.grad(o.sin().sum(), wanted, create_graph=True)
        norm = torch.stack([g.square().sum() for g in first]).sum()
        return [o, *first, *torch.autograd.grad(norm, wanted)]

    with sdpa_kernel(SDPBackend.MATH):
        expected = derivatives()
    with patch(client=client):
        actual = derivatives()
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)
    assert client.calls.keys() == {"forward", "vjp", "hvp"}


def test_inference_and_forward_mode_do_not_take_the_fused_path(client: ReferenceClient) -> None:
    """PyTorch's fused encoder layer has no derivative; without gradients it would be chosen."""
    module = encoder_layer().eval()
    x = torch.randn(3, 5, 8).double()
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.jvp(encoder_layer(), (x,), (x.cos(),))  # trains: not the fused path
    with torch.no_grad(), patch(client=client):
        actual = torch.func.jvp(module, (x,), (x.cos(),))
        torch.testing.assert_close(module(x), expected[0])
    torch.testing.assert_close(actual, expected)
    assert client.calls == {"forward": 2, "jvp": 1}


def test_third_order_is_refused(client: ReferenceClient) -> None:
    module = encoder_layer()
    x = torch.randn(3, 5, 8).double().requires_grad_()
    with patch(client=client):
        y = module(x).sin().sum()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        y = gradient.square().sum()
    with pytest.raises(DerivativeOrderError, match="third-order"):
        torch.autograd.grad(y, x)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_calls_again(reentrant: bool, client: ReferenceClient) -> None:
    module = encoder_layer()
    x = torch.randn(3, 5, 8).double().requires_grad_()
    with patch(client=client):
        (expected,) = torch.autograd.grad(module(x).sin().sum(), x)
        checkpoint(module, x, use_reentrant=reentrant).sin().sum().backward()
    assert client.calls == {"forward": 3, "vjp": 2}
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype, client: ReferenceClient) -> None:
    """Attention sees the lower precision, its parameters get float32 gradients of both orders."""
    module = encoder_layer().float()
    seen: list[torch.dtype] = []
    forward = client.forward
    client.forward = lambda *x, **o: seen.append(o["q"].dtype) or forward(*x, **o)  # type: ignore[method-assign, func-returns-value]
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    mask = CAUSAL.float()
    wanted = list(module.parameters())

    def derivatives(autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", dtype) if autocast else nullcontext():
            o = module(x, src_mask=mask)
        first = torch.autograd.grad(o.float().sin().sum(), wanted, create_graph=True)
        norm = torch.stack([g.square().sum() for g in first]).sum()
        return [o.float(), *first, *torch.autograd.grad(norm, wanted)]

    with patch(client=client):
        actual = derivatives(autocast=True)
    assert seen == [dtype]
    with sdpa_kernel(SDPBackend.MATH):
        expected = derivatives(autocast=False)
        theirs = derivatives(autocast=True)
    for a, t, e in zip(actual, theirs, expected, strict=True):
        assert a.dtype == e.dtype == torch.float32
        floor = 0.05 * e.norm() + 1e-3
        assert (a - e).norm() < 2 * (t - e).norm() + floor


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_keeps_pytorchs_attention(client: ReferenceClient) -> None:
    module = torch.nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x = torch.randn(2, 3, 4)
    expected = module(x, x, x, need_weights=False)[0]
    with patch(client=client):
        inside = torch.jit.script(module)
        torch.testing.assert_close(inside(x, x, x, need_weights=False)[0], expected)
    assert not client.calls
    after = torch.jit.script(torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    assert after(x).shape == x.shape
