"""Cases of `dot_product_attention` and checks of its derivatives, unit and over the wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from theria.jax import dot_product_attention

Array = jax.Array
Attention = Callable[..., Array]
Inputs = tuple[Array, Array, Array]
EVERY = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """Shapes in JAX's layout, and options; masks and lengths are made of `restrictions`."""

    name: str
    q: tuple[int, ...] = (2, 4, 2, 3)
    k: tuple[int, ...] = (2, 5, 2, 3)
    v: tuple[int, ...] = (2, 5, 2, 2)
    restrictions: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self, dtype: Any = np.float64, seed: int = 0) -> Inputs:
        generator = np.random.default_rng(seed)
        q, k, v = (
            jnp.asarray(generator.standard_normal(shape), dtype)
            for shape in (self.q, self.k, self.v)
        )
        return q, k, v

    def arrays(self) -> dict[str, Any]:
        generator = np.random.default_rng(7)
        bias = generator.standard_normal((1, 2, 4, 5))
        keep = bias > -0.5
        keep[..., 0] = True
        every: dict[str, Any] = {
            "bias": jnp.asarray(bias),
            "mask": jnp.asarray(keep),
            "query_seq_lengths": jnp.array([4, 2]),
            "key_value_seq_lengths": jnp.array([3, 5]),
        }
        return {name: every[name] for name in self.restrictions}

    def service(self, client: Any) -> Attention:
        return lambda q, k, v: dot_product_attention(
            q, k, v, **self.arrays(), **self.options, client=client
        )

    def explicit(self) -> Attention:
        return lambda q, k, v: explicit_attention(q, k, v, **self.arrays(), **self.options)


def explicit_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    bias: Any = 0.0,
    mask: Any = True,
    query_seq_lengths: Any = None,
    key_value_seq_lengths: Any = None,
    scale: float | None = None,
    is_causal: bool = False,
    local_window_size: Any = None,
) -> Array:
    """The formula, written out in the inputs' dtype."""
    if q.ndim == 3:
        inner = explicit_attention(
            q[None], k[None], v[None], scale=scale, is_causal=is_causal, bias=bias, mask=mask
        )
        return inner[0]
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], 2) for x in (k, v))
    i, j = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])[None, :]
    allowed = jnp.broadcast_to(mask, (q.shape[0], q.shape[2], q.shape[1], k.shape[1]))
    if is_causal:
        allowed = allowed & (j <= i)
    if local_window_size is not None:
        size = local_window_size
        left, right = (size, size) if isinstance(size, int) else size
        allowed = allowed & (j >= i - left) & (j <= i + right)
    rows = jnp.ones((q.shape[0], q.shape[1]), bool)
    if query_seq_lengths is not None:
        rows = jnp.arange(q.shape[1])[None] < query_seq_lengths[:, None]
    if key_value_seq_lengths is not None:
        allowed = allowed & (j[None] < key_value_seq_lengths[:, None, None])[:, None]
    factor = 1.0 / np.sqrt(q.shape[-1]) if scale is None else scale
    scores = factor * jnp.einsum("btnh,bsnh->bnts", q, k) + bias
    p = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), -1)
    return jnp.einsum("bnts,bsnh->btnh", p, v) * rows[..., None, None]


PLAIN = Case("plain")
CASES = [
    PLAIN,
    Case("causal", options={"is_causal": True}),
    Case("mask", restrictions=("mask",)),
    Case("bias", restrictions=("bias",)),
    Case("bias_and_mask", restrictions=("bias", "mask")),
    Case("lengths", restrictions=("query_seq_lengths", "key_value_seq_lengths")),
    Case("lengths_and_bias", restrictions=("key_value_seq_lengths", "bias")),
    Case("scale", options={"scale": 0.3}),
    Case("window", options={"local_window_size": (1, 2)}),
    Case("symmetric_window", options={"local_window_size": 2, "is_causal": True}),
    Case("grouped", q=(1, 4, 4, 3), k=(1, 5, 2, 3), v=(1, 5, 2, 2)),
    Case("without_batch", q=(4, 2, 3), k=(5, 2, 3), v=(5, 2, 2)),
]


def identifier(case: Case) -> str:
    return case.name


def transforms(attention: Attention) -> dict[str, Callable[[Inputs], Any]]:
    """Every composition of two derivatives that is supported, and vmap of them."""

    def loss(*x: Array) -> Array:
        o = attention(*x)
        weight = jnp.linspace(-1.0, 1.3, o.size).reshape(o.shape)
        return (weight * jnp.sin(o)).sum()

    def tangents(x: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(jnp.cos(3.0 * y + i) for i, y in enumerate(x))

    def jvp_of(f: Attention, x: tuple[Array, ...]) -> Any:
        return jax.jvp(f, x, tangents(x))

    def grad_of_grad(x: Inputs) -> Any:
        def norm(*y: Array) -> Array:
            return sum((g**2).sum() for g in jax.grad(loss, EVERY)(*y))  # type: ignore[return-value]

        return jax.grad(norm, EVERY)(*x)

    def grad_of_jvp(x: Inputs) -> Any:
        return jax.grad(lambda *y: jnp.sin(jvp_of(attention, y)[1]).sum(), EVERY)(*x)

    def grad_of_one(x: Inputs) -> Any:
        q, k, v = x
        return jax.grad(lambda k: jnp.sin(jax.grad(loss)(q, k, v)).sum())(k)

    def jvp_of_one(x: Inputs) -> Any:
        q, k, v = x
        return jax.jvp(lambda v: jax.grad(loss, EVERY)(q, k, v), (v,), (v,))

    def stacked(x: Inputs) -> Inputs:
        q, k, v = (jnp.stack([y, 0.5 * y, jnp.sin(y)]) for y in x)
        return q, k, v

    def nested(x: Inputs) -> Any:
        q, k, v = stacked(x)
        inner = jax.vmap(attention, in_axes=(0, None, None))
        return jax.vmap(inner, in_axes=(None, 0, 0))(q, k, v)

    def moved(x: Inputs) -> Any:
        q, k, _ = stacked(x)
        mapped = jax.vmap(attention, in_axes=(-1, 1, None), out_axes=2)
        return mapped(jnp.moveaxis(q, 0, -1), jnp.moveaxis(k, 0, 1), x[2])

    def scan_of_grad(x: Inputs) -> Any:
        """Two steps of descent, differentiated: MAML's unrolled loop."""

        def adapted(*theta: Array) -> Array:
            def step(y: Any, _: None) -> Any:
                gradient = jax.grad(loss, EVERY)(*y)
                return tuple(a - 0.1 * g for a, g in zip(y, gradient, strict=True)), None

            final, _ = jax.lax.scan(step, theta, None, length=2)
            return loss(*final)

        return jax.grad(adapted, EVERY)(*x)

    return {
        "forward": lambda x: attention(*x),
        "grad": lambda x: jax.grad(loss, EVERY)(*x),
        "jvp": lambda x: jvp_of(attention, x),
        "jvp_of_grad": lambda x: jvp_of(jax.grad(loss, EVERY), x),
        "grad_of_grad": grad_of_grad,
        "grad_of_jvp": grad_of_jvp,
        "grad_of_one": grad_of_one,
        "jvp_of_one": jvp_of_one,
        "hessian": lambda x: jax.hessian(loss, EVERY)(*x),
        "jacrev_of_jacrev": lambda x: jax.jacrev(jax.jacrev(loss))(*x),
        "jacrev_of_jacfwd": lambda x: jax.jacrev(jax.jacfwd(loss))(*x),
        "linearize": lambda x: jax.linearize(attention, *x)[1](*tangents(x)),
        "checkpoint": lambda x: jax.grad(jax.checkpoint(loss), EVERY)(*x),
        "vmap": lambda x: jax.vmap(attention)(*stacked(x)),
        "vmap_in_axes": moved,
        "vmap_nested": nested,
        "vmap_of_grad": lambda x: jax.vmap(jax.grad(loss, EVERY))(*stacked(x)),
        "vmap_of_jvp_of_grad": lambda x: jax.vmap(lambda *y: jvp_of(jax.grad(loss, EVERY), y))(
            *stacked(x)
        ),
        "scan_of_grad": scan_of_grad,
    }


TRANSFORMS = list(transforms(explicit_attention))


def assert_agrees(
    name: str, case: Case, client: Any, *, jit: bool = False, tolerance: float = 1e-9
) -> None:
    """The transform of that name gives what it gives through the formula written out."""
    wrap: Callable[..., Any] = jax.jit if jit else lambda f: f
    actual = wrap(transforms(case.service(client))[name])(case.inputs())
    expected = jax.jit(transforms(case.explicit())[name])(case.inputs())
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)
