"""Bias, lse and the score options in `sdpa`: values and both orders against explicit math."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import explicit_math
import pytest
import torch
from reference_client import ReferenceClient
from torch import func
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

import theria
from theria.torch import sdpa, sdpa_varlen

Tensor = torch.Tensor
EVERY = (0, 1, 2, 3)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "softcap": {"softcap": 0.8},
    "alibi": {"alibi_slopes": torch.tensor([0.5, 0.25], dtype=torch.float64)},
    "lower_right": {"is_causal": True, "causal_alignment": "lower_right"},
    "kv_lengths": {"kv_lengths": torch.tensor([2, 0], dtype=torch.int32)},
    "all": {
        "softcap": 1.1,
        "is_causal": True,
        "causal_alignment": "lower_right",
        "alibi_slopes": torch.tensor([[0.5, 0.25], [0.1, 0.2]], dtype=torch.float64),
        "kv_lengths": torch.tensor([4, 2], dtype=torch.int32),
    },
}
BIASES = {"full": (2, 2, 3, 4), "heads": (2, 1, 4), "rows": (3, 1), "keys": (4,)}


def inputs(bias: str = "full", seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 2, 3, 2), (2, 2, 4, 2), (2, 2, 4, 3), BIASES[bias])
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)


def ours(client: Any, options: dict[str, Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        o, lse = sdpa(q, k, v, bias, return_lse=True, client=client, **options)
        return o, torch.where(torch.isneginf(lse), 0.0, lse)

    return attention


def exact(options: dict[str, Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *x: explicit_math.attention(*x, **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck(name: str, client: ReferenceClient) -> None:
    x = tuple(t.requires_grad_() for t in inputs("heads"))
    attention = ours(client, OPTIONS[name])
    assert gradcheck(attention, x, check_forward_ad=True)
    assert gradgradcheck(attention, x, check_fwd_over_rev=True, check_rev_over_rev=True)


def loss(attention: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    def scalar(*x: Tensor) -> Tensor:
        o, lse = attention(*x)
        return torch.sin(o).sum() + torch.cos(lse).sum()

    return scalar


DERIVATIVES: dict[str, Callable[[Any, Any], Any]] = {
    "values": lambda f, x: f(*x),
    "gradient": lambda f, x: func.grad(loss(f), EVERY)(*x),
    "jvp": lambda f, x: func.jvp(f, x, tuple(t.cos() for t in x)),
    "forward over reverse": lambda f, x: func.jvp(
        func.grad(loss(f), EVERY), x, tuple(t.cos() for t in x)
    ),
    "reverse over forward": lambda f, x: func.grad(
        lambda *y: sum(t.sin().sum() for t in func.jvp(f, y, tuple(t.cos() for t in y))[1]), EVERY
    )(*x),
    "reverse over reverse": lambda f, x: func.grad(
        lambda *y: sum((g**2).sum() for g in func.grad(loss(f), EVERY)(*y)), EVERY
    )(*x),
    "jacrev by bias": lambda f, x: func.jacrev(f, 3)(*x),
    "jacfwd by bias": lambda f, x: func.jacfwd(f, 3)(*x),
    "vmap of gradient": lambda f, x: func.vmap(func.grad(loss(f), EVERY))(
        *(torch.stack([t, t.sin()]) for t in x)
    ),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("bias", BIASES)
def test_derivatives_by_the_bias(derivative: str, bias: str, client: ReferenceClient) -> None:
    options = OPTIONS["all" if bias == "heads" else "plain"]
    actual = DERIVATIVES[derivative](ours(client, options), inputs(bias))
    expected = DERIVATIVES[derivative](exact(options), inputs(bias))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_a_bias_alone_is_differentiated(client: ReferenceClient) -> None:
    q, k, v, bias = inputs()
    bias.requires_grad_()
    (actual,) = torch.autograd.grad(sdpa(q, k, v, bias, client=client).sin().sum(), bias)
    o, _ = explicit_math.attention(q, k, v, bias)
    torch.testing.assert_close(actual, torch.autograd.grad(o.sin().sum(), bias)[0])
    with torch.no_grad():
        sdpa(q, k, v, bias, client=client)


def test_the_bias_is_not_differentiated_unless_it_requires_a_gradient(
    client: ReferenceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    vjp = client.vjp

    def recording(*x: Any, **options: Any) -> Any:
        asked.append({name for name, mode in options["outputs"].items() if mode == "inline"})
        return vjp(*x, **options)

    monkeypatch.setattr(client, "vjp", recording)
    q, k, v, bias = inputs()
    q.requires_grad_()
    sdpa(q, k, v, bias, client=client).sum().backward()
    assert asked == [{"q_bar"}]


def test_the_statistic_of_half_inputs_is_float32(client: ReferenceClient) -> None:
    q, k, v, _ = (x.half().requires_grad_() for x in inputs())
    o, lse = sdpa(q, k, v, return_lse=True, client=client)
    assert (o.dtype, lse.dtype) == (torch.float16, torch.float32)
    (q_bar,) = torch.autograd.grad(lse.sum(), q)
    assert q_bar.dtype == torch.float16


@pytest.mark.parametrize("variant", [causal_upper_left, causal_lower_right])
@pytest.mark.parametrize(("seq_q", "seq_kv"), [(3, 5), (5, 3)])
@pytest.mark.parametrize("window", [None, (1, None)])
def test_causal_biases(
    variant: Any, seq_q: int, seq_kv: int, window: Any, client: ReferenceClient
) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, n, 4, generator=generator) for n in (seq_q, seq_kv, seq_kv))
    o = sdpa(q, k, v, variant(seq_q, seq_kv), window=window, client=client)
    offset = 0 if variant is causal_upper_left else seq_kv - seq_q
    ahead = explicit_math.positions(seq_q, seq_kv)
    allowed = ahead <= offset
    if window is not None:
        allowed &= ahead >= -1
    mask = torch.where(allowed, 0.0, -torch.inf)
    p = torch.softmax(q @ k.mT / 2.0 + mask, -1).nan_to_num(0.0)
    torch.testing.assert_close(o, (p @ v).to(o.dtype), rtol=1e-5, atol=1e-6)


STARTS = ([0, 2, 2, 6], [0, 3, 4, 9])


def packed_inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((6, 4, 3), (9, 2, 3), (9, 2, 2))
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return q, k, v


def varlen(client: Any, **options: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    starts = [torch.tensor(s, dtype=torch.int32) for s in STARTS]

    def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        o, lse, nothing = sdpa_varlen(
            q, k, v, *starts, 4, 5, client=client, return_attn_probs=True, **options
        )
        assert nothing is None
        return o, torch.where(torch.isneginf(lse), 0.0, lse)

    return attention


def test_varlen_is_attention_of_each_sequence(client: ReferenceClient) -> None:
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0], dtype=torch.float64)
    o, lse = varlen(client, causal=True, window_size=(3, -1), softcap=1.5, alibi_slopes=slopes)(
        *packed_inputs()
    )
    q, k, v = packed_inputs()
    for q0, q1, k0, k1 in zip(
        STARTS[0][:-1], STARTS[0][1:], STARTS[1][:-1], STARTS[1][1:], strict=True
    ):
        document = (q[q0:q1], k[k0:k1].repeat_interleave(2, 1), v[k0:k1].repeat_interleave(2, 1))
        expected, lse_of = explicit_math.attention(
            *(x.transpose(0, 1)[None] for x in document),
            is_causal=True,
            window=(3, None),
            softcap=1.5,
            alibi_slopes=slopes,
            causal_alignment="lower_right",
        )
        torch.testing.assert_close(o[q0:q1], expected[0].transpose(0, 1))
        torch.testing.assert_close(lse[:, q0:q1], lse_of[0])


def test_gradcheck_of_varlen(client: ReferenceClient) -> None:
    x = tuple(t.requires_grad_() for t in packed_inputs())
    attention = varlen(client, causal=True, softcap=0.9)
    assert gradcheck(attention, x, check_forward_ad=True)
    assert gradgradcheck(attention, x, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("is_causal", [False, True])
def test_jagged_tensors(is_causal: bool, client: ReferenceClient) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = [
        torch.randn(n, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (3, 1, 5)
    ]

    def nested() -> Tensor:
        x = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        return x.transpose(1, 2)

    x = nested()
    o = sdpa(x, x, x.sin(), is_causal=is_causal, client=client)
    assert o.is_nested
    assert o.shape[:2] == (3, 2)
    expected = [
        explicit_math.attention(
            *(y.transpose(0, 1)[None] for y in (row, row, row.sin())), is_causal=is_causal
        )[0][0].transpose(0, 1)
        for row in rows
    ]
    torch.testing.assert_close(o.transpose(1, 2).values(), torch.cat(expected))
    actual = torch.autograd.grad(o.transpose(1, 2).values().sin().sum(), rows)
    exact_gradient = torch.autograd.grad(torch.cat(expected).sin().sum(), rows)
    torch.testing.assert_close(actual, exact_gradient)
    with pytest.raises(theria.InvalidArgument, match="query is a nested tensor"):
        sdpa(x, torch.zeros(3, 2, 5, 4), x, client=client)


@pytest.mark.parametrize("extent", range(4))
def test_empty_inputs_give_zeros(extent: int, client: ReferenceClient) -> None:
    sizes = [2, 2, 3, 4]
    sizes[extent] = 0
    batch, heads, seq_q, seq_kv = sizes
    q = torch.ones(batch, heads, seq_q, 4, dtype=torch.float64, requires_grad=True)
    k = torch.ones(batch, heads, seq_kv, 4, dtype=torch.float64, requires_grad=True)
    o, lse = sdpa(q, k, k, return_lse=True, client=client)
    # PyTorch's CPU kernel divides by zero where there are no heads.
    torch.testing.assert_close(o, torch.zeros_like(q))
    assert torch.isneginf(lse).all()
    first = torch.autograd.grad(o.sum(), (q, k), create_graph=True)
    for gradient, like in zip(first, (q, k), strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(like))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softcap", {"softcap": "2"}),
        ("causal_alignment", {"causal_alignment": "left"}),
        ("alibi_slopes", {"alibi_slopes": torch.ones(2, requires_grad=True)}),
    ],
)
def test_options_that_are_wrong(name: str, options: Any, client: ReferenceClient) -> None:
    q, k, v, _ = inputs()
    with pytest.raises(theria.InvalidArgument) as caught:
        sdpa(q, k, v, client=client, **options)
    assert caught.value.field == name
