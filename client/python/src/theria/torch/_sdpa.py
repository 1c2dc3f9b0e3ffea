"""`sdpa`: the arguments of PyTorch's function, brought to the four dimensions of the contract."""

from __future__ import annotations

from numbers import Real

import torch

from theria._default_client import AttentionClient, chosen_client
from theria._differentiation_errors import MaskGradientError
from theria._errors import InvalidArgument
from theria._options import CallOptions, Implementation, Precision
from theria.torch._call import Call
from theria.torch._functions import Forward

__all__ = ["sdpa"]

Tensor = torch.Tensor


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    client: AttentionClient | None = None,
    implementation: Implementation = "auto",
    precision: Precision = "strict",
    window: tuple[int | None, int | None] | None = None,
    dropout_seed: int | None = None,
    dropout_offset: int = 0,
) -> Tensor:
    """Scaled dot-product attention on a Theria server, with exact first and second derivatives.

    Takes what `torch.nn.functional.scaled_dot_product_attention` takes, with the same meaning;
    beyond it, `is_causal` and `attn_mask` may be given together.

    Args:
        query: [..., heads_q, seq_q, head_dim]; float64, float32, float16 or bfloat16, any strides,
            any device (other devices' tensors travel through host memory).
        key: [..., heads_kv, seq_kv, head_dim], of the same dtype.
        value: [..., heads_kv, seq_kv, head_dim_v], of the same dtype. Leading dimensions broadcast,
            and may be missing altogether ([seq, dim]).
        attn_mask: bool (true takes part) or floating point (added to the scaled scores), broadcast
            to [..., heads_q, seq_q, seq_kv]. A constant: it may not require a gradient.
        dropout_p: Probability in [0, 1) of dropping an attention weight.
        is_causal: Key j takes part in row i only if j <= i.
        scale: Factor of the scores; default 1/sqrt(head_dim). A number, not a tensor: a
            temperature that is learned multiplies `query`.
        enable_gqa: Whether heads_kv may be a divisor of heads_q.
        client: Default `theria.torch.default_client()`.
        implementation: "auto", "fused", "unfused" or "reference".
        precision: "strict" or "fast".
        window: (left, right): key j takes part in row i only if i - left <= j <= i + right; a None
            is unbounded.
        dropout_seed: Default: drawn from PyTorch's default generator, once, and kept for all
            derivatives. Under `vmap`, `randomness` decides about it as for any random function.
        dropout_offset: Distinguishes draws of one seed.

    Returns:
        o, [..., heads_q, seq_q, head_dim_v]. Rows whose mask forbids every key are zero.

    Raises:
        theria.InvalidArgument: The leading dimensions do not broadcast, grouped heads do not
            divide, or what the server finds; `.field` names an argument, such as ``key.shape[-1]``.
        MaskGradientError: `attn_mask` requires a gradient.
        DerivativeOrderError: On differentiating thrice, or forward over forward.
        NoClientError: No client given and no default.
        theria.Error: Any other error of the client or the server.
    """
    _check_tensors(query=query, key=key, value=value)
    if attn_mask is not None:
        _check_tensors(attn_mask=attn_mask)
        if attn_mask.requires_grad and torch.is_grad_enabled():
            raise MaskGradientError("attn_mask requires a gradient, but is a constant of attention")
    _check_numbers(scale, dropout_p)
    query, key, value = _autocast(query, key, value)
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise InvalidArgument.of(
            "query.shape", "query, key and value need at least the dimensions [seq, dim]"
        )
    leading, query, key, value = _broadcast_leading(query, key, value, enable_gqa)
    options = CallOptions(
        is_causal=is_causal,
        scale=scale,
        window=window,
        implementation=implementation,
        precision=precision,
    )
    seed = None
    if dropout_p > 0.0:
        options["dropout_p"] = dropout_p
        options["dropout_offset"] = dropout_offset
        seed = _seed(dropout_seed)
    call = Call(chosen_client(client), options)
    mask = None if attn_mask is None else _four_dimensional_mask(attn_mask, leading)
    o, _ = Forward.of(call, mask, seed, *map(_four_dimensional, (query, key, value)))
    # No view: torch.compile's guard against double backward does not see through views.
    return torch.ops.aten._unsafe_view(o, [*leading, *o.shape[-2:]])  # type: ignore[no-any-return]


def _check_tensors(**arguments: object) -> None:
    for name, argument in arguments.items():
        if not isinstance(argument, Tensor):
            raise InvalidArgument.of(
                name, f"{name} is a {type(argument).__name__}, must be a torch.Tensor"
            )


def _check_numbers(scale: object, dropout_p: object) -> None:
    """Refuses what would lose a gradient, or be taken for another number, without a word."""
    if isinstance(scale, Tensor):
        raise InvalidArgument.of(
            "scale", "scale is a tensor, must be a number: multiply query by one that is learned"
        )
    if scale is not None and not isinstance(scale, Real):
        raise InvalidArgument.of("scale", f"scale is {scale!r}, must be a number")
    if not isinstance(dropout_p, Real) or not 0.0 <= float(dropout_p) < 1.0:
        raise InvalidArgument.of("dropout_p", f"dropout_p is {dropout_p!r}, must be in [0, 1)")


def _autocast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under `torch.autocast`, the dtype that PyTorch's own attention would be run in."""
    device = query.device.type
    if torch.is_autocast_enabled(device) and query.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        return query.to(dtype), key.to(dtype), value.to(dtype)
    return query, key, value


def _broadcast_leading(
    query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool
) -> tuple[tuple[int, ...], Tensor, Tensor, Tensor]:
    """Expands all dimensions but the last two to what they broadcast to, without a copy.

    Returns the leading shape of the output, then query, key, value. With `enable_gqa` the heads,
    dimension -3, of key and value stay fewer than those of query.
    """
    heads_q: tuple[int, ...] = ()
    heads_kv: tuple[int, ...] = ()
    if enable_gqa:
        if min(query.dim(), key.dim(), value.dim()) < 3:
            raise InvalidArgument.of(
                "query.shape", "enable_gqa needs the dimensions [heads, seq, dim]"
            )
        if key.size(-3) != value.size(-3):
            heads = query.size(-3)
            key = key.repeat_interleave(_group(heads, key.size(-3)), -3)
            value = value.repeat_interleave(_group(heads, value.size(-3)), -3)
        _group(query.size(-3), key.size(-3))
        heads_q, heads_kv = query.shape[-3:-2], key.shape[-3:-2]
    outer = -3 if enable_gqa else -2
    shapes = [tensor.shape[:outer] for tensor in (query, key, value)]
    try:
        leading = torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        raise InvalidArgument.of(
            "key.shape",
            "the leading dimensions of query, key and value do not broadcast: "
            + ", ".join(str(tuple(shape)) for shape in shapes)
            + ("" if enable_gqa else "; enable_gqa=True lets groups of heads share key and value"),
        ) from error
    query = query.expand(*leading, *heads_q, *query.shape[-2:])
    key = key.expand(*leading, *heads_kv, *key.shape[-2:])
    value = value.expand(*leading, *heads_kv, *value.shape[-2:])
    return (*leading, *heads_q), query, key, value


def _group(heads_q: int, heads_kv: int) -> int:
    if heads_kv == 0 or heads_q % heads_kv:
        raise InvalidArgument.of(
            "key.shape", f"{heads_kv} heads of key or value do not divide {heads_q} of query"
        )
    return heads_q // heads_kv


def _four_dimensional(tensor: Tensor) -> Tensor:
    """[..., heads, seq, dim] -> [batch, heads, seq, dim]; a copy only if strides demand it."""
    if tensor.dim() > 4:
        return tensor.flatten(0, -4)
    return tensor.reshape(*[1] * (4 - tensor.dim()), *tensor.shape)


def _four_dimensional_mask(mask: Tensor, leading: tuple[int, ...]) -> Tensor:
    """As `_four_dimensional`; a mask whose outer dimensions are missing or 1 stays as small."""
    if mask.dim() <= 4 and len(leading) <= 2:
        return mask
    if mask.dim() > 3 and any(extent != 1 for extent in mask.shape[:-3]):
        try:
            mask = mask.expand(*leading[:-1], *mask.shape[-3:])
        except RuntimeError as error:
            raise InvalidArgument.of(
                "attn_mask.shape",
                f"attn_mask is {tuple(mask.shape)}, must broadcast to the leading dimensions "
                f"{leading} of query, key and value",
            ) from error
        return mask.flatten(0, -4)
    return mask.reshape(mask.shape[-3:])


def _seed(chosen: int | None) -> Tensor:
    """int64 []; a tensor, so that vmap's `randomness` rules it."""
    if chosen is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)
    return torch.tensor(chosen - 2**64 if chosen >= 2**63 else chosen, dtype=torch.int64)
