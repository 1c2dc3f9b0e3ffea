"""`sdpa`: the arguments of PyTorch's function, brought to the four dimensions of the contract."""

from __future__ import annotations

import functools
from numbers import Real
from operator import index
from typing import Any

import torch

from theria._client_registry import DEFAULT, client_name, known_name
from theria._default_client import AttentionClient, chosen_client
from theria._errors import InvalidArgument, WrongType
from theria._options import (
    ALIGNMENTS,
    IMPLEMENTATIONS,
    PRECISIONS,
    Alignment,
    Implementation,
    Precision,
    choice,
)
from theria.torch._call import Options
from theria.torch._eager import EagerCall, eager_client, is_eager
from theria.torch._functions import call_eagerly
from theria.torch._nested import is_jagged, packed, unpacked
from theria.torch._operators import operator
from theria.torch._tensors import CausalBias, causal_offset, check_constant, check_tensor

__all__ = ["attend", "sdpa"]

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
    return_lse: bool = False,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    causal_alignment: Alignment = "upper_left",
    kv_lengths: Tensor | None = None,
    deterministic: bool = False,
) -> Any:  # a Tensor, or two with return_lse
    """Scaled dot-product attention on a Theria server, with exact first and second derivatives.

    Takes what `torch.nn.functional.scaled_dot_product_attention` takes, with the same meaning;
    beyond it, `is_causal` and `attn_mask` may be given together.

    Args:
        query: [..., heads_q, seq_q, head_dim]; float64, float32, float16 or bfloat16, any strides,
            any device. In process they are read where they are, on the CPU and on CUDA; a server's
            client copies those of other devices through host memory.
        key: [..., heads_kv, seq_kv, head_dim], of the same dtype.
        value: [..., heads_kv, seq_kv, head_dim_v], of the same dtype. Leading dimensions broadcast,
            and may be missing altogether ([seq, dim]). All three may be nested tensors of layout
            `torch.jagged`, [batch, heads, seq, dim] with seq ragged: each sequence by itself.
        attn_mask: bool (true takes part) or floating point (added to the scores), broadcast to
            [..., heads_q, seq_q, seq_kv]. The latter is differentiated as the others are, in its
            own shape. Or what `torch.nn.attention.bias.causal_upper_left` and `causal_lower_right`
            return.
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
        return_lse: Whether to return lse too, which is differentiable as o is.
        softcap: The cap c > 0 of the scores, c tanh(score / c), before the mask is added.
        alibi_slopes: [heads_q] or [batch, heads_q], floating point, a constant: adds
            -slope * |i - j| to the scores.
        causal_alignment: The position of row i for `is_causal`, `window` and ALiBi:
            "upper_left" is i, "lower_right" is i + seq_kv - seq_q.
        kv_lengths: int32 [batch]: key j takes part only if j < kv_lengths[b].
        deterministic: Whether equal calls give equal bits, in derivatives too.
            `torch.use_deterministic_algorithms(True)` asks for it as well.

    Returns:
        o, [..., heads_q, seq_q, head_dim_v]. Rows that see no key are zero. With `return_lse` also
        the natural log of the sum of exponentials of each row's scores, [..., heads_q, seq_q]:
        float64 for float64 inputs, else float32; -inf for rows that see no key.

    Raises:
        theria.InvalidArgument: The leading dimensions do not broadcast, grouped heads do not
            divide, `is_causal` comes with a causal bias, or what the server finds; `.field` names
            an argument, such as ``key.shape[-1]``.
        theria.WrongType: An argument is no tensor or number, or a tensor of a kind that is not
            supported: nested but not jagged, sparse, quantised, or a subclass that is more than
            its elements.
        DerivativeOrderError: On differentiating thrice, or forward over forward.
        NoClientError: No client given and no default.
        theria.Error: Any other error of the client or the server.
    """
    sequences = cu_seqlens = None
    if getattr(query, "is_nested", False) and is_jagged(query, key, value):
        if attn_mask is not None or kv_lengths is not None:
            name = "kv_lengths" if attn_mask is None else "attn_mask"
            raise InvalidArgument.of(name, f"{name} is given, must be None with nested tensors")
        sequences = packed(query, key, value)
        query, key, value = sequences.tensors
        cu_seqlens = sequences.cu_seqlens
    o, lse = attend(
        query,
        key,
        value,
        attn_mask,
        cu_seqlens=cu_seqlens,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
        client=client,
        implementation=implementation,
        precision=precision,
        window=window,
        dropout_seed=dropout_seed,
        dropout_offset=dropout_offset,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        causal_alignment=causal_alignment,
        kv_lengths=kv_lengths,
        deterministic=deterministic,
    )
    if sequences is not None:
        o, lse = unpacked(o, sequences), unpacked(lse, sequences)
    return (o, lse) if return_lse else o


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | CausalBias | None = None,
    *,
    cu_seqlens: tuple[Tensor, Tensor] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    client: AttentionClient | None = None,
    implementation: Implementation = "auto",
    precision: Precision = "strict",
    window: tuple[int | None, int | None] | None = None,
    dropout_seed: int | None = None,
    dropout_offset: int = 0,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    causal_alignment: Alignment = "upper_left",
    kv_lengths: Tensor | None = None,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor]:
    """`sdpa` of dense tensors, which `cu_seqlens` may divide into documents: o and lse."""
    is_bias = isinstance(attn_mask, CausalBias)
    starts_q, starts_kv = cu_seqlens or (None, None)
    constants = (alibi_slopes, kv_lengths, starts_q, starts_kv)
    is_plain = is_eager((query, key, value, None if is_bias else attn_mask, *constants))
    if not is_plain:
        check_tensor("query", query)
        check_tensor("key", key)
        check_tensor("value", value)
    if attn_mask is not None and not is_bias:
        check_tensor("attn_mask", attn_mask)
    if alibi_slopes is not None:
        check_constant("alibi_slopes", alibi_slopes)
    if kv_lengths is not None:
        check_constant("kv_lengths", kv_lengths)
    _check_numbers(scale, dropout_p, softcap)
    left, right = (None, None) if window is None else _sides(window)
    if not is_plain or torch._C._is_any_autocast_enabled():
        query, key, value = _autocast(query, key, value)
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise InvalidArgument.of(
            "query.shape", "query, key and value need at least the dimensions [seq, dim]"
        )
    if isinstance(attn_mask, CausalBias):
        if is_causal:
            raise InvalidArgument.of(
                "is_causal", "is_causal is True, must be False with a CausalBias as attn_mask"
            )
        attn_mask, is_causal, right, causal_alignment = _understood(
            attn_mask,
            query,
            key,
            right,
            causal_alignment,
            has_positions=left is not None or right is not None or alibi_slopes is not None,
        )
    leading: tuple[int, ...] = query.shape[:2]
    if not (
        is_plain
        and query.dim() == key.dim() == value.dim() == 4
        and leading == key.shape[:2] == value.shape[:2]
    ):
        leading, query, key, value = _broadcast_leading(query, key, value, enable_gqa)
        query, key, value = map(_four_dimensional, (query, key, value))
    seed = _seed(dropout_seed) if dropout_p > 0.0 else None
    mask = None if attn_mask is None else _four_dimensional_mask(attn_mask, leading)
    arguments = query, key, value, mask, seed, *constants
    made = _seen_options if is_plain else _options
    options = made(
        scale,
        is_causal,
        left,
        right,
        dropout_p,
        dropout_offset,
        implementation,
        precision,
        softcap,
        causal_alignment,
        deterministic or torch.are_deterministic_algorithms_enabled(),
    )
    results = _eagerly(client, arguments, options) if is_plain else None
    if results is None:
        results = operator("forward")(*arguments, **options.of_operator(_client(client)))
    o, lse = results
    if len(leading) == 2:
        return o, lse
    # No view: torch.compile's guard against double backward does not see through views.
    unflattened = torch.ops.aten._unsafe_view
    return (
        unflattened(o, [*leading, *o.shape[-2:]]),
        unflattened(lse, [*leading, lse.shape[-1]]),
    )


def _eagerly(
    client: AttentionClient | None, arguments: tuple[Any, ...], options: Options
) -> tuple[Tensor, Tensor] | None:
    """Past the dispatcher; None if the client does not compute here on these tensors."""
    local = eager_client(client)
    runner = None if local is None else local.runner_of_torch(arguments[0])
    if local is None or runner is None:
        return None
    o, lse = call_eagerly(EagerCall(local, options, runner), "forward", arguments)
    return o, lse


def _options(
    scale: float | None,
    is_causal: bool,
    window_left: int | None,
    window_right: int | None,
    dropout_p: float,
    dropout_offset: int,
    implementation: Implementation,
    precision: Precision,
    softcap: float | None,
    causal_alignment: Alignment,
    deterministic: bool,
) -> Options:
    choice(IMPLEMENTATIONS, implementation, "implementation")
    choice(PRECISIONS, precision, "precision")
    choice(ALIGNMENTS, causal_alignment, "causal_alignment")
    return Options(
        scale=None if scale is None else float(scale),
        is_causal=bool(is_causal),
        window_left=window_left,
        window_right=window_right,
        dropout_p=float(dropout_p),
        dropout_offset=_signed(dropout_offset),
        implementation=implementation,
        precision=precision,
        softcap=None if softcap is None else float(softcap),
        causal_alignment=causal_alignment,
        deterministic=bool(deterministic),
    )


_seen_options = functools.lru_cache(maxsize=256)(_options)


def _client(client: AttentionClient | None) -> str:
    """Its name for the operators."""
    if not torch.compiler.is_compiling():
        return client_name(chosen_client(client))
    if client is None:
        return DEFAULT  # whichever it is when the compiled code runs
    name = known_name(client)
    if name is None:
        torch._dynamo.graph_break(
            "torch.compile meets this client for the first time: call sdpa with it once before "
            "compiling, use theria.torch.patch(client=...), or set_default_client(client)"
        )
        name = client_name(chosen_client(client))
    return name


def _understood(
    bias: CausalBias,
    query: Tensor,
    key: Tensor,
    right: int | None,
    alignment: Alignment,
    *,
    has_positions: bool,
) -> tuple[Tensor | None, bool, int | None, Alignment]:
    """A mask, `is_causal`, the window's right side and the alignment that together are `bias`."""
    seq_q, seq_kv = query.size(-2), key.size(-2)
    offset = causal_offset(bias, seq_q, seq_kv)
    of_bias: Alignment = "upper_left" if offset == 0 else "lower_right"
    if of_bias == alignment or seq_q == seq_kv or not has_positions:
        return None, True, right, of_bias
    # Window and ALiBi keep their own alignment, so that the bias needs a form without one.
    if offset > 0 and alignment == "upper_left":
        return None, False, offset if right is None else min(offset, right), alignment
    keep = torch.ones(seq_q, seq_kv, dtype=torch.bool, device=query.device)
    return keep.tril(offset), False, right, alignment


def _check_numbers(scale: object, dropout_p: object, softcap: object) -> None:
    """Refuses what would lose a gradient, or be taken for another number, without a word."""
    if scale is None and softcap is None and type(dropout_p) is float and 0.0 <= dropout_p < 1.0:
        return
    if isinstance(scale, Tensor):
        raise WrongType.of(
            "scale", "scale is a tensor, must be a number: multiply query by one that is learned"
        )
    for name, number in (("scale", scale), ("softcap", softcap)):
        if number is not None and not isinstance(number, Real):
            raise WrongType.of(name, f"{name} is {number!r}, must be a number")
    if not isinstance(dropout_p, Real) or not 0.0 <= float(dropout_p) < 1.0:
        raise InvalidArgument.of("dropout_p", f"dropout_p is {dropout_p!r}, must be in [0, 1)")


def _autocast(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under `torch.autocast`, the dtype that PyTorch's own attention would be run in."""
    device = query.device.type
    if device == "meta" or query.dtype == torch.float64:
        return query, key, value
    if torch.is_autocast_enabled(device):
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
        # Equal shapes skip PyTorch's function, which takes longer than a small attention.
        alike = shapes[0] == shapes[1] == shapes[2]
        leading = tuple(shapes[0]) if alike else torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        raise InvalidArgument.of(
            "key.shape",
            "the leading dimensions of query, key and value do not broadcast: "
            + ", ".join(str(tuple(shape)) for shape in shapes)
            + ("" if enable_gqa else "; enable_gqa=True lets groups of heads share key and value"),
        ) from error
    query = _expanded(query, (*leading, *heads_q))
    key = _expanded(key, (*leading, *heads_kv))
    value = _expanded(value, (*leading, *heads_kv))
    return (*leading, *heads_q), query, key, value


def _expanded(tensor: Tensor, leading: tuple[int, ...]) -> Tensor:
    """Untouched where nothing is to do, so that `torch.jit.trace` records no extents."""
    if tuple(tensor.shape[:-2]) == leading:
        return tensor
    return tensor.expand(*leading, *tensor.shape[-2:])


def _group(heads_q: int, heads_kv: int) -> int:
    if heads_q == heads_kv:
        return 1
    if heads_kv == 0 or heads_q % heads_kv:
        raise InvalidArgument.of(
            "key.shape", f"{heads_kv} heads of key or value do not divide {heads_q} of query"
        )
    return heads_q // heads_kv


def _four_dimensional(tensor: Tensor) -> Tensor:
    """[..., heads, seq, dim] -> [batch, heads, seq, dim]; a copy only if strides demand it."""
    if tensor.dim() == 4:
        return tensor
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


def _sides(window: tuple[int | None, int | None] | None) -> tuple[int | None, int | None]:
    if window is None:
        return None, None
    try:
        left, right = window
        return None if left is None else index(left), None if right is None else index(right)
    except (TypeError, ValueError) as error:
        raise WrongType.of("window", f"window is {window!r}, must be (left, right)") from error


def _seed(chosen: int | None) -> Tensor:
    """int64 []; a tensor, so that vmap's `randomness` rules it."""
    if chosen is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)
    return torch.tensor(_signed(chosen), dtype=torch.int64)


def _signed(number: int) -> int:
    """The 64 bits of an unsigned number as a signed one."""
    return number - 2**64 if number >= 2**63 else number
