"""Derivatives by bias and of lse with every option, and the same in explicit float64 math."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theria.jax import dot_product_attention

Array = jax.Array
Attention = Callable[..., tuple[Array, Array]]
EVERY = (0, 1, 2, 3)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "softcap": {"softcap": 0.8},
    "alibi": {"alibi_slopes": jnp.array([0.5, 0.25])},
    "lower_right": {"is_causal": True, "causal_alignment": "lower_right"},
    "lengths": {"key_value_seq_lengths": jnp.array([2, 0])},
    "deterministic": {"deterministic": True},
    "all": {
        "softcap": 1.1,
        "is_causal": True,
        "causal_alignment": "lower_right",
        "alibi_slopes": jnp.array([[0.5, 0.25], [0.1, 0.2]]),
        "kv_lengths": jnp.array([4, 2]),
        "local_window_size": (2, None),
    },
}
BIASES = {"full": (2, 2, 3, 4), "batch": (2, 1, 3, 4), "heads": (2, 1, 4), "rows": (3, 1)}


def inputs(bias: str = "full") -> tuple[Array, ...]:
    generator = np.random.default_rng(0)
    shapes = ((2, 3, 2, 2), (2, 4, 2, 2), (2, 4, 2, 3), BIASES[bias])
    return tuple(jnp.asarray(generator.standard_normal(shape)) for shape in shapes)


def explicit(
    q: Array,
    k: Array,
    v: Array,
    bias: Any = 0.0,
    *,
    mask: Any = True,
    softcap: float | None = None,
    alibi_slopes: Any = None,
    is_causal: bool = False,
    causal_alignment: str = "upper_left",
    key_value_seq_lengths: Any = None,
    kv_lengths: Any = None,
    local_window_size: Any = None,
    deterministic: bool = False,
) -> tuple[Array, Array]:
    """The formula written out: o and lse, both 0 in a row that sees no key."""
    del deterministic
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], 2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    rows = jnp.arange(q.shape[1])[:, None]
    if causal_alignment == "lower_right":
        rows = rows + k.shape[1] - q.shape[1]
    ahead = jnp.arange(k.shape[1])[None, :] - rows
    if alibi_slopes is not None:
        scores = scores - alibi_slopes.reshape(-1, q.shape[2], 1, 1) * jnp.abs(ahead)
    allowed = jnp.broadcast_to(mask, scores.shape)
    if is_causal:
        allowed = allowed & (ahead <= 0)
    if local_window_size is not None:
        allowed = allowed & (ahead >= -local_window_size[0])
    lengths = kv_lengths if key_value_seq_lengths is None else key_value_seq_lengths
    if lengths is not None:
        allowed = allowed & (jnp.arange(k.shape[1]) < lengths[:, None, None, None])
    # Finite everywhere, so that no derivative is NaN where no key takes part.
    scores = jnp.where(allowed, scores + bias, -1e30)
    weights = jnp.where(allowed, jnp.exp(scores - scores.max(-1, keepdims=True)), 0.0)
    total = weights.sum(-1, keepdims=True)
    p = weights / jnp.where(total == 0.0, 1.0, total)
    lse = jnp.where(total == 0.0, 0.0, jnp.log(jnp.where(total == 0.0, 1.0, total)))
    lse = lse + jnp.where(total == 0.0, 0.0, scores.max(-1, keepdims=True))
    return jnp.einsum("bnts,bsnh->btnh", p, v), lse[..., 0].swapaxes(1, 2)


def ours(client: Any, options: dict[str, Any]) -> Attention:
    def attention(*x: Array) -> tuple[Array, Array]:
        o, lse = dot_product_attention(*x, return_residual=True, client=client, **options)
        return o, jnp.where(jnp.isneginf(lse), 0.0, lse)

    return attention


def loss(attention: Attention, *x: Array) -> Array:
    o, lse = attention(*x)
    return jnp.sin(o).sum() + jnp.cos(lse).sum()


def loss_of_lse(attention: Attention, *x: Array) -> Array:
    return jnp.sin(attention(*x)[1]).sum()


def gradient(f: Attention) -> Callable[..., Any]:
    return jax.grad(partial(loss, f), EVERY)


def tangents(x: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(map(jnp.cos, x))


def squares(tree: Any) -> Array:
    return sum(((x + 0.3) ** 2).sum() for x in jax.tree.leaves(tree))  # type: ignore[return-value]


def stacked(x: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(jnp.stack([y, jnp.sin(y), 0.5 * y]) for y in x)


def by_bias(f: Attention, x: tuple[Array, ...]) -> Callable[[Array], tuple[Array, Array]]:
    return lambda bias: f(*x[:3], bias)


DERIVATIVES: dict[str, Callable[[Attention, tuple[Array, ...]], Any]] = {
    "values": lambda f, x: f(*x),
    "gradient": lambda f, x: gradient(f)(*x),
    "jvp": lambda f, x: jax.jvp(f, x, tangents(x)),
    "jvp of gradient": lambda f, x: jax.jvp(gradient(f), x, tangents(x)),
    "gradient of gradient": lambda f, x: jax.grad(lambda *y: squares(gradient(f)(*y)), EVERY)(*x),
    "gradient of jvp": lambda f, x: jax.grad(lambda *y: squares(jax.jvp(f, y, tangents(x))), EVERY)(
        *x
    ),
    "lse alone": lambda f, x: jax.jvp(jax.grad(partial(loss_of_lse, f), EVERY), x, tangents(x)),
    "gradient of gradient of lse": lambda f, x: jax.grad(
        lambda *y: squares(jax.grad(partial(loss_of_lse, f), EVERY)(*y)), EVERY
    )(*x),
    "hessian by bias": lambda f, x: jax.hessian(partial(loss, f), 3)(*x),
    "jacrev of jacrev by bias": lambda f, x: jax.jacrev(jax.jacrev(partial(loss, f), 3), 3)(*x),
    "hessian by query and bias": lambda f, x: jax.hessian(partial(loss, f), (0, 3))(*x),
    "jacfwd by bias": lambda f, x: jax.jacfwd(by_bias(f, x))(x[3]),
    "jacrev by bias": lambda f, x: jax.jacrev(by_bias(f, x))(x[3]),
    "linearize": lambda f, x: jax.linearize(f, *x)[1](*tangents(x)),
    "vmap of gradient": lambda f, x: jax.vmap(gradient(f))(*stacked(x)),
    "vmap of gradient, one bias": lambda f, x: jax.vmap(gradient(f), (0, 0, 0, None))(
        *stacked(x[:3]), x[3]
    ),
    "vmap of jvp of gradient": lambda f, x: jax.vmap(
        lambda bias: jax.jvp(gradient(f), (*x[:3], bias), tangents(x))
    )(stacked(x)[3]),
}


def assert_agrees(actual: Any, expected: Any, tolerance: float = 1e-9) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def check(derivative: str, name: str, bias: str, client: Any, *, jit: bool) -> None:
    x = inputs(bias)
    actual, expected = (
        (jax.jit if jit else lambda g: g)(partial(DERIVATIVES[derivative], f))
        for f in (ours(client, OPTIONS[name]), partial(explicit, **OPTIONS[name]))
    )
    assert_agrees(actual(x), expected(x))
