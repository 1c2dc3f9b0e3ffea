"""Classifies a callable by comparing values with float64 and with known ways to lose parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import torch

from theria.safety._explicit import (
    BACKWARD_PARTS,
    FORWARD_PARTS,
    explicit_attention,
    explicit_vjp,
    holding,
    losses,
)
from theria.safety._measure import (
    OPERATIONS,
    OUTPUTS,
    Measured,
    Missing,
    Values,
    guard_of_backward,
    measure,
)
from theria.safety._problem import Attention, Problem

__all__ = ["Classification", "Finding", "Verdict", "classify"]

Verdict = Literal["exact", "lost", "wrong", "missing"]

_MeasureHolding: TypeAlias = Callable[[tuple[str, ...], Problem], Measured]

# Of a unit roundoff: sums of some 64 products, in whatever order, chained up to four deep.
ROUNDING_FLOOR = 64
# In units of the inputs: smaller is a float64 zero.
VANISHING = 1e-12


@dataclass(frozen=True)
class Finding:
    """The result for one operation of a callable.

    Attributes:
        verdict: ``"exact"``: within tolerance of float64 in every output. ``"lost"``: within
            tolerance of the value with the parts in `lost` held constant; no error was raised.
            ``"wrong"``: neither. ``"missing"``: it raises.
        error: Largest over the outputs of |x - x_64| / |x_64| (norms over the tensor); None if
            missing.
        tolerance: Of the output with the largest error / tolerance; None if missing. It is twice
            the error of PyTorch's explicit attention in the same dtype on the same device, plus a
            rounding floor.
        errors: The error of each output of `OUTPUTS`.
        lost: The parts of `FORWARD_PARTS` or `BACKWARD_PARTS` that are treated as constants.
        reason: If missing, the exception. If a double backward is lost, the error that
            `Tensor.backward` raises and `torch.autograd.grad` does not, if any.
    """

    verdict: Verdict
    error: float | None = None
    tolerance: float | None = None
    errors: dict[str, float] | None = None
    lost: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        if self.verdict == "missing":
            return "missing"
        parts = f" ({', '.join(self.lost)})" if self.lost else ""
        return f"{self.verdict}{parts} {self.error:.1e}"


@dataclass(frozen=True)
class Classification:
    """The classification of one callable in one dtype.

    Attributes:
        name: The name of the callable.
        dtype: Of the problem: ``"float64"``.
        device: ``"cpu"`` or ``"cuda"``.
        findings: By operation: forward, vjp, jvp, hvp, double_backward.
    """

    name: str
    dtype: str
    device: str
    findings: dict[str, Finding]

    @property
    def exact(self) -> bool:
        """Whether every operation is exact."""
        return all(finding.verdict == "exact" for finding in self.findings.values())

    @property
    def silent_loss(self) -> tuple[str, ...]:
        """The operations that return a wrong value without an exception."""
        return tuple(n for n, f in self.findings.items() if f.verdict in ("lost", "wrong"))


def classify(
    attention: Attention, problem: Problem | None = None, *, name: str | None = None
) -> Classification:
    """Determines by value which derivatives of `attention` are exact.

    Args:
        attention: ``attention(q, k, v)``: softmax(q k^T / sqrt(head_dim)) v for tensors
            [batch, heads, seq, head_dim] of the problem's dtype and device.
        problem: Default: float64 on the CPU.
        name: Default: the callable's own.

    Raises:
        TypeError: `attention` is not callable.
    """
    if not callable(attention):
        raise TypeError(f"attention is {attention!r}, must be a callable of (q, k, v)")
    problem = problem or Problem()
    measured = measure(attention, problem)
    findings: dict[str, Finding] = {}
    for operation in OPERATIONS:
        vjp = findings.get("vjp")
        vjp_is_exact = vjp is not None and vjp.verdict == "exact"
        findings[operation] = _finding(operation, measured[operation], problem, vjp_is_exact)
    double = findings["double_backward"]
    if double.verdict == "lost":
        guard = guard_of_backward(attention, problem)
        findings["double_backward"] = replace(double, reason=guard)
    if name is None:
        name = str(getattr(attention, "__name__", repr(attention)))
    device = torch.device(problem.device).type
    return Classification(name, str(problem.dtype).removeprefix("torch."), device, findings)


def _finding(
    operation: str, values: Values | Missing, problem: Problem, vjp_is_exact: bool
) -> Finding:
    if isinstance(values, Missing):
        return Finding("missing", reason=values.reason)
    tolerances = _tolerances(operation, problem)
    exact = _exact(operation, problem)
    errors = {name: _error(values[name], exact[name]) for name in OUTPUTS[operation]}
    worst = max(errors, key=lambda name: _ratio(errors[name], tolerances[name]))
    for parts, expected in _candidates(operation, problem, vjp_is_exact):
        # The remains of a loss are compared in units of the whole: they may be zero.
        held = all(
            _error(values[name], expected[name], exact[name]) <= tolerances[name]
            for name in OUTPUTS[operation]
        )
        if held:
            verdict: Verdict = "lost" if parts else "exact"
            return Finding(verdict, errors[worst], tolerances[worst], errors, parts)
    return Finding("wrong", errors[worst], tolerances[worst], errors)


def _error(x: torch.Tensor, expected: torch.Tensor, unit: torch.Tensor | None = None) -> float:
    norm = float((expected if unit is None else unit).norm())
    # What is zero but for rounding, such as the gradient by q of a lone key, is judged in the unit
    # of the inputs, which are standard normal.
    of_inputs = expected.numel() ** 0.5
    error = float((x - expected).norm()) / (norm if norm > VANISHING * of_inputs else of_inputs)
    return error if error == error else float("inf")


def _ratio(error: float, tolerance: float) -> float:
    return error / tolerance


@lru_cache(maxsize=64)
def _tolerances(operation: str, problem: Problem) -> dict[str, float]:
    """Twice the error of PyTorch's explicit attention in the dtype, and the rounding floor.

    flash-attention tests its forward and backward by this rule. Here it applies to every operation.
    """
    floor = ROUNDING_FLOOR * torch.finfo(problem.dtype).eps / 2
    values = _measured_explicitly(problem)[operation]
    exact = _exact(operation, problem)
    assert not isinstance(values, Missing), values.reason
    return {n: 2 * _error(values[n], exact[n]) + floor for n in OUTPUTS[operation]}


@lru_cache(maxsize=16)
def _measured_explicitly(problem: Problem) -> Measured:
    return measure(explicit_attention, problem)


def _candidates(
    operation: str, problem: Problem, vjp_is_exact: bool
) -> Iterator[tuple[tuple[str, ...], Values]]:
    """(constant parts, the resulting float64 value of the operation), the exact one first.

    If the VJP is exact, the forward loses nothing, so only parts of the backward are tried.
    """
    in_forward: _MeasureHolding = _holding_in_forward
    in_backward: _MeasureHolding = _holding_in_backward
    ways = [(parts, in_forward) for parts in losses(FORWARD_PARTS)]
    if operation in ("hvp", "double_backward"):
        written = [(parts, in_backward) for parts in losses(BACKWARD_PARTS)]
        ways = written if vjp_is_exact else ways + written
    for parts, measure_holding in ways:
        values = measure_holding(parts, problem)[operation]
        assert not isinstance(values, Missing), values.reason
        yield parts, values


def _exact(operation: str, problem: Problem) -> Values:
    return next(_candidates(operation, problem, vjp_is_exact=False))[1]


@lru_cache(maxsize=256)
def _holding_in_forward(parts: tuple[str, ...], problem: Problem) -> Measured:
    return measure(holding(parts), problem.in_float64())


@lru_cache(maxsize=1024)
def _holding_in_backward(parts: tuple[str, ...], problem: Problem) -> Measured:
    x = problem.in_float64()
    inputs = [x[name] for name in ("q", "k", "v", "o_bar")]

    def vjp(*point: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return explicit_vjp(*point, parts=parts)  # type: ignore[misc]

    tangents = [x[f"{name}_dot"] for name in ("q", "k", "v", "o_bar")]
    hvp = torch.func.jvp(vjp, tuple(inputs), tuple(tangents))[1]
    pull_back = torch.func.vjp(vjp, *inputs)[1]
    double = pull_back(tuple(x[f"g_{name}"] for name in "qkv"))
    return {
        "hvp": dict(zip(OUTPUTS["hvp"], hvp, strict=True)),
        "double_backward": dict(zip(OUTPUTS["double_backward"], double, strict=True)),
    }
