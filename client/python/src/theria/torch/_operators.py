"""Forward, VJP, JVP and HVP as operators of PyTorch: ``torch.ops.theria.forward`` and so on.

An operator takes tensors [batch, heads, seq, dim] by the names of docs/operator_contract.md, a mask
and a dropout seed, and options that are plain values. Tracers (`make_fx`, `torch.compile`,
`torch.export`, `torch.jit.trace`, `torch.func.linearize`) therefore record a call, which runs anew
whenever their graph does. Each operator has a kernel that calls the client, one for tensors without
storage that gives shapes and dtypes, and a rule for each of PyTorch's two vmaps. The derivatives
are in `_functions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from theria._errors import InvalidArgument
from theria.torch._batching import map_and_apply, map_legacy
from theria.torch._call import Options, run

__all__ = ["LIBRARY", "OPERATORS", "OUTPUTS", "after_schema", "operator"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None

_QKV = "Tensor q, Tensor k, Tensor v"
_DOTS = "Tensor? q_dot, Tensor? k_dot, Tensor? v_dot"
_CONSTANTS = "Tensor? mask=None, Tensor? seed=None"
_SAVED = "Tensor? o=None, Tensor? lse=None"
_OPTIONS = (
    "float? scale=None, bool is_causal=False, SymInt? window_left=None, SymInt? window_right=None, "
    'float dropout_p=0.0, int dropout_offset=0, str implementation="auto", '
    'str precision="strict", str client=""'
)
_TENSORS = {
    "forward": _QKV,
    "vjp": f"{_QKV}, Tensor o_bar",
    "jvp": f"{_QKV}, {_DOTS}",
    "hvp": f"{_QKV}, Tensor o_bar, {_DOTS}, Tensor? o_bar_dot",
}
# The outputs of hvp are those that its argument `outputs` names, in that order.
_RETURNS = {
    "forward": "(Tensor o, Tensor lse)",
    "vjp": "(Tensor q_bar, Tensor k_bar, Tensor v_bar)",
    "jvp": "Tensor o_dot",
    "hvp": "Tensor[]",
}
OUTPUTS: dict[str, tuple[str, ...]] = {
    "forward": ("o", "lse"),
    "vjp": ("q_bar", "k_bar", "v_bar"),
    "jvp": ("o_dot",),
}
OPERATORS = tuple(_TENSORS)

LIBRARY = torch.library.Library("theria", "DEF")


def operator(name: str) -> Any:
    """The operator of that name, a `torch._ops.OpOverload`."""
    return getattr(torch.ops.theria, name).default


def after_schema(name: str, outputs: Sequence[Tensor]) -> Any:
    """What an operator of that name returns: one tensor, a tuple or a list."""
    if name == "jvp":
        return outputs[0]
    return list(outputs) if name == "hvp" else tuple(outputs)


def _define(name: str) -> None:
    saved = "" if name == "forward" else f", {_SAVED}"
    chosen = "str[] outputs, " if name == "hvp" else ""
    LIBRARY.define(
        f"{name}({_TENSORS[name]}{saved}, {_CONSTANTS}, *, {chosen}{_OPTIONS}) -> {_RETURNS[name]}",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    LIBRARY.impl(name, _computing(name), "CompositeExplicitAutograd")
    LIBRARY.impl(name, _mapping_legacy(name), "Batched")
    qualified = f"theria::{name}"
    torch.library.register_fake(qualified, _shaping(name), lib=LIBRARY)
    torch.library.register_vmap(qualified, _mapping(name), lib=LIBRARY)


def _taken_apart(
    name: str, arguments: tuple[MaybeTensor, ...]
) -> tuple[tuple[MaybeTensor, ...], tuple[MaybeTensor, MaybeTensor], MaybeTensor, MaybeTensor]:
    """The operation's own tensors, o and lse, mask, seed. Arguments at the end may be missing."""
    count = _TENSORS[name].count(",") + 1
    tensors, rest = arguments[:count], list(arguments[count:])
    saved = 0 if name == "forward" else 2
    rest += [None] * (saved + 2 - len(rest))
    o, lse = rest[:2] if saved else (None, None)
    return tensors, (o, lse), rest[-2], rest[-1]


def _computing(name: str) -> Callable[..., Any]:
    def compute(
        *arguments: MaybeTensor, outputs: Sequence[str] | None = None, **options: Any
    ) -> Any:
        tensors, saved, mask, seed = _taken_apart(name, arguments)
        results = run(
            name, outputs or OUTPUTS[name], tensors, saved, mask, seed, Options(**options)
        )
        return after_schema(name, results)

    return compute


def _shaping(name: str) -> Callable[..., Any]:
    def shapes(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *_arguments: MaybeTensor,
        outputs: Sequence[str] | None = None,
        **_options: Any,
    ) -> Any:
        _check(q, k, v)
        statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
        inputs = {"q": q, "k": k, "v": v}

        def empty(output: str) -> Tensor:
            base = output.split("_")[0]
            if base == "lse":
                return q.new_empty(q.shape[:3], dtype=statistics)
            if base == "o":
                return q.new_empty((*q.shape[:3], v.shape[3]))
            return q.new_empty(inputs[base].shape)

        return after_schema(name, [empty(output) for output in outputs or OUTPUTS[name]])

    return shapes


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    """What the server would find wrong with shapes and dtypes."""
    for name, tensor in (("key", k), ("value", v)):
        if tensor.dtype != q.dtype:
            raise InvalidArgument.of(
                f"{name}.dtype", f"{name}.dtype is {tensor.dtype}, must be {q.dtype} as query's"
            )
    for name, axis, actual, wanted, other in (
        ("key", -1, k.shape[3], q.shape[3], "query"),
        ("value", -2, v.shape[2], k.shape[2], "key"),
    ):
        if actual != wanted:
            raise InvalidArgument.of(
                f"{name}.shape[{axis}]",
                f"{name}.shape[{axis}] is {actual}, must equal {other}.shape[{axis}] = {wanted}",
            )


def _mapping(name: str) -> Callable[..., Any]:
    def rule(
        info: Any, in_dims: Sequence[Any], *arguments: MaybeTensor, **options: Any
    ) -> tuple[Any, Any]:
        outputs = map_and_apply(
            _applying(name, options),
            info.batch_size,
            _rearranged(name, tuple(in_dims)),
            _rearranged(name, arguments),
        )
        dims: Any = [0] * len(outputs) if name == "hvp" else (0,) * len(outputs)
        return after_schema(name, outputs), 0 if name == "jvp" else dims

    return rule


def _mapping_legacy(name: str) -> Callable[..., Any]:
    def rule(*arguments: MaybeTensor, **options: Any) -> Any:
        outputs = map_legacy(_applying(name, options), _rearranged(name, arguments))
        return after_schema(name, outputs)

    return rule


def _rearranged(name: str, arguments: tuple[Any, ...]) -> list[Any]:
    """The order of `map_and_apply`: mask, seed, then the tensors, saved ones last."""
    tensors, saved, mask, seed = _taken_apart(name, arguments)
    return [mask, seed, *tensors, *(() if name == "forward" else saved)]


def _applying(name: str, options: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
    def apply(mask: MaybeTensor, seed: MaybeTensor, *tensors: MaybeTensor) -> tuple[Tensor, ...]:
        result = operator(name)(*tensors, mask, seed, **options)
        return (result,) if name == "jvp" else tuple(result)

    return apply


for _name in OPERATORS:
    _define(_name)
