"""`sdpa` as a PyTorch function: shapes, strides, dtypes, gradients wanted, randomness, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from reference_client import ReferenceClient
from sdpa_cases import DETERMINISTIC, DROPOUT, PLAIN, Case, identifier
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import theria.torch
from theria.torch import DerivativeOrderError, NoClientError, sdpa

Tensor = torch.Tensor


def leaves(case: Case = PLAIN) -> list[Tensor]:
    return [x.requires_grad_() for x in case.inputs()]


@pytest.mark.parametrize("case", DETERMINISTIC, ids=identifier)
def test_values_are_those_of_pytorch(case: Case, client: ReferenceClient) -> None:
    actual = case.service(client)(*case.inputs())
    torch.testing.assert_close(actual, case.math()(*case.inputs()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
)
def test_dtype_is_kept(dtype: torch.dtype, tolerance: float, client: ReferenceClient) -> None:
    q, k, v = (x.to(dtype).requires_grad_() for x in PLAIN.inputs())
    o = sdpa(q, k, v, client=client)
    assert o.dtype == dtype
    gradients = torch.autograd.grad(o.sum(), (q, k, v))
    expected = torch.autograd.grad(
        scaled_dot_product_attention(q.double(), k.double(), v.double()).sum(), (q, k, v)
    )
    torch.testing.assert_close(gradients, expected, rtol=tolerance, atol=tolerance)


def test_autocast_chooses_the_dtype(client: ReferenceClient) -> None:
    q, k, v = PLAIN.inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert sdpa(q, k, v.bfloat16(), client=client).dtype == torch.bfloat16


def test_strided_inputs_and_gradients(client: ReferenceClient) -> None:
    q, k, v = (
        x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        for x in PLAIN.inputs()
    )
    assert not q.is_contiguous()
    o = sdpa(q, k, v, client=client)
    o_bar = torch.ones((), dtype=o.dtype).expand_as(o)  # all strides are 0
    actual = torch.autograd.grad(o.transpose(0, 1), (q, k, v), o_bar.transpose(0, 1))
    o = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(actual, torch.autograd.grad(o, (q, k, v), o_bar))


def test_gqa_with_unequal_heads_of_key_and_value(client: ReferenceClient) -> None:
    case = Case("", (2, 6, 4, 3), (2, 2, 5, 3), (2, 3, 5, 2), options={"enable_gqa": True})
    q, k, v = case.inputs()
    expected = scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(2, 1))
    torch.testing.assert_close(case.service(client)(q, k, v), expected)


@pytest.mark.parametrize("shape", [(5,), (1, 1, 1, 5), (2, 1, 4, 5), (2, 2, 4, 5)])
def test_masks_broadcast_also_under_vmap(shape: tuple[int, ...], client: ReferenceClient) -> None:
    q, k, v = (torch.stack([x, 2 * x, x.sin()]) for x in PLAIN.inputs())
    masks = torch.linspace(-2, 3, 3 * torch.Size(shape).numel(), dtype=q.dtype).reshape(3, *shape)

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return sdpa(q, k, v, mask, client=client)

    for mask_dim, mask in [(0, masks), (None, masks[1])]:
        actual = torch.func.vmap(attention, (0, 0, 0, mask_dim))(q, k, v, mask)
        full = mask.expand(3, *shape) if mask_dim is None else mask
        expected = [
            scaled_dot_product_attention(*x, m.expand(2, 2, 4, 5))
            for x, m in zip(zip(q, k, v, strict=True), full, strict=True)
        ]
        torch.testing.assert_close(actual, torch.stack(expected))


def test_fully_masked_row_is_zero_with_zero_gradients(client: ReferenceClient) -> None:
    q, k, v = leaves()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[2] = False
    o = sdpa(q, k, v, mask, client=client)
    assert (o[:, :, 2] == 0).all()
    (q_bar,) = torch.autograd.grad(o.square().sum(), q, create_graph=True)
    assert (q_bar[:, :, 2] == 0).all()
    (second,) = torch.autograd.grad(q_bar.square().sum(), q)
    assert (second[:, :, 2] == 0).all()
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("differentiated", [(0,), (1,), (2,), (0, 2)])
def test_some_inputs_do_not_require_a_gradient(
    differentiated: tuple[int, ...], client: ReferenceClient
) -> None:
    def second_order(attention: Any) -> Any:
        inputs = list(PLAIN.inputs())
        wanted = [inputs[i].requires_grad_() for i in differentiated]
        first = torch.autograd.grad(attention(*inputs).sin().sum(), wanted, create_graph=True)
        return torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), wanted)

    torch.testing.assert_close(second_order(PLAIN.service(client)), second_order(PLAIN.math()))


def test_gradient_of_the_cotangent_alone_is_a_jvp(client: ReferenceClient) -> None:
    q, k, v = PLAIN.inputs()

    def through(attention: Any) -> Tensor:
        def q_bar_norm(o_bar: Tensor) -> Tensor:
            q_bar: Tensor = torch.func.vjp(attention, q, k, v)[1](o_bar)[0]
            return q_bar.square().sum()

        gradient: Tensor = torch.func.grad(q_bar_norm)(torch.ones(2, 2, 4, 2, dtype=q.dtype))
        return gradient

    torch.testing.assert_close(through(PLAIN.service(client)), through(PLAIN.math()))
    assert client.calls == {"forward": 1, "vjp": 1, "jvp": 1}


def test_calls_of_each_order(client: ReferenceClient) -> None:
    q, k, v = leaves()
    o = sdpa(q, k, v, client=client)
    assert client.calls == {"forward": 1}
    first = torch.autograd.grad(o.square().sum(), (q, k, v), create_graph=True)
    assert client.calls == {"forward": 1, "vjp": 1}
    torch.autograd.grad(torch.stack([g.sum() for g in first]).sum(), (q, k, v))
    assert client.calls == {"forward": 1, "vjp": 2, "hvp": 1}, "o_bar depends on o: one more VJP"
    with torch.no_grad():
        sdpa(q, k, v, client=client)
    assert client.calls["forward"] == 2


def test_vmap_is_one_call(client: ReferenceClient) -> None:
    q, k, v = (torch.stack([x] * 7) for x in PLAIN.inputs())
    torch.func.vmap(PLAIN.service(client))(q, k, v)
    assert client.calls == {"forward": 1}


def test_dropout_seed_is_drawn_once_from_the_generator(client: ReferenceClient) -> None:
    def gradient() -> Tensor:
        q, k, v = leaves()
        o = sdpa(q, k, v, dropout_p=0.5, client=client)
        return torch.cat([o.flatten(), *(g.flatten() for g in torch.autograd.grad(o.sum(), [q]))])

    torch.manual_seed(3)
    first = gradient()
    second = gradient()
    torch.manual_seed(3)
    assert torch.equal(first, gradient())
    assert not torch.equal(first, second)


def test_dropout_is_the_same_when_a_checkpoint_recomputes(client: ReferenceClient) -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, dropout_p=0.5, client=client)

    q, k, v = leaves()
    torch.manual_seed(3)
    expected = torch.autograd.grad(attention(q, k, v).sum(), (q, k, v))
    torch.manual_seed(3)
    o = checkpoint(attention, q, k, v, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(o.sum(), (q, k, v)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_dropout_seed_is_any_unsigned_64_bit_number(seed: int, client: ReferenceClient) -> None:
    seen: list[int] = []
    forward = client.forward
    client.forward = lambda *x, **o: seen.append(o["dropout_seed"]) or forward(*x, **o)  # type: ignore[method-assign, func-returns-value]
    sdpa(*PLAIN.inputs(), dropout_p=0.5, dropout_seed=seed, client=client)
    assert seen == [seed]


def test_vmap_randomness(client: ReferenceClient) -> None:
    q, k, v = (torch.stack([x, x]) for x in PLAIN.inputs())

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, dropout_p=0.5, client=client)

    same = torch.func.vmap(attention, randomness="same")(q, k, v)
    assert torch.equal(same[0], same[1])
    different = torch.func.vmap(attention, randomness="different")(q, k, v)
    assert not torch.equal(different[0], different[1])
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(attention)(q, k, v)


def test_derivatives_under_vmap_see_the_forwards_dropout(client: ReferenceClient) -> None:
    attention = DROPOUT.service(client)
    q, k, v = DROPOUT.inputs()
    o, vjp, *_ = torch.func.vjp(attention, q, k, v)
    basis = torch.eye(o.numel(), dtype=o.dtype)
    rows = [vjp(row.reshape(o.shape)) for row in basis]
    expected = tuple(torch.stack(column) for column in zip(*rows, strict=True))
    actual = torch.func.jacrev(attention, (0, 1, 2))(q, k, v)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.reshape(e.shape), e, rtol=1e-12, atol=1e-12)
    forward = torch.func.jacfwd(attention, (0, 1, 2))(q, k, v)
    torch.testing.assert_close(forward, actual, rtol=1e-12, atol=1e-12)


def test_third_order_is_refused_by_name(client: ReferenceClient) -> None:
    q, k, v = leaves()
    (first,) = torch.autograd.grad(sdpa(q, k, v, client=client).sin().sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), q, create_graph=True)
    with pytest.raises(DerivativeOrderError, match="third-order derivative of attention"):
        torch.autograd.grad(second.sum(), q)

    def loss(q: Tensor) -> Tensor:
        return sdpa(q, k, v, client=client).sin().sum()

    def norm_of_gradient(q: Tensor) -> Tensor:
        gradient: Tensor = torch.func.grad(loss)(q)
        return gradient.square().sum()

    with pytest.raises(DerivativeOrderError, match="third-order"):
        torch.func.jvp(torch.func.grad(norm_of_gradient), (q,), (q,))


def test_forward_over_forward_is_refused_by_name(client: ReferenceClient) -> None:
    q, k, v = PLAIN.inputs()
    with pytest.raises(DerivativeOrderError, match="forward mode over forward mode"):
        torch.func.jacfwd(torch.func.jacfwd(lambda q: sdpa(q, k, v, client=client)))(q)


def test_linear_directions_have_every_order(client: ReferenceClient) -> None:
    """A JVP is linear in its tangent, a VJP in its cotangent; only q, k and v count as orders."""
    q, k, v = PLAIN.inputs()
    attention = PLAIN.service(client)

    def jvp(q_dot: Tensor) -> Tensor:
        zero = (torch.zeros_like(k), torch.zeros_like(v))
        result: Tensor = torch.func.jvp(attention, (q, k, v), (q_dot, *zero))[1]
        return result

    def vjp(o_bar: Tensor) -> Tensor:
        result: Tensor = torch.func.vjp(attention, q, k, v)[1](o_bar)[0]
        return result

    o_bar = torch.ones(2, 2, 4, 2, dtype=q.dtype)
    torch.testing.assert_close(torch.func.jvp(jvp, (q,), (q.cos(),))[1], jvp(q.cos()))
    torch.testing.assert_close(torch.func.jvp(vjp, (o_bar,), (o_bar,))[1], vjp(o_bar))
    assert "hvp" not in client.calls


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", torch.tensor(0.5)),  # its gradient would be lost
        ("scale", torch.nn.Parameter(torch.tensor(0.5))),
        ("scale", "0.5"),
        ("dropout_p", -0.1),
        ("dropout_p", float("nan")),
        ("dropout_p", 1.0),
        ("client", "localhost:50051"),
    ],
)
def test_arguments_that_are_no_number_of_theirs(
    name: str, value: Any, client: ReferenceClient
) -> None:
    with pytest.raises(theria.InvalidArgument, match=f"^{name} is ") as error:
        sdpa(*PLAIN.inputs(), **{"client": client, name: value})
    assert error.value.field == name
    assert not client.calls


def test_a_traced_scale_is_refused(client: ReferenceClient) -> None:
    def of_scale(scale: Any) -> Tensor:
        return sdpa(*PLAIN.inputs(), scale=scale, client=client).sum()

    with pytest.raises(theria.InvalidArgument, match="scale is a tensor"):
        torch.func.grad(of_scale)(torch.tensor(0.5))


@pytest.mark.parametrize("leading", [(), (2,), (1, 2), (1, 2, 1)])
def test_compiled_code_behind_it_refuses_double_backward(
    leading: tuple[int, ...], client: ReferenceClient
) -> None:
    # PyTorch's guard does not see through views: with one as the output the curvature was cut.
    x = torch.randn(*leading, 5, 4, dtype=torch.float64, requires_grad=True)
    loss = torch.compile(lambda o: o.pow(2).sum(), backend="aot_eager")
    (gradient,) = torch.autograd.grad(loss(sdpa(x, x, x, client=client)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(gradient.square().sum(), x)


@pytest.mark.parametrize(
    ("q", "k", "options", "message"),
    [
        ((3,), (4, 3), {}, r"at least the dimensions \[seq, dim\]"),
        ((2, 2, 4, 3), (3, 2, 4, 3), {}, r"do not broadcast: \(2, 2\), \(3, 2\), \(3, 2\)"),
        ((1, 6, 4, 3), (1, 2, 4, 3), {}, "enable_gqa=True"),
        ((1, 3, 4, 3), (1, 2, 4, 3), {"enable_gqa": True}, "2 heads of key or value"),
        ((1, 3, 4, 3), (1, 0, 4, 3), {"enable_gqa": True}, "0 heads of key or value"),
        ((4, 3), (4, 3), {"enable_gqa": True}, r"\[heads, seq, dim\]"),
        (
            (2, 3, 1, 4, 3),
            (2, 3, 1, 4, 3),
            {"attn_mask": torch.ones(3, 2, 1, 4, 4)},
            r"attn_mask is \(3, 2, 1, 4, 4\), must broadcast to the leading dimensions \(2, 3, 1\)",
        ),
    ],
)
def test_shapes_that_do_not_fit(
    q: tuple[int, ...],
    k: tuple[int, ...],
    options: dict[str, Any],
    message: str,
    client: ReferenceClient,
) -> None:
    key = torch.zeros(k)
    with pytest.raises(theria.InvalidArgument, match=message):
        sdpa(torch.zeros(q), key, key, client=client, **options)


class Recording(ReferenceClient):
    """A client that keeps whether each call was to be deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.deterministic: list[bool] = []

    def _answer(self, *arguments: Any) -> Any:
        self.deterministic.append(bool(arguments[-1].get("deterministic", False)))
        return super()._answer(*arguments)


def test_deterministic_algorithms_of_torch_are_an_option_of_every_call() -> None:
    client = Recording()
    q = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def curvature(**options: Any) -> None:
        (q_bar,) = torch.autograd.grad(
            sdpa(q, q, q, client=client, **options).sin().sum(), q, create_graph=True
        )
        q_bar.square().sum().backward()

    curvature()
    assert client.deterministic
    assert not any(client.deterministic)
    client.deterministic.clear()
    torch.use_deterministic_algorithms(True)
    try:
        curvature()
    finally:
        torch.use_deterministic_algorithms(False)
    curvature(deterministic=True)
    assert len(client.deterministic) >= 6
    assert all(client.deterministic)


class Refusing(ReferenceClient):
    """A client whose calls end with one error."""

    def __init__(self, *violations: tuple[str, str]):
        super().__init__()
        self.error = theria.InvalidArgument(
            "; ".join(f"{field}: {description}" for field, description in violations),
            violations=tuple(theria.FieldViolation(*violation) for violation in violations),
            request_id="17",
        )

    def forward(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("field", "description", "renamed"),
    [
        (
            "k.shape[3]",
            "is 5, must equal q.shape[3] = 4",
            ("key.shape[-1]", "is 5, must equal query.shape[-1] = 4"),
        ),
        (
            "v.shape[2]",
            "is 5, must equal k.shape[2] = 4",
            ("value.shape[-2]", "is 5, must equal key.shape[-2] = 4"),
        ),
        (
            "v.dtype",
            "is float32, must be float64, the dtype of q",
            ("value.dtype", "is float32, must be float64, the dtype of query"),
        ),
        (
            "options.mask.shape[0]",
            "is 2, must be 1 or q.shape[2] = 4",
            ("attn_mask.shape[-2]", "is 2, must be 1 or query.shape[-2] = 4"),
        ),
        ("options.scale", "is inf, must be finite", ("scale", "is inf, must be finite")),
        (
            "options.dropout.seed",
            "the seed of q_dot, outputs.v and 'v'",
            ("dropout_seed", "the seed of q_dot, outputs.v and 'v'"),
        ),
        (
            "options.window.left",
            "is -1, must not be negative",
            ("window.left", "is -1, must not be negative"),
        ),
    ],
)
def test_errors_name_the_arguments(field: str, description: str, renamed: tuple[str, str]) -> None:
    client = Refusing((field, description), ("outputs.lse", "is another matter"))
    q, k, v = PLAIN.inputs()
    with pytest.raises(theria.InvalidArgument) as caught:
        sdpa(q, k, v, torch.ones(4, 5, dtype=torch.bool), client=client)
    error = caught.value
    first, second = error.violations
    assert (first.field, first.description) == renamed
    assert second == client.error.violations[1]
    assert error.message == "{}: {}; outputs.lse: is another matter".format(*renamed)
    assert error.request_id == "17"


@pytest.mark.parametrize("name", ["query", "key", "value", "attn_mask"])
def test_arguments_that_are_no_tensors(name: str, client: ReferenceClient) -> None:
    arguments: dict[str, Any] = dict(zip(("query", "key", "value"), PLAIN.inputs(), strict=True))
    arguments[name] = [[True]]
    with pytest.raises(theria.InvalidArgument, match=f"^{name} is a list") as error:
        sdpa(**arguments, client=client)
    assert error.value.field == name


@pytest.fixture
def no_default_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("THERIA_TARGET", raising=False)
    yield
    theria.torch.set_default_client(None)


@pytest.mark.usefixtures("no_default_client")
def test_no_default_client_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> theria.Client:
        raise theria.Unavailable("not installed")

    monkeypatch.setattr("theria._default_client._local", None)
    monkeypatch.setattr(theria, "local", unavailable)
    with pytest.raises(NoClientError, match=r"not installed.*THERIA_TARGET"):
        sdpa(*PLAIN.inputs())


@pytest.mark.usefixtures("no_default_client")
def test_the_default_computes_in_this_process() -> None:
    query, key, value = (x.requires_grad_() for x in PLAIN.inputs())
    o = sdpa(query, key, value)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(o, expected)
    (gradient,) = torch.autograd.grad(o.square().sum(), query, create_graph=True)
    (exact,) = torch.autograd.grad(expected.square().sum(), query, create_graph=True)
    torch.testing.assert_close(gradient, exact)
    torch.testing.assert_close(
        torch.autograd.grad(gradient.square().sum(), (query, key, value)),
        torch.autograd.grad(exact.square().sum(), (query, key, value)),
    )
    assert theria.torch.default_client() is theria.torch.default_client()


@pytest.mark.usefixtures("no_default_client")
def test_default_client(client: ReferenceClient, monkeypatch: pytest.MonkeyPatch) -> None:
    theria.torch.set_default_client(client)
    sdpa(*PLAIN.inputs())
    assert client.calls == {"forward": 1}

    connected: list[str] = []
    other = ReferenceClient()
    monkeypatch.setattr(theria, "connect", lambda target: connected.append(target) or other)  # type: ignore[func-returns-value]
    monkeypatch.setenv("THERIA_TARGET", "example:1")
    theria.torch.set_default_client(None)
    sdpa(*PLAIN.inputs())
    sdpa(*PLAIN.inputs())
    assert connected == ["example:1"], "connects once"
    assert other.calls == {"forward": 2}
