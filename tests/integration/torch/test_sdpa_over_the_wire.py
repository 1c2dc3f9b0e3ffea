"""`theria.torch.sdpa` with every derivative computed by a real server."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sdpa_cases import (
    ALL,
    DETERMINISTIC,
    DROPOUT,
    PLAIN,
    TRANSFORMS,
    Case,
    assert_agrees,
    gradcheck_all_modes,
    identifier,
)
from torch.nn.functional import scaled_dot_product_attention

import theria
import theria.torch
from theria.torch import sdpa


@pytest.mark.parametrize("case", ALL, ids=identifier)
def test_gradcheck_in_all_modes(case: Case, client: theria.Client) -> None:
    gradcheck_all_modes(case, client)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=identifier)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_func_transform(name: str, case: Case, client: theria.Client) -> None:
    assert_agrees(name, case, client)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-12),
        (torch.float32, 1e-5),
        (torch.float16, 4e-3),
        (torch.bfloat16, 3e-2),
    ],
)
def test_second_order_in_every_dtype(
    dtype: torch.dtype, tolerance: float, client: theria.Client
) -> None:
    def derivatives(double: bool) -> list[torch.Tensor]:
        inputs = [x.to(dtype) for x in PLAIN.inputs()]
        inputs = [(x.double() if double else x).requires_grad_() for x in inputs]
        attention = PLAIN.math() if double else PLAIN.service(client)
        o = attention(*inputs)
        first = torch.autograd.grad(o, inputs, torch.ones_like(o), create_graph=True)
        second = torch.autograd.grad(first, inputs, [torch.ones_like(g) for g in first])
        return [o, *first, *second]

    for actual, expected in zip(derivatives(False), derivatives(True), strict=True):
        assert actual.dtype == dtype
        error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1.0)
        assert error < tolerance


def test_strided_tensors_and_gradients(client: theria.Client) -> None:
    q, k, v = (x.mT.contiguous().mT.requires_grad_() for x in PLAIN.inputs())
    o = sdpa(q, k, v, client=client)
    o_bar = torch.ones((), dtype=o.dtype).expand_as(o)
    actual = torch.autograd.grad(o, (q, k, v), o_bar)
    expected = torch.autograd.grad(scaled_dot_product_attention(q, k, v), (q, k, v), o_bar)
    torch.testing.assert_close(actual, expected)


def test_dropout_under_vmap_is_that_of_each_element(client: theria.Client) -> None:
    q, k, v = (torch.stack([x, x.cos()]) for x in DROPOUT.inputs())
    attention = DROPOUT.service(client)
    actual = torch.func.vmap(attention, randomness="same")(q, k, v)
    expected = torch.stack([attention(*x) for x in zip(q, k, v, strict=True)])
    assert torch.equal(actual, expected)


def test_inside_a_transformer_layer(client: theria.Client) -> None:
    """A drop-in: the same module with either attention, Hessian-vector product included."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.LayerNorm(8)
            self.qkv = torch.nn.Linear(8, 24)
            self.out = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, attention: object) -> torch.Tensor:
            q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 4)).movedim(-3, 0).transpose(2, 3)
            o = attention(q, k, v, is_causal=True)  # type: ignore[operator]
            result: torch.Tensor = x + self.out(o.transpose(1, 2).flatten(-2))
            return result

    torch.manual_seed(0)
    block = Block().double()
    x = torch.randn(3, 5, 8).double()
    params = {name: p.detach() for name, p in block.named_parameters()}

    def through(attention: object) -> object:
        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.func.functional_call(block, p, (x, attention)).sin().sum()  # type: ignore[no-any-return]

        return torch.func.jvp(torch.func.grad(loss), (params,), (params,))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = through(scaled_dot_product_attention)
    actual = through(lambda *x, **o: sdpa(*x, client=client, **o))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_default_client_from_the_environment(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERIA_TARGET", target)
    torch.testing.assert_close(sdpa(*PLAIN.inputs()), PLAIN.math()(*PLAIN.inputs()))
    client = theria.torch.default_client()
    assert client is theria.torch.default_client()
    assert isinstance(client, theria.Client)
    client.close()


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"key": (4, 5)}, "key.shape[-1]", "must equal query.shape[-1] = 3"),
        ({"value": (7, 3)}, "value.shape[-2]", "must equal key.shape[-2] = 4"),
        ({"query": (4, 600), "key": (4, 600)}, "query.shape[-1]", "must be at most"),
        ({"attn_mask": (2, 4)}, "attn_mask.shape[-2]", "must be 1 or query.shape[-2] = 4"),
        ({"scale": float("inf")}, "scale", "must be finite"),
        ({"window": (-1, None)}, "window.left", "must not be negative"),
        ({"implementation": "v"}, "implementation", "implementation is 'v'"),
        ({"dtype": torch.int64}, "query.dtype", "query has dtype int64"),
    ],
)
def test_errors_name_the_arguments(
    changes: dict[str, Any], field: str, message: str, client: theria.Client
) -> None:
    arguments: dict[str, Any] = {"query": (4, 3), "key": (4, 3), "value": (4, 3), **changes}
    dtype = arguments.pop("dtype", torch.float32)
    for name in ("query", "key", "value", "attn_mask"):
        if name in arguments:
            arguments[name] = torch.ones(arguments[name], dtype=dtype)
    with pytest.raises(theria.InvalidArgument) as error:
        sdpa(**arguments, client=client)
    assert error.value.field == field
    assert message in error.value.message
