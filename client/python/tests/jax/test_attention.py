"""`dot_product_attention` in every composition of transforms, against the formula written out."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import CASES, EVERY, PLAIN, TRANSFORMS, Case, assert_agrees, identifier

import theria.jax
from theria.jax import DerivativeOrderError, dot_product_attention


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("jit", [False, True])
def test_transform(name: str, jit: bool, client: Any) -> None:
    assert_agrees(name, PLAIN, client, jit=jit)


@pytest.mark.parametrize("case", CASES[1:], ids=identifier)
@pytest.mark.parametrize(
    "name",
    ["forward", "jvp", "jvp_of_grad", "grad_of_grad", "grad_of_jvp", "vmap_of_jvp_of_grad"],
)
def test_options(name: str, case: Case, client: Any) -> None:
    assert_agrees(name, case, client)


@pytest.mark.parametrize("case", CASES[:10:3], ids=identifier)
def test_values_are_those_of_jax(case: Case, client: Any) -> None:
    inputs = case.inputs(np.float32)
    expected = jax.nn.dot_product_attention(
        *(x if i < 2 else jnp.concatenate([x, x[..., :1]], -1) for i, x in enumerate(inputs)),
        **{
            name: x.astype(jnp.int32) if x.dtype == jnp.int64 else x
            for name, x in case.arrays().items()
        },
        **case.options,
    )[..., :2]
    actual = case.service(client)(*inputs)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_calls_are_as_few_as_the_docstring_says(client: Any) -> None:
    attention = PLAIN.service(client)

    def loss(*x: jax.Array) -> jax.Array:
        return attention(*x).sum()

    jax.grad(loss, EVERY)(*PLAIN.inputs())
    assert client.calls == {"forward": 1, "vjp": 1}
    client.calls.clear()
    x = PLAIN.inputs()
    jax.jit(lambda x: jax.jvp(jax.grad(loss, EVERY), x, x)[1])(x)
    assert client.calls == {"forward": 1, "hvp": 1}
    client.calls.clear()
    batch = tuple(jnp.stack([y] * 7) for y in x)
    jax.vmap(jax.grad(loss, EVERY))(*batch)
    assert client.calls == {"forward": 1, "vjp": 1}, "one call for the whole batch"


def test_residual(client: Any) -> None:
    q, k, v = PLAIN.inputs()
    o, lse = dot_product_attention(q, k, v, return_residual=True, client=client)
    scores = jnp.einsum("btnh,bsnh->btns", q, k) / np.sqrt(3)
    np.testing.assert_allclose(lse, jax.nn.logsumexp(scores, -1), rtol=1e-12)
    assert o.shape == (2, 4, 2, 2)

    halves = [x.astype(jnp.float16) for x in (q, k, k)]
    for attention in (partial(dot_product_attention, client=client), jax.nn.dot_product_attention):
        o, lse = attention(*halves, return_residual=True)
        assert o.dtype == lse.dtype == jnp.float16


def test_rows_without_a_key_are_zero(client: Any) -> None:
    mask = jnp.ones((4, 5), bool).at[1].set(False)

    def loss(q: jax.Array) -> jax.Array:
        o = dot_product_attention(q, *PLAIN.inputs()[1:], mask=mask, client=client)
        return jnp.sin(o + 1).sum()

    q = PLAIN.inputs()[0]
    for derivative in (jax.grad(loss)(q), jax.hessian(loss)(q)):
        assert jnp.isfinite(derivative).all()
        assert not derivative[:, 1].any()
        assert derivative[:, 0].any()


class TestDropout:
    KEY = jax.random.key(5)

    def attention(self, client: Any, key: Any = KEY) -> Any:
        return lambda q, k, v: dot_product_attention(
            q, k, v, dropout_rate=0.4, dropout_key=key, client=client
        )

    def test_one_draw_in_all_derivatives(self, client: Any) -> None:
        """By central differences of the forward, and of the gradient."""
        attention, x = self.attention(client), PLAIN.inputs()

        def loss(y: Any) -> jax.Array:
            return jnp.sin(attention(*y)).sum()

        direction = jax.tree.map(jnp.cos, x)
        h = 1e-5
        ahead, behind = (
            jax.tree.map(lambda y, d, s=s: y + s * h * d, x, direction) for s in (1, -1)
        )
        slope = jax.jvp(loss, (x,), (direction,))[1]
        np.testing.assert_allclose(slope, (loss(ahead) - loss(behind)) / (2 * h), rtol=1e-7)
        product = jax.jvp(jax.grad(loss), (x,), (direction,))[1]
        moved, back = jax.grad(loss)(ahead), jax.grad(loss)(behind)
        for p, m, b in zip(product, moved, back, strict=True):
            np.testing.assert_allclose(p, (m - b) / (2 * h), rtol=1e-6, atol=1e-8)

    def test_keys_and_vmap(self, client: Any) -> None:
        x = PLAIN.inputs()
        one, same = (self.attention(client)(*x) for _ in range(2))
        assert (one == same).all()
        keys = jax.random.split(self.KEY, 3)
        each = [self.attention(client, key)(*x) for key in keys]
        assert (each[0] != each[1]).any()
        mapped = jax.vmap(
            lambda key: jax.grad(lambda q: self.attention(client, key)(q, *x[1:]).sum())(x[0])
        )
        expected = [
            jax.grad(lambda q, key=key: self.attention(client, key)(q, *x[1:]).sum())(x[0])
            for key in keys
        ]
        np.testing.assert_allclose(mapped(keys), jnp.stack(expected), rtol=1e-12, atol=1e-14)

    def test_a_key_is_needed(self, client: Any) -> None:
        with pytest.raises(theria.InvalidArgument, match="dropout_key"):
            dot_product_attention(*PLAIN.inputs(), dropout_rate=0.4, client=client)


@pytest.mark.parametrize("jit", [False, True])
def test_third_order_is_refused_by_name(jit: bool, client: Any) -> None:
    _, k, v = PLAIN.inputs()

    def loss(q: jax.Array) -> jax.Array:
        return jnp.sin(PLAIN.service(client)(q, k, v)).sum()

    def second(q: jax.Array) -> jax.Array:
        return jax.grad(lambda q: (jax.grad(loss)(q) ** 2).sum())(q)

    third = {
        "reverse": jax.grad(lambda q: (second(q) ** 2).sum()),
        "forward": lambda q: jax.jvp(second, (q,), (q,))[1],
    }
    for derivative in third.values():
        with pytest.raises(DerivativeOrderError, match="third-order derivative of attention"):
            (jax.jit(derivative) if jit else derivative)(PLAIN.inputs()[0])


@pytest.mark.parametrize("jit", [False, True])
def test_forward_over_forward_is_refused_by_name(jit: bool, client: Any) -> None:
    _, k, v = PLAIN.inputs()
    derivative = jax.jacfwd(jax.jacfwd(lambda q: PLAIN.service(client)(q, k, v)))
    with pytest.raises(DerivativeOrderError, match="forward mode over forward mode"):
        (jax.jit(derivative) if jit else derivative)(PLAIN.inputs()[0])


@pytest.mark.parametrize(
    ("shapes", "field"),
    [
        ([(3,), (4, 1, 3), (4, 1, 3)], "query.shape"),
        ([(1, 4, 2, 3), (2, 4, 2, 3), (2, 4, 2, 3)], "key.shape"),
        ([(1, 4, 3, 3), (1, 4, 2, 3), (1, 4, 2, 3)], "key.shape"),
        ([(1, 4, 2, 3), (1, 4, 2, 4), (1, 4, 2, 4)], "key.shape"),
        ([(1, 4, 2, 3), (1, 5, 2, 3), (1, 4, 2, 3)], "value.shape"),
    ],
)
def test_shapes_that_do_not_fit(shapes: list[tuple[int, ...]], field: str, client: Any) -> None:
    with pytest.raises(theria.InvalidArgument) as error:
        dot_product_attention(*map(jnp.zeros, shapes), client=client)
    assert error.value.field == field


def test_dtypes_that_do_not_fit(client: Any) -> None:
    q, k, v = PLAIN.inputs()
    with pytest.raises(theria.InvalidArgument, match="key is float32, must be float64"):
        dot_product_attention(q, k.astype(jnp.float32), v, client=client)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("bias", jnp.zeros((1, 2, 4, 6))),
        ("bias", jnp.zeros((1, 1, 2, 4, 5))),
        ("mask", jnp.ones((3, 1, 1, 1), bool)),
        ("mask", jnp.ones((5, 4), bool)),
        ("query_seq_lengths", jnp.ones(3, int)),
        ("key_value_seq_lengths", jnp.ones((2, 1), int)),
    ],
)
def test_restrictions_that_do_not_broadcast(name: str, array: Any, client: Any) -> None:
    with pytest.raises(theria.InvalidArgument, match=f"^{name} is .*, must broadcast to") as error:
        dot_product_attention(*PLAIN.inputs(), client=client, **{name: array})
    assert error.value.field == f"{name}.shape"
    assert not client.calls


@pytest.mark.parametrize(
    ("field", "description", "renamed"),
    [
        (
            "q.shape[3]",
            "is 300, must be at most 256",
            ("query.shape[-1]", "is 300, must be at most 256"),
        ),
        (
            "k.shape[1]",
            "is 2, must divide q.shape[1] = 3",
            ("key.shape[-2]", "is 2, must divide query.shape[-2] = 3"),
        ),
        (
            "v.shape[2]",
            "is 2, must equal k.shape[2] = 3",
            ("value.shape[-3]", "is 2, must equal key.shape[-3] = 3"),
        ),
        ("options.scale", "is inf, must be finite", ("scale", "is inf, must be finite")),
        ("options.window.left", "is -1", ("local_window_size.left", "is -1")),
        ("options.dropout.probability", "is 2", ("dropout_rate", "is 2")),
    ],
)
def test_errors_name_the_arguments(field: str, description: str, renamed: tuple[str, str]) -> None:
    def forward(**_: Any) -> Any:
        violation = theria.FieldViolation(field, description)
        raise theria.InvalidArgument(f"{field}: {description}", violations=(violation,))

    refusing = SimpleNamespace(forward=forward)
    with pytest.raises(theria.InvalidArgument) as error:
        dot_product_attention(*PLAIN.inputs(), client=refusing)  # type: ignore[arg-type]
    assert error.value.violations == (theria.FieldViolation(*renamed),)
    assert error.value.message == "{}: {}".format(*renamed)


def test_a_mask_that_is_not_bool_is_refused(client: Any) -> None:
    inputs = PLAIN.inputs()
    with pytest.raises(theria.InvalidArgument, match="mask is float64, must be bool") as error:
        dot_product_attention(*inputs, mask=jnp.zeros((1, 1, 1, 1)), client=client)
    assert error.value.field == "mask.dtype"


def test_scale_is_a_constant(client: Any) -> None:
    def of_scale(scale: Any) -> Any:
        return dot_product_attention(*PLAIN.inputs(), scale=scale, client=client).sum()

    np.testing.assert_allclose(of_scale(np.float32(0.5)), of_scale(0.5))
    for refused in (jax.grad(of_scale), jax.jit(of_scale)):
        with pytest.raises(theria.InvalidArgument, match="multiply query") as error:
            refused(0.5)
        assert error.value.field == "scale"


def test_an_address_is_no_client() -> None:
    with pytest.raises(theria.InvalidArgument, match=r"client is a builtins\.str"):
        dot_product_attention(*PLAIN.inputs(), client="localhost:50051")  # type: ignore[arg-type]


def test_default_client(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THERIA_TARGET", raising=False)
    np.testing.assert_allclose(
        dot_product_attention(*PLAIN.inputs()),
        dot_product_attention(*PLAIN.inputs(), client=client),
        rtol=1e-12,
    )
    client.calls.clear()
    compiled = jax.jit(dot_product_attention)
    other = type(client)()
    try:
        for each in (client, other):
            theria.jax.set_default_client(each)
            compiled(*PLAIN.inputs()).block_until_ready()
    finally:
        theria.jax.set_default_client(None)
    assert client.calls == other.calls == {"forward": 1}, "the default at the time of the call"
