"""What tracers make of `sdpa`: a call that is computed anew, never a constant."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_client import ReferenceClient
from sdpa_cases import DROPOUT, PLAIN
from torch import func
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import theria
import theria.torch
from theria.torch import DerivativeOrderError, NoClientError, patch, sdpa

Tensor = torch.Tensor
Attention = Callable[..., Tensor]
EVERY = (0, 1, 2)


@pytest.fixture(autouse=True)
def explicit_math() -> Iterator[None]:
    torch._dynamo.reset()
    with sdpa_kernel(SDPBackend.MATH):
        yield
    theria.torch.set_default_client(None)


def gradient(attention: Attention) -> Attention:
    return func.grad(lambda *x: attention(*x).sin().sum(), EVERY)  # type: ignore[no-any-return]


def hessian_product(attention: Attention) -> Attention:
    def product(*x: Tensor) -> Any:
        return func.jvp(gradient(attention), x, tuple(torch.cos(y) for y in x))[1]

    return product


FUNCTIONS: dict[str, Callable[[Attention], Attention]] = {
    "value": lambda attention: attention,
    "gradient": gradient,
    "hessian_product": hessian_product,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_on_new_inputs(name: str, mode: str, client: ReferenceClient) -> None:
    traced = make_fx(FUNCTIONS[name](PLAIN.service(client)), tracing_mode=mode)(*PLAIN.inputs())
    new = PLAIN.inputs(seed=5)
    torch.testing.assert_close(traced(*new), FUNCTIONS[name](PLAIN.math())(*new))
    if mode == "symbolic" and name != "hessian_product":  # whose trace PyTorch itself specialises
        larger = tuple(torch.cat([x, x[:1]]) for x in new)
        torch.testing.assert_close(traced(*larger), FUNCTIONS[name](PLAIN.math())(*larger))


def test_make_fx_draws_a_new_dropout_on_each_run(client: ReferenceClient) -> None:
    traced = make_fx(lambda q, k, v: sdpa(q, k, v, dropout_p=0.5, client=client))(*PLAIN.inputs())
    assert not torch.equal(traced(*PLAIN.inputs()), traced(*PLAIN.inputs()))


@pytest.mark.parametrize("name", ["value", "gradient"])
def test_linearize(name: str, client: ReferenceClient) -> None:
    x, tangents = PLAIN.inputs(), PLAIN.inputs(seed=5)
    output, linear = func.linearize(FUNCTIONS[name](PLAIN.service(client)), *x)
    expected = func.jvp(FUNCTIONS[name](PLAIN.math()), x, tangents)
    torch.testing.assert_close((output, linear(*tangents)), expected)
    twice = tuple(2 * tangent for tangent in tangents)
    torch.testing.assert_close(linear(*twice), func.jvp(FUNCTIONS[name](PLAIN.math()), x, twice)[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_trace(client: ReferenceClient, tmp_path: Path) -> None:
    traced = torch.jit.trace(PLAIN.service(client), PLAIN.inputs())
    traced.save(str(tmp_path / "traced.pt"))
    for module in (traced, torch.jit.load(str(tmp_path / "traced.pt"))):  # type: ignore[no-untyped-call]
        new = tuple(torch.cat([x, x[:1]]).requires_grad_() for x in PLAIN.inputs(seed=5))
        actual, expected = module(*new), PLAIN.math()(*new)
        torch.testing.assert_close(actual, expected)
        actual_gradient = torch.autograd.grad(actual.sin().sum(), new)
        torch.testing.assert_close(actual_gradient, torch.autograd.grad(expected.sin().sum(), new))


class Attends(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, **self.options)


@pytest.mark.parametrize("strict", [False, True])
def test_export_runs_with_the_default_client_of_then(strict: bool, client: ReferenceClient) -> None:
    program = torch.export.export(Attends(), PLAIN.inputs(), strict=strict)
    new = PLAIN.inputs(seed=5)
    assert not client.calls
    theria.torch.set_default_client(client)
    torch.testing.assert_close(program.module()(*new), PLAIN.math()(*new))
    assert client.calls == {"forward": 1}


@pytest.mark.parametrize("way", ["argument", "default", "patch"])
def test_compile_is_one_graph(way: str, client: ReferenceClient) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if way == "patch":
            return 2 * torch.nn.functional.scaled_dot_product_attention(q, k, v)
        if way == "default":
            return 2 * sdpa(q, k, v)
        return 2 * sdpa(q, k, v, client=client)

    if way == "default":
        theria.torch.set_default_client(client)
    inputs = [x.requires_grad_() for x in PLAIN.inputs()]
    eager = [2 * PLAIN.math()(*inputs)]
    eager += torch.autograd.grad(eager[0].sin().sum(), inputs)
    with patch(client=client):  # names the client, too
        compiled = torch.compile(attention, backend=backend, fullgraph=True)
        o = compiled(*inputs)
    actual = [o, *torch.autograd.grad(o.sin().sum(), inputs, create_graph=True)]
    torch.testing.assert_close(actual, eager)
    assert len(graphs) == 1
    assert client.calls == {"forward": 1, "vjp": 1}
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(actual[1].sum(), inputs)


def test_compiled_hessian_product_is_one_graph(client: ReferenceClient) -> None:
    theria.torch.set_default_client(client)
    product = torch.compile(hessian_product(sdpa), backend="aot_eager", fullgraph=True)
    expected = hessian_product(PLAIN.math())(*PLAIN.inputs())
    torch.testing.assert_close(product(*PLAIN.inputs()), expected)


def test_compile_says_how_to_name_a_client() -> None:
    client = ReferenceClient()
    compiled = torch.compile(PLAIN.service(client), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="call sdpa with it once before compiling"):
        compiled(*PLAIN.inputs())
    PLAIN.service(client)(*PLAIN.inputs())
    torch._dynamo.reset()
    torch.testing.assert_close(compiled(*PLAIN.inputs()), PLAIN.math()(*PLAIN.inputs()))


def test_compiled_code_follows_patch(client: ReferenceClient) -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    compiled(*PLAIN.inputs())
    with patch(client=client):
        compiled(*PLAIN.inputs())
    assert client.calls == {"forward": 1}
    compiled(*PLAIN.inputs())
    assert client.calls == {"forward": 1}


def test_a_graph_does_not_keep_its_client_and_says_so() -> None:
    client = ReferenceClient()
    traced = make_fx(PLAIN.service(client))(*PLAIN.inputs())
    del client
    gc.collect()
    with pytest.raises(NoClientError, match="in this process: keep the client"):
        traced(*PLAIN.inputs())


def test_a_derivative_keeps_the_client() -> None:
    q, k, v = (x.requires_grad_() for x in PLAIN.inputs())
    o = sdpa(q, k, v, client=ReferenceClient())
    gc.collect()
    (first,) = torch.autograd.grad(o.sin().sum(), q, create_graph=True)
    torch.autograd.grad(first.sum(), q)


@pytest.mark.parametrize("place", ["fake", "meta"])
def test_tensors_without_elements(place: str, client: ReferenceClient) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) if place == "fake" else torch.device("meta"):
        q = torch.empty(2, 4, 3, dtype=torch.float16, requires_grad=True)
        k, v = torch.empty(2, 5, 3, dtype=torch.float16), torch.empty(2, 5, 2, dtype=torch.float16)
        o = sdpa(q, k, v, client=client)
        (first,) = torch.autograd.grad(o.sum(), q, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), q)
        assert (o.shape, o.dtype) == ((2, 4, 2), torch.float16)
        assert first.shape == second.shape == q.shape
        with pytest.raises(theria.InvalidArgument, match=r"key.shape\[-1\] is 2, must equal query"):
            sdpa(q, k[..., :2], v, client=client)
        with pytest.raises(theria.InvalidArgument, match=r"value.dtype is torch.float32"):
            sdpa(q, k, v.float(), client=client)
    assert not client.calls


def test_opcheck(client: ReferenceClient) -> None:
    from theria._client_registry import client_name

    def check(name: str, *arguments: Any, **options: Any) -> None:
        options["client"] = client_name(client)
        result = torch.library.opcheck(getattr(torch.ops.theria, name), arguments, options)
        assert set(result.values()) == {"SUCCESS"}

    x = PLAIN.inputs()
    o, lse = torch.ops.theria.forward(*x, client=client_name(client))
    leaves = [y.clone().requires_grad_() for y in x]
    tangents = [y.requires_grad_() for y in PLAIN.inputs(seed=5)]
    o_bar = o.cos().requires_grad_()
    check("forward", *leaves)
    check("forward", *leaves, PLAIN.attn_mask(), torch.tensor(5), dropout_p=0.3, scale=0.4)
    check("vjp", *leaves, o_bar, o, lse)
    check("jvp", *leaves, *tangents, o, lse)
    check("hvp", *x, o_bar.detach(), *tangents, o_bar, o, lse, outputs=["o_dot", "q_bar_dot"])


def test_dropout_is_that_of_its_seed_in_a_graph(client: ReferenceClient) -> None:
    traced = make_fx(DROPOUT.service(client))(*DROPOUT.inputs())
    new = DROPOUT.inputs(seed=5)
    assert torch.equal(traced(*new), DROPOUT.service(client)(*new))


def test_third_order_in_a_trace_is_refused(client: ReferenceClient) -> None:
    third = func.grad(lambda *x: sum(y.sum() for y in hessian_product(PLAIN.service(client))(*x)))
    with pytest.raises(DerivativeOrderError):
        make_fx(third)(*PLAIN.inputs())
