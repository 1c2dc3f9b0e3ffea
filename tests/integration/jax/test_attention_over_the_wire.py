"""`theria.jax.dot_product_attention` with every derivative computed by a real server."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import (
    CASES,
    EVERY,
    PLAIN,
    TRANSFORMS,
    Case,
    assert_agrees,
    explicit_attention,
    identifier,
)
from bias_and_lse_cases import DERIVATIVES, check

import theria
from theria.jax import dot_product_attention


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(name: str, client: theria.Client) -> None:
    assert_agrees(name, PLAIN, client, jit=True)


@pytest.mark.parametrize("case", CASES[1:], ids=identifier)
@pytest.mark.parametrize("name", ["jvp_of_grad", "grad_of_grad", "vmap_of_jvp_of_grad"])
def test_options(name: str, case: Case, client: theria.Client) -> None:
    assert_agrees(name, case, client, jit=True)


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_bias_and_lse(derivative: str, client: theria.Client) -> None:
    check(derivative, "all", "heads", client, jit=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.float16, 4e-3), (jnp.bfloat16, 3e-2)]
)
def test_second_order_in_every_dtype(dtype: Any, tolerance: float, client: theria.Client) -> None:
    inputs = PLAIN.inputs(dtype)

    def derivatives(attention: Any, x: Any) -> Any:
        def gradient(*x: jax.Array) -> Any:
            return jax.grad(lambda *y: attention(*y).sum(), EVERY)(*x)

        return attention(*x), jax.jvp(gradient, x, x)

    actual = jax.tree.leaves(derivatives(PLAIN.service(client), inputs))
    double = tuple(x.astype(jnp.float64) for x in inputs)
    expected = jax.tree.leaves(derivatives(explicit_attention, double))
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        error = jnp.abs(a.astype(jnp.float64) - e).max() / jnp.maximum(jnp.abs(e).max(), 1.0)
        assert error < tolerance


def test_one_draw_of_dropout_in_all_derivatives(client: theria.Client) -> None:
    """v_bar for a cotangent, by the VJP, and by the forward, which is linear in v."""
    q, k, v = PLAIN.inputs()

    def attention(v: jax.Array) -> jax.Array:
        return dot_product_attention(
            q, k, v, dropout_rate=0.5, dropout_key=jax.random.key(3), client=client
        )

    o_bar = jnp.cos(attention(v))
    slope = (o_bar * attention(v)).sum()
    (v_bar,) = jax.vjp(attention, v)[1](o_bar)
    np.testing.assert_allclose((v_bar * v).sum(), slope, rtol=1e-12)
    assert (attention(v) != dot_product_attention(q, k, v, client=client)).any()


def test_large_arrays_called_back_in_a_row(client: theria.Client) -> None:
    """A compiled loop of calls with megabytes each comes to its end."""
    generator = np.random.default_rng(0)
    q = jnp.asarray(generator.standard_normal((1, 512, 8, 64)), jnp.float32)

    @jax.jit
    def descend(q: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            gradient = jax.grad(lambda y: dot_product_attention(y, q, q, client=client).sum())
            return x - 0.1 * gradient(x), None

        return jax.lax.scan(step, q, None, length=3)[0]

    expected = q
    for _ in range(3):
        expected = expected - 0.1 * jax.grad(lambda y: explicit_attention(y, q, q).sum())(expected)
    np.testing.assert_allclose(descend(q), expected, rtol=1e-4, atol=1e-5)


def test_errors_of_the_server_name_the_argument(client: theria.Client) -> None:
    x = PLAIN.inputs()
    with pytest.raises(theria.InvalidArgument) as error:
        dot_product_attention(*x, dropout_rate=1.5, dropout_key=jax.random.key(0), client=client)
    assert error.value.field == "dropout_rate"

    def compiled(*x: jax.Array) -> jax.Array:
        key = jax.random.key(0)
        return dot_product_attention(*x, dropout_rate=1.5, dropout_key=key, client=client)

    with pytest.raises(jax.errors.JaxRuntimeError, match=r"dropout_rate is 1\.5"):
        jax.block_until_ready(jax.jit(compiled)(*x))
