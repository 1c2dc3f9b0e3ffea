"""Measures forward, VJP, JVP, HVP and double backward of a callable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch.autograd import forward_ad

from theria._errors import SERVER_FAILURES
from theria.safety._problem import Attention, Problem

__all__ = ["OPERATIONS", "OUTPUTS", "Measured", "Missing", "Values", "guard_of_backward", "measure"]

OUTPUTS: dict[str, tuple[str, ...]] = {
    "forward": ("o",),
    "vjp": ("q_bar", "k_bar", "v_bar"),
    "jvp": ("o_dot",),
    "hvp": ("q_bar_dot", "k_bar_dot", "v_bar_dot"),
    "double_backward": ("q", "k", "v", "o_bar"),
}
OPERATIONS = tuple(OUTPUTS)

_Tensors: TypeAlias = tuple[torch.Tensor, ...]
Values: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Missing:
    """The operation raised.

    Attributes:
        reason: Type and first line of the exception.
    """

    reason: str


Measured: TypeAlias = "dict[str, Values | Missing]"


def measure(attention: Attention, problem: Problem) -> Measured:
    """The value of each operation in `OPERATIONS`, as float64 on the CPU, named as in `OUTPUTS`.

    A derivative that PyTorch does not connect to its input is zero, as it is inside a model. Unlike
    `Missing`, this loses the derivative without an error.

    - vjp: of o for the cotangent o_bar.
    - jvp: of o for the tangents q_dot, k_dot, v_dot.
    - hvp: the tangent of the VJP for the tangents q_dot, k_dot, v_dot, o_bar_dot, by forward over
      reverse.
    - double_backward: the gradient of <q_bar, g_q> + <k_bar, g_k> + <v_bar, g_v> with respect to q,
      k, v and o_bar, by reverse over reverse.
    """
    operations = (_forward, _vjp, _jvp, _hvp, _double_backward)
    attention = _checked(attention, problem)
    results: Measured = {}
    for name, operation in zip(OPERATIONS, operations, strict=True):
        try:
            with torch.enable_grad():
                values = operation(attention, problem)
        except SERVER_FAILURES:  # says nothing about the attention
            raise
        except Exception as error:  # whatever a backend raises is the finding
            results[name] = Missing(_describe(error))
        else:
            results[name] = {
                key: x.detach().to("cpu", torch.float64)
                for key, x in zip(OUTPUTS[name], values, strict=True)
            }
    return results


def _checked(attention: Attention, problem: Problem) -> Attention:
    """`attention`, which raises if the output does not have the right shape."""
    shape = (problem.batch, problem.heads, problem.seq_q, problem.head_dim)

    def checked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        o: object = attention(q, k, v)
        if not isinstance(o, torch.Tensor):
            raise TypeError(f"the attention returned a {type(o).__name__}, must be o alone")
        # Within vmap and duals shapes are those of the problem.
        if tuple(o.shape) != shape:
            raise ValueError(f"the attention returned {list(o.shape)}, must be {list(shape)}")
        return o

    return checked


def guard_of_backward(attention: Attention, problem: Problem) -> str:
    """The error that double backward raises with `Tensor.backward`; empty if there is none.

    A guard such as that of `once_differentiable` is a node of the graph. `torch.autograd.grad`
    visits only the nodes between its outputs and its inputs, so it skips the guard. `backward`
    visits all nodes.
    """
    qkv = [problem[name].requires_grad_() for name in "qkv"]
    o_bar = problem["o_bar"].requires_grad_()
    try:
        with torch.enable_grad():
            first = _gradients([attention(*qkv)], qkv, [o_bar], create_graph=True)
            connected = [x for x in first if x.requires_grad]
            torch.autograd.backward(connected, [torch.ones_like(x) for x in connected])
    except SERVER_FAILURES:  # says nothing about the attention
        raise
    except Exception as error:  # as in `measure`
        return _describe(error)
    return ""


def _describe(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line}"


def _forward(attention: Attention, problem: Problem) -> _Tensors:
    with torch.no_grad():
        return (attention(problem["q"], problem["k"], problem["v"]),)


def _vjp(attention: Attention, problem: Problem) -> _Tensors:
    qkv = [problem[name].requires_grad_() for name in "qkv"]
    return _gradients([attention(*qkv)], qkv, [problem["o_bar"]])


def _jvp(attention: Attention, problem: Problem) -> _Tensors:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(problem[name], problem[f"{name}_dot"]) for name in "qkv"]
        return (_tangent(attention(*duals)),)


def _hvp(attention: Attention, problem: Problem) -> _Tensors:
    with forward_ad.dual_level():
        q, k, v, o_bar = (
            forward_ad.make_dual(
                problem[name].requires_grad_(name != "o_bar"), problem[f"{name}_dot"]
            )
            for name in ("q", "k", "v", "o_bar")
        )
        gradients = _gradients([attention(q, k, v)], (q, k, v), [o_bar], create_graph=True)
        return tuple(map(_tangent, gradients))


def _double_backward(attention: Attention, problem: Problem) -> _Tensors:
    inputs = [problem[name].requires_grad_() for name in ("q", "k", "v", "o_bar")]
    *qkv, o_bar = inputs
    first = _gradients([attention(*qkv)], qkv, [o_bar], create_graph=True)
    return _gradients(first, inputs, [problem[f"g_{name}"] for name in "qkv"])


def _tangent(dual: torch.Tensor) -> torch.Tensor:
    primal, tangent = forward_ad.unpack_dual(dual)
    return torch.zeros_like(primal) if tangent is None else tangent


def _gradients(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    create_graph: bool = False,
) -> _Tensors:
    """`torch.autograd.grad`, with zeros for outputs and inputs that are not connected."""
    pairs = [(o, g) for o, g in zip(outputs, cotangents, strict=True) if o.requires_grad]
    if not pairs:
        return tuple(map(torch.zeros_like, inputs))
    connected, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(
        connected, inputs, weights, create_graph=create_graph, materialize_grads=True
    )
