"""The kernels as XLA's custom calls: values against the formula, and no host callback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
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

import theria
from theria._kernels_library import kernels_library
from theria._local_client import LocalClient
from theria.jax import dot_product_attention


def hvp_of(attention: Any) -> Any:
    def loss(*x: jax.Array) -> jax.Array:
        return jnp.sin(attention(*x)).sum()

    return lambda *x: jax.jvp(jax.grad(loss, EVERY), x, tuple(map(jnp.cos, x)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_transform(name: str, local: theria.Client) -> None:
    assert_agrees(name, PLAIN, local, jit=True)


@pytest.mark.parametrize("name", ["forward", "grad_of_grad", "vmap_nested", "linearize"])
def test_transform_at_once(name: str, local: theria.Client) -> None:
    assert_agrees(name, PLAIN, local)


@pytest.mark.parametrize("case", CASES[1:], ids=identifier)
@pytest.mark.parametrize("name", ["jvp_of_grad", "vmap_of_jvp_of_grad"])
def test_option(name: str, case: Case, local: theria.Client) -> None:
    assert_agrees(name, case, local, jit=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.float16, 4e-3), (jnp.bfloat16, 3e-2)]
)
def test_second_order_in_every_dtype(dtype: Any, tolerance: float, local: theria.Client) -> None:
    x = PLAIN.inputs(dtype)
    double = tuple(y.astype(jnp.float64) for y in x)

    def derivatives(attention: Any, *x: jax.Array) -> Any:
        gradient = jax.grad(lambda *y: attention(*y).sum(), EVERY)
        return attention(*x), jax.jvp(gradient, x, x)

    actual = jax.jit(partial(derivatives, PLAIN.service(local)))(*x)
    expected = derivatives(explicit_attention, *double)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        error = jnp.abs(a.astype(jnp.float64) - e).max() / jnp.maximum(jnp.abs(e).max(), 1.0)
        assert error < tolerance


class TestCompiledCode:
    def test_it_calls_the_kernels_and_not_the_host(self, local: theria.Client) -> None:
        x = PLAIN.inputs()
        lowered = jax.jit(hvp_of(PLAIN.service(local))).lower(*x)
        for text in (lowered.as_text(), lowered.compile().as_text()):
            for operation in ("forward", "vjp", "hvp"):
                assert len(re.findall(rf"\btheria_{operation}\b", text)) == 1
            assert "callback" not in text

    def test_that_for_a_gpu_calls_them_too(self) -> None:
        """Lowering for CUDA needs no GPU."""
        attention = PLAIN.service(theria.local())
        traced = jax.jit(hvp_of(attention)).trace(*PLAIN.inputs())
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        assert "@theria_hvp" in text
        assert "callback" not in text

    def test_it_transposes_nothing_for_a_call(self, local: theria.Client) -> None:
        text = jax.jit(PLAIN.service(local)).lower(*PLAIN.inputs()).compile().as_text()
        assert "custom-call" in text
        assert not re.search(r"\b(transpose|copy)\(", text)

    def test_attributes_carry_the_options(self, local: theria.Client) -> None:
        def attention(*x: jax.Array) -> jax.Array:
            return dot_product_attention(
                *x, is_causal=True, scale=0.25, local_window_size=(3, None), client=local
            )

        text = jax.jit(attention).lower(*PLAIN.inputs()).as_text()
        for attribute in (
            "is_causal = 1 : i64",
            "scale = 2.500000e-01 : f64",
            "window_left = 3 : i64",
            'inputs = "q,k,v"',
            'outputs = "o,lse"',
        ):
            assert attribute in text
        assert "window_right" not in text

    def test_equal_call_sites_share_it(self, local: theria.Client) -> None:
        """Computing at once compiles for the first call alone."""
        x = PLAIN.inputs()
        dot_product_attention(*x, scale=0.125, client=local)
        with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("theria.jax._site.validate", None)  # which every compilation calls
            dot_product_attention(*x, scale=0.125, client=local)

    def test_other_clients_are_called_back(self, client: Any) -> None:
        text = jax.jit(PLAIN.service(client)).lower(*PLAIN.inputs()).as_text()
        assert "callback" in text
        assert "theria_forward" not in text

    def test_a_gpu_does_not_read_arrays_of_the_cpu(self) -> None:
        assert not LocalClient(0).reads_in_place("cpu")
        assert LocalClient(0).reads_in_place("cuda")
        assert not LocalClient(-1).reads_in_place("cuda")
        assert all(map(LocalClient(None).reads_in_place, ("cpu", "cuda")))

    def test_the_default_is_in_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("THERIA_TARGET", raising=False)
        # A function of its own: JAX would reuse what another default was compiled for.
        compiled = jax.jit(lambda *x: dot_product_attention(*x))
        x = PLAIN.inputs()
        assert "theria_forward" in compiled.lower(*x).as_text()
        np.testing.assert_allclose(compiled(*x), explicit_attention(*x), rtol=1e-12)


class TestErrors:
    @pytest.mark.parametrize("jit", [False, True])
    def test_a_bad_shape_is_named_while_jax_traces(self, jit: bool, local: theria.Client) -> None:
        attention = partial(dot_product_attention, client=local)
        x = jnp.ones((1, 2, 1, 600))
        with pytest.raises(theria.InvalidArgument) as error:
            (jax.jit(attention) if jit else attention)(x, x, x)
        assert error.value.field == "query.shape[-1]"

    @pytest.mark.parametrize("jit", [False, True])
    def test_a_bad_option_is_named_while_jax_traces(self, jit: bool, local: theria.Client) -> None:
        key = jax.random.key(0)
        attention = partial(dot_product_attention, dropout_rate=1.5, dropout_key=key, client=local)
        with pytest.raises(theria.InvalidArgument) as error:
            (jax.jit(attention) if jit else attention)(*PLAIN.inputs())
        assert error.value.field == "dropout_rate"

    def test_what_no_kernel_computes(self, local: theria.Client) -> None:
        attention = partial(dot_product_attention, implementation="fused", client=local)
        with pytest.raises(theria.Unimplemented, match="no implementation fused"):
            attention(*PLAIN.inputs())
        with pytest.raises(jax.errors.JaxRuntimeError, match="no implementation fused"):
            jax.block_until_ready(jax.jit(attention)(*PLAIN.inputs()))

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({"bogus": np.int64(1)}, "attribute bogus is unknown"),
            ({"scale": np.int64(1)}, "attribute scale has another type"),
            ({"inputs": "q,k"}, "inputs must name each buffer"),
            ({"inputs": "q,k,w"}, "w is no tensor"),
            ({"outputs": "lse"}, "outputs.lse"),
        ],
    )
    def test_a_call_that_the_library_does_not_know(
        self, attributes: dict[str, Any], message: str, local: theria.Client
    ) -> None:
        x = PLAIN.inputs()
        dot_product_attention(*x, client=local)  # registers the custom calls
        call = jax.ffi.ffi_call("theria_forward", [jax.ShapeDtypeStruct((2, 4, 2, 2), x[0].dtype)])
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            jax.block_until_ready(call(*x, **{"inputs": "q,k,v", "outputs": "o", **attributes}))


def dropped(case: Case, key: Any, rate: float) -> Any:
    """The formula with the draw written out, which a forward with the identity as v shows."""
    q, k, _ = (np.asarray(x).swapaxes(1, 2) for x in case.inputs())
    high, low = map(int, jax.random.bits(key, (2,), jnp.uint32))
    identity = np.broadcast_to(np.eye(k.shape[2]), (*k.shape[:3], k.shape[2]))
    seed = high << 32 | low
    shown = theria.local("cpu").forward(q, k, identity, dropout_p=rate, dropout_seed=seed).o
    kept = jnp.asarray(shown != 0.0)
    assert 0.2 < kept.mean() < 0.95

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
        p = jnp.where(kept, jax.nn.softmax(scores, -1), 0.0) / (1.0 - rate)
        return jnp.einsum("bnts,bsnh->btnh", p, v)

    return attention


class TestDropoutInPlace:
    RATE = 0.4

    def attention(self, client: Any, key: Any) -> Any:
        return lambda *x: dot_product_attention(
            *x, dropout_rate=self.RATE, dropout_key=key, client=client
        )

    def test_all_derivatives_see_the_draw(self, local: theria.Client) -> None:
        x, key = PLAIN.inputs(), jax.random.key(5)
        actual = jax.jit(hvp_of(self.attention(local, key)))(*x)
        expected = hvp_of(dropped(PLAIN, key, self.RATE))(*x)
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)

    def test_the_key_may_be_traced(self, local: theria.Client) -> None:
        x, keys = PLAIN.inputs(), jax.random.split(jax.random.key(1), 3)
        actual = jax.jit(jax.vmap(lambda key: self.attention(local, key)(*x)))(keys)
        for o, key in zip(actual, keys, strict=True):
            np.testing.assert_allclose(o, dropped(PLAIN, key, self.RATE)(*x), rtol=1e-9, atol=1e-12)


WITHOUT = """
import warnings
import jax, jax.numpy as jnp, numpy as np
import theria
from theria.jax import dot_product_attention
x = jnp.ones((1, 3, 2, 4)), jnp.ones((1, 3, 2, 4)), jnp.arange(24.0).reshape(1, 3, 2, 4)
attention = jax.jit(lambda *x: dot_product_attention(*x, client=theria.local("cpu")))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    text = attention.lower(*x).as_text()
    np.testing.assert_allclose(attention(*x)[0, 0], x[2][0].mean(0), rtol=1e-6)
(warning,) = [w for w in caught if "theria.jax" in str(w.message)]
assert "libtheria_jax.so" in str(warning.message), warning.message
assert "callback" in text
"""


def test_without_the_library_the_host_is_called_back(tmp_path: Path) -> None:
    source = Path(kernels_library().path)
    for each in source.parent.glob("*.so*"):
        if each.name != "libtheria_jax.so":
            shutil.copy(each, tmp_path)
    library = tmp_path / source.name
    subprocess.run(
        [sys.executable, "-c", WITHOUT],
        check=True,
        env={**os.environ, "THERIA_KERNELS_LIBRARY": str(library)},
        timeout=300,
    )
