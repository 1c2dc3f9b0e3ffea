"""Bias, lse and the score options: values and both orders against explicit float64 math."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bias_and_lse_cases import (
    BIASES,
    DERIVATIVES,
    EVERY,
    OPTIONS,
    Attention,
    assert_agrees,
    check,
    explicit,
    gradient,
    inputs,
    loss,
    ours,
    tangents,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import theria
from theria.jax import dot_product_attention

Array = jax.Array


class TestDerivatives:
    @pytest.mark.parametrize("derivative", DERIVATIVES)
    def test_in_process(self, derivative: str, local: theria.Client) -> None:
        check(derivative, "all", "heads", local, jit=True)

    @pytest.mark.parametrize("derivative", DERIVATIVES)
    def test_through_the_host(self, derivative: str, client: Any) -> None:
        check(derivative, "all", "heads", client, jit=False)

    @pytest.mark.parametrize("bias", BIASES)
    def test_every_broadcast(self, bias: str, local: theria.Client) -> None:
        for derivative in ("jvp of gradient", "vmap of gradient, one bias"):
            check(derivative, "plain", bias, local, jit=True)

    @pytest.mark.parametrize("name", OPTIONS)
    def test_every_option(self, name: str, local: theria.Client, client: Any) -> None:
        check("jvp of gradient", name, "full", local, jit=True)
        check("gradient of gradient", name, "full", client, jit=True)

    def test_a_bias_beside_a_mask(self, local: theria.Client) -> None:
        x = inputs("heads")
        mask = jnp.asarray(np.random.default_rng(3).random((2, 1, 3, 4)) > 0.4)
        f, g = (partial(a, mask=mask) for a in (_plain(local), explicit))
        for derivative in ("gradient", "gradient of gradient", "jvp"):
            assert_agrees(DERIVATIVES[derivative](f, x), DERIVATIVES[derivative](g, x))

    def test_grouped_heads(self, local: theria.Client) -> None:
        q, k, v, bias = inputs()
        x = (jnp.concatenate([q, 0.5 * q], 2), k, v, jnp.concatenate([bias, -bias], 1))
        for derivative in ("jvp of gradient", "gradient of gradient"):
            f = DERIVATIVES[derivative]
            assert_agrees(f(ours(local, {}), x), f(explicit, x))

    @pytest.mark.parametrize("slopes", [(3, 2), (3, 2, 2), (2,)], ids=str)
    def test_vmap_over_slopes_and_lengths(
        self, slopes: tuple[int, ...], local: theria.Client
    ) -> None:
        x, lengths = inputs("heads"), jnp.array([[1, 4], [2, 3], [0, 4]])
        values = jnp.linspace(-0.5, 0.7, int(np.prod(slopes))).reshape(slopes)

        def mapped(attention: Callable[[dict[str, Any]], Attention]) -> Any:
            def one(slopes: Array, lengths: Array) -> Any:
                f = attention({"alibi_slopes": slopes, "key_value_seq_lengths": lengths})
                return jax.jvp(gradient(f), x, tangents(x))

            return jax.vmap(one, (0 if len(slopes) > 1 else None, 0))(values, lengths)

        actual = mapped(partial(ours, local))
        assert_agrees(actual, mapped(lambda options: partial(explicit, **options)))


def _plain(client: Any) -> Callable[..., tuple[Array, Array]]:
    def attention(*x: Array, mask: Array) -> tuple[Array, Array]:
        return ours(client, {"mask": mask})(*x)

    return attention


def test_a_bias_has_a_dtype_of_its_own(local: theria.Client) -> None:
    q, k, v, bias = inputs("heads")
    x = (*(y.astype(jnp.float32) for y in (q, k, v)), bias)
    actual = gradient(ours(local, {}))(*x)
    assert [y.dtype for y in actual] == [jnp.float32] * 3 + [jnp.float64]
    np.testing.assert_allclose(actual[3], gradient(explicit)(q, k, v, bias)[3], atol=1e-5)


def test_the_bias_is_differentiated_on_request_only(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v, bias = inputs()
    asked = []
    vjp = client.vjp

    def recording(**options: Any) -> Any:
        asked.append({name for name, mode in options["outputs"].items() if mode == "inline"})
        return vjp(**options)

    monkeypatch.setattr(client, "vjp", recording, raising=False)
    jax.grad(lambda q: dot_product_attention(q, k, v, bias, client=client).sum())(q)
    jax.grad(lambda b: dot_product_attention(q, k, v, b, client=client).sum())(bias)
    assert asked == [{"q_bar"}, {"bias_bar"}]


def test_merging_parts_by_their_lse(local: theria.Client) -> None:
    """Attention to two halves of the keys, merged, has the derivatives of attention to all."""

    def merged(q: Array, k: Array, v: Array, bias: Array) -> tuple[Array, Array]:
        parts = [
            dot_product_attention(
                q, k[:, s], v[:, s], bias[..., s], return_residual=True, client=local
            )
            for s in (slice(0, 1), slice(1, 4))
        ]
        lse = jnp.logaddexp(parts[0][1], parts[1][1])
        return sum(o * jnp.exp(part - lse)[..., None] for o, part in parts), lse  # type: ignore[misc]

    x = inputs()
    for derivative in ("values", "jvp of gradient", "gradient of gradient"):
        f = DERIVATIVES[derivative]
        assert_agrees(f(merged, x), f(explicit, x))


def test_dropout_sees_one_draw(local: theria.Client) -> None:
    """By central differences of the gradient."""
    x = inputs("heads")
    f = ours(local, {"dropout_rate": 0.4, "dropout_key": jax.random.key(2)})
    h = 1e-5
    ahead, behind = (
        gradient(f)(*(y + s * h * d for y, d in zip(x, tangents(x), strict=True))) for s in (1, -1)
    )
    _, product = jax.jvp(gradient(f), x, tangents(x))
    for p, a, b in zip(product, ahead, behind, strict=True):
        np.testing.assert_allclose(p, (a - b) / (2 * h), rtol=1e-6, atol=1e-8)


class TestOnDevices:
    SHAPES = ((4, 3, 4, 2), (4, 5, 2, 2), (4, 5, 2, 3))

    @pytest.mark.parametrize("kind", ["Auto", "Explicit"])
    @pytest.mark.parametrize(
        "bias", [(4, 4, 3, 5), (1, 4, 3, 5), (4, 1, 3, 5), (1, 1, 3, 5), (1, 1, 1, 5)], ids=str
    )
    def test_a_bias_that_devices_share_is_summed(
        self, kind: str, bias: tuple[int, ...], local: theria.Client
    ) -> None:
        generator = np.random.default_rng(1)
        x = tuple(jnp.asarray(generator.standard_normal(s)) for s in (*self.SHAPES, bias))
        mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType[kind],) * 2)
        along = [n if e > 1 else None for n, e in zip(("data", "model"), bias, strict=False)]
        places = (*[P("data", None, "model")] * 3, P(*along))
        placed = jax.device_put(x, tuple(NamedSharding(mesh, spec) for spec in places))
        options = {"alibi_slopes": jnp.array([0.5, 0.25, 0.1, 0.2]), "kv_lengths": jnp.arange(2, 6)}

        def both(f: Attention, x: tuple[Array, ...]) -> Any:
            return [DERIVATIVES[d](f, x) for d in ("jvp of gradient", "gradient of gradient")]

        compiled = jax.jit(partial(both, ours(local, options)))
        assert_agrees(compiled(placed), both(partial(explicit, **options), x))
        text = compiled.lower(placed).compile().as_text()
        assert "callback" not in text
        assert "all-gather" not in text
        shares = set(bias[:2]) != {4}
        assert ("all-reduce" in text) is shares

    def test_the_partitioner_before_shardy(self, local: theria.Client) -> None:
        jax.config.update("jax_use_shardy_partitioner", False)
        try:
            self.test_a_bias_that_devices_share_is_summed("Auto", (1, 4, 3, 5), local)
        finally:
            jax.config.update("jax_use_shardy_partitioner", True)

    def test_within_shard_map(self, local: theria.Client) -> None:
        generator = np.random.default_rng(1)
        shapes = (*self.SHAPES, (1, 4, 3, 5))
        x = tuple(jnp.asarray(generator.standard_normal(s)) for s in shapes)
        mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
        specs = (*[P("data", None, "model")] * 3, P(None, "model"))

        def part(*x: Array) -> Any:
            def total(*y: Array) -> Array:
                return jax.lax.psum(loss(ours(local, {}), *y), ("data", "model"))

            return jax.grad(total, EVERY)(*x)

        mapped = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=specs))
        assert_agrees(mapped(*x), gradient(explicit)(*x))


@pytest.mark.parametrize("place", ["in process", "host"])
@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((0, 3, 2, 4), (0, 5, 2, 4), (0, 5, 2, 4)),
        ((2, 0, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4)),
        ((2, 3, 2, 4), (2, 0, 2, 4), (2, 0, 2, 4)),
        ((2, 3, 0, 4), (2, 5, 0, 4), (2, 5, 0, 4)),
        ((2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 0)),
    ],
)
def test_empty_inputs(q: Any, k: Any, v: Any, place: str, local: theria.Client) -> None:
    """Empty results or zeros, and lse = -inf without keys, as JAX's own give."""
    client: Any = local if place == "in process" else _Remote(local)
    x = (*(jnp.ones(shape) for shape in (q, k, v)), jnp.ones((q[1], k[1])))
    o, lse = dot_product_attention(*x, return_residual=True, client=client)
    assert o.shape == (*q[:3], v[3])
    assert lse.shape == q[:3]
    if k[1] == 0:
        assert not o.any()
        assert jnp.isneginf(lse).all()
    bars, bar_dots = jax.jit(
        lambda x: jax.jvp(jax.grad(lambda *y: loss(ours(client, {}), *y), EVERY), x, x)
    )(x)
    for each in (bars, bar_dots):
        assert [y.shape for y in each] == [y.shape for y in x]
        assert all(jnp.isfinite(y).all() for y in each)
        assert not each[2].any()


class _Remote:
    """A client as of a server: the host calls it."""

    def __init__(self, client: theria.Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class TestErrors:
    def test_slopes_are_constants(self, client: Any) -> None:
        def of_slopes(slopes: Array) -> Array:
            x = inputs()[:3]
            return dot_product_attention(*x, alibi_slopes=slopes, client=client).sum()

        with pytest.raises(theria.InvalidArgument, match="stop_gradient") as error:
            jax.grad(of_slopes)(jnp.ones(2))
        assert error.value.field == "alibi_slopes"
        jax.grad(lambda s: of_slopes(jax.lax.stop_gradient(s)))(jnp.ones(2))

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"softcap": -1.0}, "softcap"),
            ({"softcap": 0.0}, "softcap"),
            ({"softcap": "high"}, "softcap"),
            ({"causal_alignment": "lower_left"}, "causal_alignment"),
            ({"alibi_slopes": jnp.ones(3)}, "alibi_slopes.shape"),
            ({"alibi_slopes": jnp.ones(2, int)}, "alibi_slopes.dtype"),
            ({"kv_lengths": jnp.ones(3, int)}, "key_value_seq_lengths.shape"),
            ({"kv_lengths": jnp.ones(2)}, "key_value_seq_lengths.dtype"),
            (
                {"kv_lengths": jnp.ones(2, int), "key_value_seq_lengths": jnp.ones(2, int)},
                "kv_lengths",
            ),
        ],
    )
    @pytest.mark.parametrize("jit", [False, True])
    def test_a_bad_option_is_named(
        self, options: dict[str, Any], field: str, jit: bool, local: theria.Client
    ) -> None:
        attention = partial(dot_product_attention, client=local, **options)
        with pytest.raises(theria.InvalidArgument) as error:
            (jax.jit(attention) if jit else attention)(*inputs()[:3])
        assert error.value.field == field
