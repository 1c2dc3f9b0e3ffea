"""Masks that are no plain tensors, and tensors of other kinds: understood, or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from reference_client import ReferenceClient
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import CausalBias, causal_lower_right, causal_upper_left
from torch.nn.attention.flex_attention import create_block_mask
from torch.testing._internal.two_tensor import TwoTensor

import theria
from theria.torch import patch, sdpa

Tensor = torch.Tensor


def inputs(seq_q: int, seq_kv: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 2, seq_q, 4), (2, 2, seq_kv, 4), (2, 2, seq_kv, 4))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def derivatives(attention: Callable[..., Tensor], tensors: list[Tensor], mask: Any) -> list[Tensor]:
    o = attention(*tensors, attn_mask=mask)
    first = torch.autograd.grad(o.sin().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), tensors)
    return [o, *first, *second]


@pytest.mark.parametrize("bias", [causal_upper_left, causal_lower_right])
@pytest.mark.parametrize("lengths", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("patched", [False, True])
def test_causal_bias(
    bias: Callable[..., CausalBias],
    lengths: tuple[int, int],
    patched: bool,
    client: ReferenceClient,
) -> None:
    tensors = inputs(*lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows without a key, which PyTorch announces as NaN
        mask = bias(*lengths)
    with sdpa_kernel(SDPBackend.MATH):
        expected = derivatives(F.scaled_dot_product_attention, tensors, mask._materialize())
    if patched:
        with patch(client=client):
            actual = derivatives(F.scaled_dot_product_attention, tensors, mask)
    else:
        actual = derivatives(lambda *x, **o: sdpa(*x, client=client, **o), tensors, mask)
    torch.testing.assert_close(actual, expected)
    assert client.calls["hvp"] == 1


def test_causal_bias_within_a_window(client: ReferenceClient) -> None:
    tensors = inputs(3, 5)
    for right in (1, 4):
        keep = causal_lower_right(3, 5)._materialize().triu(-1).tril(right)
        actual = sdpa(*tensors, causal_lower_right(3, 5), window=(1, right), client=client)
        torch.testing.assert_close(actual, F.scaled_dot_product_attention(*tensors, keep))


def test_causal_bias_that_does_not_fit(client: ReferenceClient) -> None:
    tensors = inputs(3, 5)
    with pytest.raises(ValueError, match="CausalBias"):
        sdpa(*tensors, causal_upper_left(3, 5), is_causal=True, client=client)
    with pytest.raises(theria.InvalidArgument, match=r"lower right of \(3, 6\), must be of \(3, 5"):
        sdpa(*tensors, causal_lower_right(3, 6), client=client)


def block_mask() -> Any:
    return create_block_mask(lambda _b, _h, i, j: i >= j, 1, 1, 3, 3, device="cpu")


KINDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "strided nested": (lambda x: torch.nested.nested_tensor([x, x[:2]]), "nested tensor.* pad it"),
    "jagged nested": (
        lambda x: torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged),
        "nested tensor.* pad it",
    ),
    "sparse": (lambda x: x.to_sparse(), r"sparse_coo, .*to_dense\(\)"),
    "sparse_csr": (lambda x: x.to_sparse_csr(), r"sparse_csr, .*to_dense\(\)"),
    "mkldnn": (lambda x: x.to_mkldnn(), r"_mkldnn, .*to_dense\(\)"),
    "quantised": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        r"quantised tensor, .*dequantize\(\)",
    ),
    "masked": (lambda x: torch.masked.masked_tensor(x, x > 0), r"MaskedTensor, .*get_data\(\)"),
    "subclass": (lambda x: x.as_subclass(Meaningful), "Meaningful, which overrides"),
    "BlockMask": (lambda _: block_mask(), "BlockMask, .*create_mask"),
    "causal bias": (lambda _: causal_upper_left(3, 3), "CausalBias"),
}


class Meaningful(torch.Tensor):
    """Stands for something else than its elements."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["query", "value", "attn_mask"])
def test_other_kinds_are_refused_by_name(kind: str, name: str, client: ReferenceClient) -> None:
    if (kind, name) == ("causal bias", "attn_mask"):
        return
    make, message = KINDS[kind]
    x = torch.randn(3, 3)
    arguments = {"query": x, "key": x, "value": x, name: make(x)}
    with pytest.raises(theria.WrongType, match=f"^{name} is a .*{message}") as error:
        sdpa(**arguments, client=client)
    assert error.value.field == name
    assert isinstance(error.value, TypeError)
    assert not client.calls


class Plain(torch.Tensor):
    """A tensor by another name."""


def test_a_plain_subclass_is_a_tensor(client: ReferenceClient) -> None:
    x = torch.randn(3, 4).as_subclass(Plain).requires_grad_()
    o = sdpa(x, x, x, client=client)
    (gradient,) = torch.autograd.grad(o.sum(), x)
    assert isinstance(o, Plain)
    assert isinstance(gradient, Plain)


def test_a_subclass_that_dispatches_sees_the_operator(client: ReferenceClient) -> None:
    a, b = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    x = TwoTensor(a, b).requires_grad_()
    o = sdpa(x, x, x, client=client)
    torch.testing.assert_close(o.b, F.scaled_dot_product_attention(b, b, b))
    (gradient,) = torch.autograd.grad(o.sum(), x)
    assert isinstance(gradient, TwoTensor)
