"""Forward, VJP, JVP and HVP as operators of PyTorch: ``torch.ops.theria.forward`` and so on.

An operator takes tensors [batch, heads, seq, dim] by the names of docs/operator_contract.md, a
mask, a dropout seed and the other tensors among the options, and options that are plain values.
Tracers (`make_fx`, `torch.compile`, `torch.export`, `torch.jit.trace`, `torch.func.linearize`)
therefore record a call, which runs anew whenever their graph does. Each operator has a kernel that
calls the client, one for tensors without storage that gives shapes and dtypes, and a rule for each
of PyTorch's two vmaps. The derivatives are in `_functions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from theria._errors import InvalidArgument
from theria.torch._batching import map_and_apply, map_legacy
from theria.torch._call import Options, run

__all__ = [
    "ARGUMENTS",
    "LIBRARY",
    "OPERATORS",
    "OUTPUTS",
    "after_schema",
    "named_arguments",
    "operator",
]

Tensor = torch.Tensor
MaybeTensor = Tensor | None

_OPTIONS = (
    "float? scale=None, bool is_causal=False, SymInt? window_left=None, SymInt? window_right=None, "
    'float dropout_p=0.0, int dropout_offset=0, str implementation="auto", '
    'str precision="strict", float? softcap=None, str causal_alignment="upper_left", '
    'bool deterministic=False, str client=""'
)
_REQUIRED = ("q", "k", "v")
_SAVED = ("o", "lse", "mask", "seed")
_LENGTHS = ("alibi_slopes", "kv_lengths", "cu_seqlens_q", "cu_seqlens_kv")
# The operators' tensors in their order; those but q, k and v may be None.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "forward": ("q", "k", "v", "mask", "seed", *_LENGTHS),
    "vjp": ("q", "k", "v", "o_bar", *_SAVED, "lse_bar", *_LENGTHS),
    "jvp": ("q", "k", "v", "q_dot", "k_dot", "v_dot", *_SAVED, "bias_dot", *_LENGTHS),
    "hvp": (
        *("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"),
        *_SAVED,
        *("lse_bar", "lse_bar_dot", "bias_dot"),
        *_LENGTHS,
    ),
}
OPERATORS = tuple(ARGUMENTS)
# Those that an operator returns unless its argument `outputs` names others.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "forward": ("o", "lse"),
    "vjp": ("q_bar", "k_bar", "v_bar"),
    "jvp": ("o_dot",),
    "hvp": ("q_bar_dot", "k_bar_dot", "v_bar_dot"),
}

LIBRARY = torch.library.Library("theria", "DEF")


def operator(name: str) -> Any:
    """The operator of that name, a `torch._ops.OpOverload`."""
    return getattr(torch.ops.theria, name).default


def after_schema(name: str, outputs: Sequence[Tensor]) -> Any:
    """What an operator of that name returns: forward a tuple, the others a list."""
    return tuple(outputs) if name == "forward" else list(outputs)


def named_arguments(name: str, arguments: Sequence[Any]) -> dict[str, Any]:
    """An operator's positional arguments by name; those missing at the end are None."""
    names = ARGUMENTS[name]
    return dict(zip(names, (*arguments, *(None,) * (len(names) - len(arguments))), strict=True))


def _schema(name: str) -> str:
    tensors = ", ".join(
        f"Tensor {each}" if each in _REQUIRED else f"Tensor? {each}=None"
        for each in ARGUMENTS[name]
    )
    if name == "forward":
        return f"forward({tensors}, *, {_OPTIONS}) -> (Tensor o, Tensor lse)"
    return f"{name}({tensors}, *, str[]? outputs=None, {_OPTIONS}) -> Tensor[]"


def _define(name: str) -> None:
    LIBRARY.define(_schema(name), tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, _computing(name), "CompositeExplicitAutograd")
    LIBRARY.impl(name, _mapping_legacy(name), "Batched")
    qualified = f"theria::{name}"
    torch.library.register_fake(qualified, _shaping(name), lib=LIBRARY)
    torch.library.register_vmap(qualified, _mapping(name), lib=LIBRARY)


def _computing(name: str) -> Callable[..., Any]:
    def compute(
        *arguments: MaybeTensor, outputs: Sequence[str] | None = None, **options: Any
    ) -> Any:
        results = run(
            name, outputs or OUTPUTS[name], named_arguments(name, arguments), Options(**options)
        )
        return after_schema(name, results)

    return compute


def _shaping(name: str) -> Callable[..., Any]:
    def shapes(
        *arguments: MaybeTensor, outputs: Sequence[str] | None = None, **_options: Any
    ) -> Any:
        tensors = named_arguments(name, arguments)
        q, k, v, mask = (tensors[each] for each in ("q", "k", "v", "mask"))
        _check(q, k, v)
        statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
        inputs = {"q": q, "k": k, "v": v, "bias": mask}

        def empty(output: str) -> Tensor:
            base = output.split("_")[0]
            if base == "lse":
                return q.new_empty(q.shape[:3], dtype=statistics)  # type: ignore[no-any-return]
            if base == "o":
                return q.new_empty((*q.shape[:3], v.shape[3]))  # type: ignore[no-any-return]
            return inputs[base].new_empty(inputs[base].shape)  # type: ignore[no-any-return]

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
            named_arguments(name, in_dims),
            named_arguments(name, arguments),
            takes_apart=_is_of_bias(options),
        )
        dims = [0] * len(outputs)
        return after_schema(name, outputs), tuple(dims) if name == "forward" else dims

    return rule


def _mapping_legacy(name: str) -> Callable[..., Any]:
    def rule(*arguments: MaybeTensor, **options: Any) -> Any:
        outputs = map_legacy(
            _applying(name, options),
            named_arguments(name, arguments),
            takes_apart=_is_of_bias(options),
        )
        return after_schema(name, outputs)

    return rule


def _is_of_bias(options: dict[str, Any]) -> bool:
    """Whether an output is summed over what the mask is broadcast over."""
    return any(output.startswith("bias") for output in options.get("outputs") or ())


def _applying(name: str, options: dict[str, Any]) -> Callable[..., tuple[Tensor, ...]]:
    def apply(tensors: dict[str, MaybeTensor]) -> tuple[Tensor, ...]:
        return tuple(operator(name)(*tensors.values(), **options))

    return apply


for _name in OPERATORS:
    _define(_name)
