"""Forward, VJP, JVP and HVP as autograd functions that are each other's derivatives.

The rules are those of docs/operator_contract.md, "Double backward needs no further kernel". With
J the Jacobian of o with respect to x = (q, k, v), and H(u)[x_dot] the product of the Hessian of
<u, o> with x_dot:

    o            backward:  VJP                    jvp:  JVP
    J^T o_bar    backward:  H(o_bar)[g], J g       jvp:  H(o_bar)[x_dot] + J^T o_bar_dot
    J x_dot      backward:  H(u)[x_dot], J^T u     jvp:  J x_ddot, linear part only

Each function takes (call, mask, seed, *tensors). The saved `o` and `lse` come last; they spare the
server the forward and count as functions of q, k and v, so their own gradient is never propagated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch.autograd import Function

from theria._differentiation_errors import DerivativeOrderError, MaskGradientError
from theria.torch._batching import is_legacy_batched, map_and_apply, map_legacy
from theria.torch._call import Call

__all__ = ["Forward"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None

_BARS = ("q_bar", "k_bar", "v_bar")
_BAR_DOTS = ("q_bar_dot", "k_bar_dot", "v_bar_dot")
_CONSTANTS = 3  # call, mask and seed, the first inputs of every function


class _Operation(Function):
    """What the four have in common: inputs saved for both modes, and the rule of vmap."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])
        ctx.set_materialize_grads(False)

    @classmethod
    def of(cls, call: Call, *operands: MaybeTensor) -> Any:
        """`apply`, with types; under the older vmap on the elements, which carry the graph."""
        if any(map(is_legacy_batched, operands)):
            return map_legacy(partial(cls.of, call), operands)
        return cls.apply(call, *operands)  # type: ignore[no-untyped-call]

    @classmethod
    def vmap(
        cls, info: Any, in_dims: Sequence[Any], call: Call, *operands: MaybeTensor
    ) -> tuple[tuple[Tensor, ...], int]:
        apply = partial(cls.of, call)
        return map_and_apply(apply, info.batch_size, in_dims[1:], operands), 0


class Forward(_Operation):
    """(call, mask, seed, q, k, v) -> o, lse. `lse` is not differentiable."""

    @staticmethod
    def forward(call: Call, mask: MaybeTensor, seed: MaybeTensor, *qkv: Tensor) -> Any:
        return call.run("forward", ("o", "lse"), mask, seed, qkv)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _Operation.setup_context(ctx, (*inputs, *output), output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, o_bar: MaybeTensor, _lse_bar: MaybeTensor) -> Any:
        _refuse_mask(ctx.needs_input_grad[1])
        mask, seed, q, k, v, o, lse = ctx.saved_tensors
        if o_bar is None:
            return (None,) * (_CONSTANTS + 3)
        return None, None, None, *_Vjp.of(ctx.call, mask, seed, q, k, v, o_bar, o, lse)

    @staticmethod
    def jvp(ctx: Any, *tangents: MaybeTensor) -> Any:
        _refuse_mask(tangents[1] is not None)
        mask, seed, q, k, v, o, lse = ctx.saved_tensors
        qkv_dot = tangents[_CONSTANTS:]
        if not _any(qkv_dot):
            return None, None
        (o_dot,) = _Jvp.of(ctx.call, mask, seed, q, k, v, *qkv_dot, o, lse)
        return o_dot, None


class _Vjp(_Operation):
    """(call, mask, seed, q, k, v, o_bar, o, lse) -> q_bar, k_bar, v_bar."""

    @staticmethod
    def forward(call: Call, mask: MaybeTensor, seed: MaybeTensor, *tensors: Tensor) -> Any:
        *arguments, o, lse = tensors
        return call.run("vjp", _BARS, mask, seed, arguments, o, lse)

    @staticmethod
    def backward(ctx: Any, *g: MaybeTensor) -> Any:
        mask, seed, q, k, v, o_bar, o, lse = ctx.saved_tensors
        needs = ctx.needs_input_grad[_CONSTANTS:]
        gradients: tuple[MaybeTensor, ...] = (None,) * 4
        if _any(g) and any(needs[:3]):
            o_dot, *bar_dots = _Hvp.of(
                ctx.call.returning("o_dot", *_BAR_DOTS),
                *(mask, seed, q, k, v, o_bar, *g, None, o, lse),
            )
            gradients = (*bar_dots, o_dot)
        elif _any(g):
            gradients = (None, None, None, *_Jvp.of(ctx.call, mask, seed, q, k, v, *g, o, lse))
        return None, None, None, *gradients, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: MaybeTensor) -> Any:
        mask, seed, q, k, v, o_bar, o, lse = ctx.saved_tensors
        *qkv_dot, o_bar_dot = tangents[_CONSTANTS : _CONSTANTS + 4]
        if _any(qkv_dot):
            dots = (*qkv_dot, o_bar_dot)
            call = ctx.call.returning(*_BAR_DOTS)
            return _Hvp.of(call, mask, seed, q, k, v, o_bar, *dots, o, lse)
        if o_bar_dot is not None:
            return _Vjp.of(ctx.call, mask, seed, q, k, v, o_bar_dot, o, lse)
        return None, None, None


class _Jvp(_Operation):
    """(call, mask, seed, q, k, v, q_dot, k_dot, v_dot, o, lse) -> (o_dot,)."""

    @staticmethod
    def forward(call: Call, mask: MaybeTensor, seed: MaybeTensor, *tensors: MaybeTensor) -> Any:
        *arguments, o, lse = tensors
        return call.run("jvp", ("o_dot",), mask, seed, arguments, o, lse)

    @staticmethod
    def backward(ctx: Any, u: MaybeTensor) -> Any:
        mask, seed, q, k, v, q_dot, k_dot, v_dot, o, lse = ctx.saved_tensors
        needs = ctx.needs_input_grad[_CONSTANTS:]
        gradients: tuple[MaybeTensor, ...] = (None,) * 6
        if u is not None and any(needs[:3]):
            bars_and_dots = _Hvp.of(
                ctx.call.returning(*_BARS, *_BAR_DOTS),
                *(mask, seed, q, k, v, u, q_dot, k_dot, v_dot, None, o, lse),
            )
            gradients = (*bars_and_dots[3:], *bars_and_dots[:3])
        elif u is not None:
            gradients = (None, None, None, *_Vjp.of(ctx.call, mask, seed, q, k, v, u, o, lse))
        present = (True, True, True, q_dot is not None, k_dot is not None, v_dot is not None)
        kept = (x if there else None for x, there in zip(gradients, present, strict=True))
        return None, None, None, *kept, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: MaybeTensor) -> Any:
        mask, seed, q, k, v, *_, o, lse = ctx.saved_tensors
        qkv_dot, qkv_ddot = tangents[3:6], tangents[6:9]
        if _any(qkv_dot):
            raise DerivativeOrderError(
                "forward mode over forward mode of attention is not available; take forward over "
                "reverse instead, such as torch.func.jacfwd(torch.func.jacrev(f)), which is exact"
            )
        if not _any(qkv_ddot):
            return None
        return _Jvp.of(ctx.call, mask, seed, q, k, v, *qkv_ddot, o, lse)


class _Hvp(_Operation):
    """(call, mask, seed, q, k, v, o_bar, q_dot, ..., o_bar_dot, o, lse) -> call.outputs."""

    @staticmethod
    def forward(call: Call, mask: MaybeTensor, seed: MaybeTensor, *tensors: MaybeTensor) -> Any:
        *arguments, o, lse = tensors
        return call.run("hvp", call.outputs, mask, seed, arguments, o, lse)

    @staticmethod
    def backward(_ctx: Any, *_cotangents: MaybeTensor) -> Any:
        _refuse_third_order()

    @staticmethod
    def jvp(_ctx: Any, *_tangents: MaybeTensor) -> Any:
        _refuse_third_order()


def _any(tensors: Sequence[MaybeTensor]) -> bool:
    return any(tensor is not None for tensor in tensors)


def _refuse_mask(differentiated: bool) -> None:
    if differentiated:
        raise MaskGradientError(
            "attn_mask is a constant of attention: it has no derivative here; detach it, or add "
            "the bias to be learned to q and k"
        )


def _refuse_third_order() -> NoReturn:
    raise DerivativeOrderError(
        "a third-order derivative of attention was asked for; forward, VJP, JVP and HVP give the "
        "first two orders exactly and no more"
    )
