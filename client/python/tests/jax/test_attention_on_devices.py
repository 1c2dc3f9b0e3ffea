"""Custom calls on four devices: divided by batch and heads without communication, else whole."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import EVERY, explicit_attention
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import theria
from theria.jax import dot_product_attention

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
Q, K, V = (4, 6, 8, 3), (4, 5, 4, 3), (4, 5, 4, 2)


def arrays(*shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.standard_normal(shape)) for shape in shapes)


def mesh_of(kind: str, shape: tuple[int, ...] = (2, 2)) -> Any:
    axes = ("data", "model")[-len(shape) :]
    return jax.make_mesh(shape, axes, axis_types=(AxisType[kind],) * len(shape))


def derivatives(attention: Any) -> Any:
    """The forward, a gradient, and forward over reverse."""

    def gradient(*x: jax.Array) -> Any:
        return jax.grad(lambda *y: jnp.sin(attention(*y)).sum(), EVERY)(*x)

    return lambda *x: (
        attention(*x),
        gradient(*x),
        jax.jvp(gradient, x, tuple(map(jnp.cos, x)))[1],
    )


def assert_close(actual: Any, expected: Any) -> None:
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


def collectives(function: Any, *x: Any) -> list[str]:
    text = function.lower(*x).compile().as_text()
    assert "theria_forward" in text
    assert "callback" not in text
    return [name for name in COLLECTIVES if re.search(rf"\b{name}(-start)?\(", text)]


@pytest.fixture(scope="module")
def expected() -> Any:
    return jax.jit(derivatives(explicit_attention))(*arrays(Q, K, V))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize(
    "spec",
    [
        P("data", None, "model"),
        P("data"),
        P(None, None, "model"),
        P(("data", "model")),
        P(None, None, ("data", "model")),
    ],
    ids=str,
)
def test_batch_and_heads_are_divided(
    kind: str, spec: Any, expected: Any, local: theria.Client
) -> None:
    sharding = NamedSharding(mesh_of(kind), spec)
    x = jax.device_put(arrays(Q, K, V), sharding)
    compiled = jax.jit(derivatives(lambda *x: dot_product_attention(*x, client=local)))
    actual = compiled(*x)
    assert_close(actual, expected)
    assert not collectives(compiled, *x)
    for array in jax.tree.leaves(actual):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_divided_sequence_is_gathered(kind: str, expected: Any, local: theria.Client) -> None:
    mesh = mesh_of(kind)
    x = jax.device_put(
        arrays(Q, K, V), tuple(NamedSharding(mesh, s) for s in (P(None, "data"), P(), P()))
    )
    compiled = jax.jit(derivatives(lambda *x: dot_product_attention(*x, client=local)))
    assert_close(compiled(*x), expected)


@pytest.mark.parametrize(
    "shape", [(4, 8, 6, 5), (1, 8, 6, 5), (4, 1, 6, 5), (1, 1, 1, 5), (4, 8, 1, 1)], ids=str
)
def test_a_mask_is_divided_with_them(shape: tuple[int, ...], local: theria.Client) -> None:
    x = arrays(Q, K, V)
    keep = np.random.default_rng(1).random(shape) > 0.3
    keep[..., 0] = True
    mask = jnp.asarray(keep)

    def attention(*x: jax.Array) -> jax.Array:
        return dot_product_attention(*x, mask=mask, client=local)

    placed = jax.device_put(x, NamedSharding(mesh_of("Auto"), P("data", None, "model")))
    compiled = jax.jit(derivatives(attention))
    assert_close(compiled(*placed), derivatives(lambda *x: explicit_attention(*x, mask=mask))(*x))
    assert not collectives(compiled, *placed)


@pytest.mark.parametrize("heads_kv", [1, 2])
def test_fewer_key_heads_than_devices(heads_kv: int, local: theria.Client) -> None:
    x = arrays(Q, (4, 5, heads_kv, 3), (4, 5, heads_kv, 2))
    mesh = mesh_of("Auto", (4,))
    placed = [
        jax.device_put(y, NamedSharding(mesh, spec))
        for y, spec in zip(x, (P(None, None, "model"), P(), P()), strict=True)
    ]
    compiled = jax.jit(derivatives(lambda *x: dot_product_attention(*x, client=local)))
    assert_close(compiled(*placed), derivatives(explicit_attention)(*x))


def test_dropout_draws_what_one_device_draws(local: theria.Client) -> None:
    """`test_custom_calls` compares what one device draws with the formula."""
    x = arrays(Q, K, V)
    attention = derivatives(
        lambda *x: dot_product_attention(
            *x, dropout_rate=0.4, dropout_key=jax.random.key(1), client=local
        )
    )
    placed = jax.device_put(x, NamedSharding(mesh_of("Auto"), P("data", None, "model")))
    assert_close(jax.jit(attention)(*placed), jax.jit(attention)(*x))


def test_divided_arrays_at_once(expected: Any, local: theria.Client) -> None:
    placed = jax.device_put(
        arrays(Q, K, V), NamedSharding(mesh_of("Auto"), P("data", None, "model"))
    )
    assert_close(derivatives(lambda *x: dot_product_attention(*x, client=local))(*placed), expected)


def test_vmap_over_a_divided_axis(local: theria.Client) -> None:
    x = arrays((2, *Q), (2, *K), (2, *V))
    placed = jax.device_put(x, NamedSharding(mesh_of("Auto"), P("data", None, None, "model")))
    mapped = jax.vmap(derivatives(lambda *x: dot_product_attention(*x, client=local)))
    assert_close(jax.jit(mapped)(*placed), jax.vmap(derivatives(explicit_attention))(*x))


def test_the_partitioner_before_shardy(expected: Any, local: theria.Client) -> None:
    placed = jax.device_put(
        arrays(Q, K, V), NamedSharding(mesh_of("Auto"), P("data", None, "model"))
    )
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        compiled = jax.jit(derivatives(lambda *x: dot_product_attention(*x, client=local)))
        assert_close(compiled(*placed), expected)
        assert not collectives(compiled, *placed)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)


class TestShardMap:
    @pytest.mark.parametrize("kind", ["Auto", "Explicit"])
    def test_each_device_calls_for_its_part(
        self, kind: str, expected: Any, local: theria.Client
    ) -> None:
        mesh, spec = mesh_of(kind), P("data", None, "model")
        x = jax.device_put(arrays(Q, K, V), NamedSharding(mesh, spec))
        parts = derivatives(lambda *x: dot_product_attention(*x, client=local))
        compiled = jax.jit(jax.shard_map(parts, mesh=mesh, in_specs=spec, out_specs=spec))
        assert_close(compiled(*x), expected)
        assert not collectives(compiled, *x)

    def test_gradients_of_what_all_devices_share_are_summed(self, local: theria.Client) -> None:
        """Keys and values of one batch for the queries of both halves of the data."""
        q, k, v = arrays(Q, (2, *K[1:]), (2, *V[1:]))

        def loss(attention: Any, q: Any, k: Any, v: Any) -> jax.Array:
            return jnp.sin(attention(q, k, v)).sum()

        def part(*x: jax.Array) -> Any:
            attention = lambda *x: dot_product_attention(*x, client=local)  # noqa: E731
            return jax.grad(lambda *y: jax.lax.psum(loss(attention, *y), "data"), EVERY)(*x)

        def whole(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return loss(explicit_attention, q, jnp.concatenate([k, k]), jnp.concatenate([v, v]))

        specs = (P("data"), P(), P())
        compiled = jax.jit(
            jax.shard_map(part, mesh=mesh_of("Auto"), in_specs=specs, out_specs=specs)
        )
        assert_close(compiled(q, k, v), jax.grad(whole, EVERY)(q, k, v))

    def test_a_client_that_is_called_back(self, client: Any, expected: Any) -> None:
        mesh, spec = mesh_of("Auto"), P("data", None, "model")
        parts = derivatives(lambda *x: dot_product_attention(*x, client=client))
        compiled = jax.jit(jax.shard_map(parts, mesh=mesh, in_specs=spec, out_specs=spec))
        assert_close(compiled(*arrays(Q, K, V)), expected)
