"""Every verdict, on attention whose losses are known."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from reference_client import ReferenceClient
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from theria.safety import (
    OPERATIONS,
    WRAPPERS,
    Attention,
    Classification,
    Problem,
    classify,
    explicit_attention,
    meta_loss,
)
from theria.safety._explicit import BACKWARD_PARTS, FORWARD_PARTS, explicit_vjp, holding
from theria.torch import sdpa

SMALL = Problem(batch=1, heads=2, seq_q=9, seq_kv=7, head_dim=8)
QKV, ALL = ("q", "k", "v"), ("q", "k", "v", "o_bar")


def verdicts(result: Classification) -> dict[str, str | tuple[str, ...]]:
    """By operation: what is lost, else the verdict."""
    return {name: finding.lost or finding.verdict for name, finding in result.findings.items()}


def in_order(*expected: Any) -> dict[str, Any]:
    """Expectations for `OPERATIONS`."""
    return dict(zip(OPERATIONS, expected, strict=True))


E, M = "exact", "missing"
KNOWN = {
    "output detached": in_order(E, QKV, QKV, QKV, QKV),
    "under no_grad": in_order(E, QKV, E, QKV, QKV),
    "q detached": in_order(E, ("q",), ("q",), ("q",), ("q",)),
    "k detached": in_order(E, ("k",), ("k",), ("k",), ("k",)),
    "v detached": in_order(E, ("v",), ("v",), ("v",), ("v",)),
    "softmax statistics from detached logits": in_order(E, *[("statistics",)] * 4),
    "softmax output detached": in_order(E, *[("probabilities",)] * 4),
    "checkpoint": in_order(E, E, M, M, E),
    "checkpoint, reentrant": in_order(E, M, M, M, M),
    "checkpoint of no_grad": in_order(E, QKV, M, M, QKV),
    "backward: detach and recompute": in_order(E, E, M, M, ALL),
    "backward: logits under no_grad": in_order(E, E, M, M, ("probabilities",)),
    "backward: logits detached": in_order(E, E, M, M, ("probabilities",)),
    "backward: saved statistics": in_order(E, E, M, M, ("lse",)),
    "backward: once_differentiable": in_order(E, E, M, M, ALL),
    "backward: raw kernel into fresh tensors": in_order(E, E, M, M, ALL),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_wrappers_lose_what_they_are_known_to_lose(name: str) -> None:
    assert verdicts(classify(WRAPPERS[name], SMALL)) == KNOWN[name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["explicit", "theria", "math"])
def test_exact_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    def math(*qkv: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(*qkv)

    attentions: dict[str, Attention] = {
        "explicit": explicit_attention,
        "theria": partial(sdpa, client=ReferenceClient()),
        "math": math,
    }
    problem = Problem(batch=1, heads=2, seq_q=9, seq_kv=7, head_dim=8, dtype=dtype)
    result = classify(attentions[name], problem)
    assert verdicts(result) == in_order(E, E, E, E, E)
    assert result.exact
    assert not result.silent_loss
    for finding in result.findings.values():
        assert finding.error is not None
        assert finding.tolerance is not None
        assert 0 < finding.error <= finding.tolerance < 200 * torch.finfo(dtype).eps


@pytest.mark.parametrize("part", FORWARD_PARTS)
def test_every_part_of_the_forward_is_told_apart(part: str) -> None:
    expected = in_order(E, (part,), (part,), (part,), (part,))
    assert verdicts(classify(holding((part,)), SMALL)) == expected


@pytest.mark.parametrize("parts", [*((part,) for part in BACKWARD_PARTS), ("k", "lse"), QKV])
def test_every_part_of_a_backward_is_told_apart(parts: tuple[str, ...]) -> None:
    class Written(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *qkv: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(*qkv)
            return explicit_attention(*qkv)

        @staticmethod
        def backward(ctx: Any, o_bar: torch.Tensor) -> Any:
            return explicit_vjp(*ctx.saved_tensors, o_bar, parts=parts)

    result = classify(lambda *qkv: Written.apply(*qkv), SMALL)
    assert verdicts(result) == in_order(E, E, M, M, parts)
    assert result.silent_loss == ("double_backward",)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(1, 1), (1, 7), (9, 1)])
def test_lengths_of_one(lengths: tuple[int, int], dtype: torch.dtype) -> None:
    problem = Problem(seq_q=lengths[0], seq_kv=lengths[1], head_dim=8, dtype=dtype)
    assert classify(explicit_attention, problem).exact
    assert not classify(lambda q, k, v: 1.5 * explicit_attention(q, k, v), problem).exact


def test_what_is_no_output_is_missing() -> None:
    both = classify(lambda q, k, v: (explicit_attention(q, k, v), None), SMALL)  # type: ignore[arg-type, return-value]
    assert verdicts(both) == in_order(*["missing"] * 5)
    assert "returned a tuple" in both.findings["forward"].reason
    short = classify(lambda q, k, v: explicit_attention(q, k, v)[..., 1:], SMALL)
    assert "returned [1, 2, 9, 7], must be [1, 2, 9, 8]" in short.findings["forward"].reason


def test_what_is_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match="seq_q is 0"):
        Problem(seq_q=0)
    with pytest.raises(ValueError, match="dtype is 'float33'"):
        Problem(dtype="float33")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attention is 3"):
        classify(3, SMALL)  # type: ignore[arg-type]


def test_wrong_values_are_no_loss() -> None:
    result = classify(lambda q, k, v: 1.001 * explicit_attention(q, k, v), SMALL)
    assert verdicts(result) == in_order(*["wrong"] * 5)
    for finding in result.findings.values():
        assert finding.error == pytest.approx(1e-3, rel=1e-6)


def test_a_derivative_by_differences_is_not_exact() -> None:
    class ByDifferences(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *qkv: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(*qkv)
            return explicit_attention(*qkv)

        @staticmethod
        def backward(ctx: Any, o_bar: torch.Tensor) -> Any:
            return Difference.apply(*ctx.saved_tensors, o_bar)

    class Difference(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> Any:
            ctx.save_for_backward(*inputs)
            return explicit_vjp(*inputs)

        @staticmethod
        def backward(ctx: Any, *g: torch.Tensor) -> Any:
            q, k, v, o_bar = ctx.saved_tensors
            h = 1e-4
            up, down = ([x + s * d for x, d in zip((q, k, v), g, strict=True)] for s in (h, -h))
            ends = zip(explicit_vjp(*up, o_bar), explicit_vjp(*down, o_bar), strict=True)
            o_dot = (explicit_attention(*up) - explicit_attention(*down)) / (2 * h)
            return *((a - b) / (2 * h) for a, b in ends), o_dot

    finding = classify(lambda *qkv: ByDifferences.apply(*qkv), SMALL).findings["double_backward"]
    assert finding.verdict == "wrong"
    assert finding.error is not None
    assert 1e-9 < finding.error < 1e-5


def test_the_guard_of_once_differentiable_is_passed_by_in_silence() -> None:
    """`torch.autograd.grad` does not visit the guard, `Tensor.backward` does."""
    finding = classify(WRAPPERS["backward: once_differentiable"], SMALL).findings["double_backward"]
    assert finding.verdict == "lost"
    assert "once_differentiable" in finding.reason


def test_not_a_number_is_wrong() -> None:
    result = classify(lambda q, k, v: explicit_attention(q, k, v) * float("nan"), SMALL)
    assert verdicts(result) == in_order(*["wrong"] * 5)


def test_what_maml_loses() -> None:
    exact = meta_loss(explicit_attention, torch.float64, "cpu")
    assert exact.error == 0.0
    assert exact.rel_diff == exact.exact_rel_diff
    planted = meta_loss(WRAPPERS["backward: raw kernel into fresh tensors"], torch.float64, "cpu")
    assert planted.error is not None
    assert planted.rel_diff is not None
    assert 0.05 < planted.error < 0.5
    assert planted.rel_diff < 0.8 * planted.exact_rel_diff
    refused = meta_loss(WRAPPERS["checkpoint, reentrant"], torch.float64, "cpu")
    assert refused.error is None
    assert "use_reentrant" in refused.reason
