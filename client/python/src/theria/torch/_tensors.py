"""Which tensors attention takes, and the masks that are no plain tensors."""

from __future__ import annotations

import torch
from torch.nn.attention.bias import CausalBias, CausalVariant

from theria._errors import InvalidArgument, WrongType

__all__ = ["CausalBias", "causal_offset", "check_constant", "check_tensor"]

_ADVICE = {
    "BlockMask": (
        "it belongs to FlexAttention, and its blocks alone do not determine the mask; pass the "
        "boolean matrix of its mask_mod, from "
        "torch.nn.attention.flex_attention.create_mask(mask_mod, B, H, Q_LEN, KV_LEN)"
    ),
    "DTensor": "pass its to_local() where attention is local to the shard, or its full_tensor()",
    "MaskedTensor": "pass its get_data(), and its get_mask() as attn_mask where it masks keys",
}
_NESTED = (
    "pad it with torch.nested.to_padded_tensor and forbid the padding in attn_mask, or pass all of "
    "query, key and value nested, in layout torch.jagged"
)


def check_tensor(name: str, value: object) -> None:
    """Refuses what is not a tensor whose elements are its own.

    A plain subclass passes, and so does one that handles operators by `__torch_dispatch__`: it gets
    to see ours. One that overrides `__torch_function__` may mean anything.

    Raises:
        WrongType: By the name of its class, with what to pass instead.
    """
    kind = type(value)
    if not isinstance(value, torch.Tensor):
        raise _refusal(name, kind.__name__, _ADVICE.get(kind.__name__, "must be a torch.Tensor"))
    if value.is_nested:
        raise _refusal(name, f"nested tensor ({value.layout})", _NESTED)
    if value.layout != torch.strided:
        raise _refusal(name, f"tensor of layout {value.layout}", "pass its to_dense()")
    if value.is_quantized:
        raise _refusal(name, "quantised tensor", "pass its dequantize()")
    if kind is not torch.Tensor and _is_foreign(kind):
        advice = _ADVICE.get(
            kind.__name__,
            "which overrides what functions do with it; pass the torch.Tensor that it stands for",
        )
        raise _refusal(name, kind.__name__, advice)


def check_constant(name: str, value: object) -> None:
    """As `check_tensor`, for what has no derivative.

    Raises:
        InvalidArgument: It requires a gradient.
    """
    check_tensor(name, value)
    if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument.of(name, f"{name} requires a gradient, must be a constant: detach it")


def causal_offset(bias: CausalBias, seq_q: int, seq_kv: int) -> int:
    """The offset of the diagonal: key j takes part in row i only if j <= i + offset.

    Raises:
        InvalidArgument: The bias is aligned to a corner that these lengths do not have.
    """
    if bias.variant == CausalVariant.UPPER_LEFT:
        return 0
    offset: int = bias.seq_len_kv - bias.seq_len_q
    if offset != seq_kv - seq_q:
        raise InvalidArgument.of(
            "attn_mask.shape",
            f"attn_mask is a causal bias aligned to the lower right of "
            f"{(bias.seq_len_q, bias.seq_len_kv)}, must be of {(seq_q, seq_kv)}, the lengths of "
            "query and key",
        )
    return offset


def _is_foreign(kind: type) -> bool:
    if kind.__name__ == "DTensor":
        return True
    function = kind.__torch_function__  # type: ignore[attr-defined]
    if function is torch._C._disabled_torch_function_impl:
        return False
    return getattr(function, "__func__", None) is not torch.Tensor.__torch_function__.__func__  # type: ignore[attr-defined]


def _refusal(name: str, what: str, advice: str) -> WrongType:
    message = (
        f"{name} is a {what}, {advice}"
        if advice.startswith(("must", "which"))
        else (f"{name} is a {what}, which attention does not take: {advice}")
    )
    error = WrongType.of(name, message)
    assert isinstance(error, WrongType)
    return error
