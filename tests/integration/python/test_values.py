"""All four calls against PyTorch autograd of explicit float64 math: by a server and in process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import reference
import torch
from reference import Options

import theria


@dataclass
class Case:
    batch: int = 2
    heads_q: int = 2
    heads_kv: int = 2
    seq_q: int = 7
    seq_kv: int = 7
    head_dim: int = 8
    head_dim_v: int = 8
    options: Options = field(default_factory=Options)


_RNG = np.random.default_rng(5)
_FORBIDDEN_ROW = _RNG.random((2, 1, 7, 7)) < 0.6
_FORBIDDEN_ROW[1, 0, 3] = False
_ADDITIVE = _RNG.standard_normal((1, 2, 7, 7))
_ADDITIVE[0, 1, 2] = -np.inf
_ADDITIVE[0, 0, 5, :4] = -np.inf

CASES = {
    "plain": Case(),
    "one of each": Case(1, 1, 1, 1, 1, 1, 1),
    "unequal": Case(1, 3, 3, 5, 19, 3, 11),
    "long keys": Case(1, 1, 1, 3, 300, 16, 16),
    "long queries": Case(1, 1, 1, 261, 5, 16, 4),
    "grouped": Case(heads_q=6, heads_kv=2),
    "one key head": Case(heads_q=4, heads_kv=1, head_dim_v=3),
    "wide": Case(1, 1, 1, 4, 4, 512, 512),
    "scale": Case(options=Options(scale=-0.37)),
    "scale of zero": Case(options=Options(scale=0.0)),
    "causal": Case(options=Options(is_causal=True)),
    "causal, more keys": Case(seq_kv=12, options=Options(is_causal=True)),
    "causal, more queries": Case(seq_q=12, options=Options(is_causal=True)),
    "window": Case(options=Options(window=(2, 1))),
    "window, left only": Case(options=Options(window=(1, None))),
    "window, right only": Case(options=Options(window=(None, 0))),
    "window, no key for late rows": Case(seq_q=12, seq_kv=4, options=Options(window=(1, 1))),
    "causal window": Case(seq_q=40, seq_kv=40, options=Options(is_causal=True, window=(5, 3))),
    "bool mask, forbidden row": Case(options=Options(attn_mask=_FORBIDDEN_ROW)),
    "bool mask of keys": Case(options=Options(attn_mask=_FORBIDDEN_ROW[0, 0, 0])),
    "additive mask, forbidden row": Case(options=Options(attn_mask=_ADDITIVE)),
    "additive float32 mask of rows": Case(
        options=Options(attn_mask=_ADDITIVE[:, :1, :, :1].astype(np.float32))
    ),
    "dropout": Case(options=Options(dropout_p=0.3, dropout_seed=7)),
    "dropout, large seed and offset": Case(
        seq_q=5,
        seq_kv=9,
        options=Options(dropout_p=0.71, dropout_seed=2**63 + 11, dropout_offset=2**40 + 3),
    ),
    "soft cap": Case(options=Options(softcap=1.5)),
    "soft cap, additive mask": Case(options=Options(softcap=0.7, attn_mask=_ADDITIVE)),
    "alibi": Case(options=Options(alibi_slopes=np.array([0.5, 0.125]))),
    "alibi by batch": Case(options=Options(alibi_slopes=np.array([[0.5, 1.0], [0.25, 0.0]]))),
    "lower right": Case(seq_kv=12, options=Options(is_causal=True, causal_alignment="lower_right")),
    "lower right, rows without keys": Case(
        seq_q=12, options=Options(is_causal=True, causal_alignment="lower_right")
    ),
    "lower right window and alibi": Case(
        seq_kv=12,
        options=Options(
            window=(3, 1), causal_alignment="lower_right", alibi_slopes=np.array([0.5, 0.125])
        ),
    ),
    "key lengths": Case(options=Options(kv_lengths=[5, 0])),
    "packed": Case(
        1,
        seq_q=12,
        seq_kv=17,
        options=Options(cu_seqlens_q=[0, 3, 3, 12], cu_seqlens_kv=[0, 5, 9, 17]),
    ),
    "packed, causal, lower right": Case(
        1,
        seq_q=12,
        seq_kv=17,
        options=Options(
            is_causal=True,
            causal_alignment="lower_right",
            cu_seqlens_q=[0, 3, 12],
            cu_seqlens_kv=[0, 9, 17],
        ),
    ),
    "everything": Case(
        heads_q=4,
        heads_kv=2,
        head_dim_v=5,
        options=Options(
            attn_mask=_FORBIDDEN_ROW,
            dropout_p=0.2,
            dropout_seed=3,
            is_causal=True,
            window=(4, 2),
            scale=0.9,
            softcap=2.0,
            alibi_slopes=np.array([0.5, 0.25, 0.125, 0.0625]),
        ),
    ),
}


@pytest.fixture(params=["server", "local:cpu", "local:cuda"])
def client(request: pytest.FixtureRequest) -> Iterator[theria.Client]:
    """One of each kind that this machine has."""
    if request.param == "server":
        with theria.connect(request.getfixturevalue("server").target, timeout=60.0) as client:
            yield client
    elif request.param == "local:cpu":
        yield theria.local("cpu")
    else:
        yield local_cuda()


def local_cuda() -> theria.Client:
    """Skips the test where there is no GPU."""
    try:
        return theria.local("cuda")
    except theria.Unavailable as error:
        pytest.skip(f"needs a GPU and the CUDA kernels: {error}")


class Tensors:
    """q, k, v, a cotangent and all tangents of a case, in one dtype."""

    def __init__(self, case: Case, dtype: Any = np.float64) -> None:
        rng = np.random.default_rng(11)
        q = (case.batch, case.heads_q, case.seq_q, case.head_dim)
        k = (case.batch, case.heads_kv, case.seq_kv, case.head_dim)
        v = (case.batch, case.heads_kv, case.seq_kv, case.head_dim_v)
        o = (case.batch, case.heads_q, case.seq_q, case.head_dim_v)

        def draw(*shapes: tuple[int, ...]) -> tuple[Any, ...]:
            return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)

        self.qkv, self.dots = draw(q, k, v), draw(q, k, v)
        (self.o_bar, self.o_bar_dot) = draw(o, o)


def torch64(*arrays: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.asarray(a, np.float64)) for a in arrays)


def keywords(options: Options) -> dict[str, Any]:
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}


def assert_close(actual: Any, expected: torch.Tensor, rtol: float, atol: float) -> None:
    assert actual.shape == tuple(expected.shape)
    np.testing.assert_allclose(actual.astype(np.float64), expected.numpy(), rtol=rtol, atol=atol)


def check_all(client: theria.Client, case: Case, dtype: Any, rtol: float, atol: float) -> None:
    t = Tensors(case, dtype)
    options = keywords(case.options)
    qkv64, dots64 = torch64(*t.qkv), torch64(*t.dots)
    o_bar64, o_bar_dot64 = torch64(t.o_bar, t.o_bar_dot)

    (o, lse), (o_dot, lse_dot) = reference.jvp(qkv64, dots64, case.options)
    bars = reference.vjp(qkv64, o_bar64, case.options)
    bar_dots = reference.hvp(qkv64, o_bar64, dots64, o_bar_dot64, case.options)
    lse_dot = torch.where(torch.isneginf(lse), 0.0, lse_dot)

    statistics = np.float64 if dtype == np.float64 else np.float32
    f = client.forward(*t.qkv, **options)
    assert f.o.dtype == dtype
    assert f.lse.dtype == statistics
    lse_tolerance = max(1e-12, float(np.finfo(statistics).eps))
    assert_close(f.o, o, rtol, atol)
    assert_close(f.lse, lse, lse_tolerance, lse_tolerance)

    r = client.vjp(*t.qkv, t.o_bar, **options)
    for name, expected in zip(("q_bar", "k_bar", "v_bar"), bars, strict=True):
        assert_close(getattr(r, name), expected, rtol, atol)
    assert r.o is None

    r = client.jvp(*t.qkv, *t.dots, **options, outputs={"lse_dot": "inline", "lse": "inline"})
    assert_close(r.o, o, rtol, atol)
    assert_close(r.o_dot, o_dot, rtol, atol)
    assert_close(r.lse_dot, lse_dot, lse_tolerance, lse_tolerance * 10)

    r = client.hvp(*t.qkv, t.o_bar, *t.dots, t.o_bar_dot, **options, outputs={"o_dot": "inline"})
    assert_close(r.o_dot, o_dot, rtol, atol)
    for name, expected, tangent in zip("qkv", bars, bar_dots, strict=True):
        assert_close(getattr(r, f"{name}_bar"), expected, rtol, atol)
        assert_close(getattr(r, f"{name}_bar_dot"), tangent, rtol, atol)


@pytest.mark.parametrize("name", CASES)
def test_float64(client: theria.Client, name: str) -> None:
    check_all(client, CASES[name], np.float64, 1e-10, 1e-11)


_HEAD_BIAS = _RNG.standard_normal((2, 7, 7))
EXTENDED = {
    "lse": Case(),
    "lse, forbidden row": Case(options=Options(attn_mask=_FORBIDDEN_ROW)),
    "bias": Case(options=Options(attn_mask=_ADDITIVE)),
    "bias of heads": Case(heads_q=2, heads_kv=1, options=Options(attn_mask=_HEAD_BIAS)),
    "bias of keys": Case(options=Options(attn_mask=_HEAD_BIAS[0, 0])),
    "bias of rows, float32": Case(
        options=Options(attn_mask=_HEAD_BIAS[:, :, :1].astype(np.float32))
    ),
    "bias, dropout, soft cap": Case(
        options=Options(attn_mask=_ADDITIVE, softcap=1.2, dropout_p=0.3, dropout_seed=4)
    ),
    "bias, key lengths, alibi": Case(
        options=Options(
            attn_mask=_HEAD_BIAS, kv_lengths=[3, 7], alibi_slopes=np.array([0.5, 0.125])
        )
    ),
    "bias, packed": Case(
        1,
        options=Options(
            attn_mask=_HEAD_BIAS, cu_seqlens_q=[0, 4, 7], cu_seqlens_kv=[0, 2, 7], is_causal=True
        ),
    ),
}


@pytest.mark.parametrize("only_lse", [False, True])
@pytest.mark.parametrize("name", EXTENDED)
def test_bias_and_lse(client: theria.Client, name: str, only_lse: bool) -> None:
    """VJP, JVP and HVP with cotangents of o and lse and tangents of the bias."""
    case = EXTENDED[name]
    t, options = Tensors(case), keywords(case.options)
    rng = np.random.default_rng(3)
    lse_bar, lse_bar_dot = rng.standard_normal((2, case.batch, case.heads_q, case.seq_q))
    o_bar, o_bar_dot = (0 * t.o_bar, 0 * t.o_bar) if only_lse else (t.o_bar, t.o_bar_dot)
    bias = case.options.bias
    mask = () if bias is None else (np.asarray(bias),)
    mask_dot = tuple(rng.standard_normal(x.shape).astype(x.dtype) for x in mask)
    leaves, tangents = torch64(*t.qkv, *mask), torch64(*t.dots, *mask_dot)

    def f(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *b: torch.Tensor) -> Any:
        o, lse = reference.forward(q, k, v, case.options, *b)
        return o, torch.where(torch.isneginf(lse), 0.0, lse)

    def vjp(*x: torch.Tensor) -> Any:
        _, pull = torch.func.vjp(f, *x[:-2])
        return pull((x[-2], x[-1]))

    bars, bar_dots = torch.func.jvp(
        vjp,
        (*leaves, *torch64(o_bar, lse_bar)),
        (*tangents, *torch64(o_bar_dot, lse_bar_dot)),
    )
    _, (o_dot, lse_dot) = torch.func.jvp(f, leaves, tangents)

    names = ["q", "k", "v"] + ["bias"] * len(mask)
    rounded = any(x.dtype == np.float32 for x in mask)  # of bias_bar alone
    given = {"o_bar": None if only_lse else t.o_bar, "lse_bar": lse_bar}
    wanted = {"bias_bar": "inline"} if mask else {}
    r = client.vjp(*t.qkv, **given, **options, outputs=wanted)
    for each, expected in zip(names, bars, strict=True):
        rtol, atol = (1e-6, 1e-6) if rounded and each == "bias" else (1e-10, 1e-11)
        assert_close(getattr(r, f"{each}_bar"), expected, rtol, atol)

    dots = dict(zip([f"{each}_dot" for each in names], (*t.dots, *mask_dot), strict=True))
    r = client.jvp(*t.qkv, **dots, **options, outputs={"lse_dot": "inline"})
    assert_close(r.o_dot, o_dot, 1e-10, 1e-11)
    assert_close(r.lse_dot, lse_dot, 1e-10, 1e-11)

    wanted = {"lse_dot": "inline", **({"bias_bar_dot": "inline", **wanted} if mask else {})}
    dots.update(lse_bar_dot=lse_bar_dot, o_bar_dot=None if only_lse else t.o_bar_dot)
    r = client.hvp(*t.qkv, **given, **dots, **options, outputs=wanted)
    assert_close(r.lse_dot, lse_dot, 1e-10, 1e-11)
    for each, expected, tangent in zip(names, bars, bar_dots, strict=True):
        rtol, atol = (1e-6, 1e-6) if rounded and each == "bias" else (1e-10, 1e-11)
        assert_close(getattr(r, f"{each}_bar"), expected, rtol, atol)
        assert_close(getattr(r, f"{each}_bar_dot"), tangent, rtol, atol)
    if mask:
        assert r.bias_bar.dtype == mask[0].dtype


@pytest.mark.parametrize("extent", ["batch", "heads", "seq_q", "seq_kv"])
def test_empty_inputs(client: theria.Client, extent: str) -> None:
    sizes = {"batch": 2, "heads": 2, "seq_q": 3, "seq_kv": 4, extent: 0}
    batch, heads, seq_q, seq_kv = sizes.values()
    q, o_bar = np.ones((batch, heads, seq_q, 8)), np.ones((batch, heads, seq_q, 5))
    k, v = np.ones((batch, heads, seq_kv, 8)), np.ones((batch, heads, seq_kv, 5))
    f = client.forward(q, k, v)
    assert f.o.shape == (batch, heads, seq_q, 5)
    assert not f.o.any()
    assert np.isneginf(f.lse).all()
    r = client.hvp(q, k, v, o_bar, q, k, v, o_bar, outputs={"o_dot": "inline"})
    assert not r.o_dot.any()
    for name, like in (("q", q), ("k", k), ("v", v)):
        for bar in (getattr(r, f"{name}_bar"), getattr(r, f"{name}_bar_dot")):
            assert bar.shape == like.shape
            assert not bar.any()


def test_deterministic_calls_give_equal_bits(client: theria.Client) -> None:
    t = Tensors(Case(heads_q=8, heads_kv=2, seq_q=130, seq_kv=130), np.float32)
    results = [
        client.hvp(*t.qkv, t.o_bar, *t.dots, t.o_bar_dot, deterministic=True) for _ in range(3)
    ]
    for name in ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot"):
        for other in results[1:]:
            assert getattr(results[0], name).tobytes() == getattr(other, name).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["unequal", "grouped", "causal", "dropout", "everything"])
def test_lower_precision_is_rounded_once(client: theria.Client, name: str, dtype: Any) -> None:
    """The CPU computes in float64 and rounds at the end: within one unit in the last place."""
    if client.info().backend == "cuda":
        pytest.skip("the conformance and parity suites judge a GPU's rounding")
    eps = float(ml_dtypes.finfo(dtype).eps)
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    check_all(client, CASES[name], dtype, eps, max(smallest, 1e-12))


@pytest.mark.parametrize("name", ["plain", "bool mask, forbidden row", "everything"])
def test_saved_statistics_change_nothing(client: theria.Client, name: str) -> None:
    case = CASES[name]
    t, options = Tensors(case), keywords(case.options)
    f = client.forward(*t.qkv, **options)
    for saved in ({}, {"o": f.o, "lse": f.lse}):
        r = client.hvp(*t.qkv, t.o_bar, *t.dots, t.o_bar_dot, **saved, **options)
        if not saved:
            plain = r
    for output in ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot"):
        np.testing.assert_allclose(
            getattr(r, output), getattr(plain, output), rtol=1e-10, atol=1e-12
        )


def test_absent_tangents_are_zero(client: theria.Client) -> None:
    t = Tensors(CASES["grouped"])
    for present in range(3):
        dots = [d if i == present else None for i, d in enumerate(t.dots)]
        zeros = [d if i == present else np.zeros_like(d) for i, d in enumerate(t.dots)]
        sparse, dense = client.jvp(*t.qkv, *dots), client.jvp(*t.qkv, *zeros)
        np.testing.assert_allclose(sparse.o_dot, dense.o_dot, rtol=1e-12, atol=1e-14)
        a, b = client.hvp(*t.qkv, t.o_bar, *dots), client.hvp(*t.qkv, t.o_bar, *zeros)
        for name in ("q_bar_dot", "k_bar_dot", "v_bar_dot"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-14)
    r = client.hvp(*t.qkv, t.o_bar)
    assert not r.q_bar_dot.any()
    assert not r.v_bar_dot.any()


STRIDED = {
    "transposed heads": lambda x: np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(
        0, 2, 1, 3
    ),
    "fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
    "torch": torch.from_numpy,
    "torch transposed": lambda x: torch.from_numpy(x.swapaxes(1, 3).copy()).transpose(1, 3),
}


@pytest.mark.parametrize("layout", STRIDED)
def test_strides_change_nothing(client: theria.Client, layout: str) -> None:
    t = Tensors(CASES["unequal"])
    arrange = STRIDED[layout]
    expected = client.vjp(*t.qkv, t.o_bar)
    r = client.vjp(*(arrange(x) for x in t.qkv), arrange(t.o_bar))
    for name in ("q_bar", "k_bar", "v_bar"):
        assert isinstance(getattr(r, name), torch.Tensor) == layout.startswith("torch")
        np.testing.assert_array_equal(np.asarray(getattr(r, name)), getattr(expected, name))


def test_broadcast_arrays_are_sent_once(client: theria.Client) -> None:
    rng = np.random.default_rng(4)
    q = np.broadcast_to(rng.standard_normal((1, 1, 5, 8)), (3, 2, 5, 8))
    o_bar = np.broadcast_to(np.float64(1.0), q.shape)
    r = client.vjp(q, q, q, o_bar)
    dense = client.vjp(q.copy(), q.copy(), q.copy(), o_bar.copy())
    np.testing.assert_array_equal(r.k_bar, dense.k_bar)
