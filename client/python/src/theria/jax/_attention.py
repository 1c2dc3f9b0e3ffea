"""`dot_product_attention`: the arguments of JAX's function, brought to those of the contract."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from theria._default_client import AttentionClient, chosen_client
from theria._errors import InvalidArgument
from theria._options import Alignment, CallOptions, Implementation, Precision
from theria.jax._primitives import forward
from theria.jax._site import Site

__all__ = ["dot_product_attention"]


def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int | None, int | None] | None = None,
    implementation: Implementation | None = None,
    return_residual: bool = False,
    client: AttentionClient | None = None,
    precision: Precision = "strict",
    dropout_rate: float = 0.0,
    dropout_key: ArrayLike | None = None,
    softcap: float | None = None,
    alibi_slopes: ArrayLike | None = None,
    causal_alignment: Alignment = "upper_left",
    kv_lengths: ArrayLike | None = None,
    deterministic: bool = False,
) -> Any:  # as of JAX's own: an array, or two with return_residual
    """Scaled dot-product attention on a Theria server, with exact first and second derivatives.

    Takes what `jax.nn.dot_product_attention` takes, in its layout and with its meaning, but for
    these differences: float64 is computed in float64 (JAX's softmax is always float32), a row
    whose mask forbids every key gives 0 (JAX's the mean of all values), value's last dimension may
    differ from key's, the log-sum-exp has derivatives, `scale` is a constant, and `implementation`
    names ours. B is the batch, T and
    S the lengths of query and key, N the heads of query, K those of key (N a multiple of K), H and
    V the dimensions of a head.

    Args:
        query: [B, T, N, H], or [T, N, H]; float64, float32, float16 or bfloat16.
        key: [B, S, K, H], or [S, K, H], of the same dtype.
        value: [B, S, K, V], or [S, K, V], of the same dtype.
        bias: Added to the scaled scores; broadcasts to [B, N, T, S]. Differentiable.
        mask: bool, true takes part; broadcasts to [B, N, T, S].
        scale: Factor of the scores; default 1/sqrt(H). A number, not a traced value: a
            temperature that is learned multiplies `query`.
        is_causal: Key j takes part in row i only if j <= i.
        query_seq_lengths: int [B]; later rows of query give 0.
        key_value_seq_lengths: int [B]; later keys take no part.
        local_window_size: (left, right): key j takes part in row i only if
            i - left <= j <= i + right; one int for both sides, a None is unbounded.
        implementation: "auto" (default), "fused", "unfused" or "reference".
        return_residual: Whether to return the log-sum-exp too. It is differentiable.
        client: Default: that of `theria.jax.default_client()`.
        precision: "strict" or "fast".
        dropout_rate: Probability in [0, 1) of dropping an attention weight.
        dropout_key: Of `jax.random`; needed for dropout_rate > 0. All derivatives see one draw.
        softcap: The cap c > 0 of the scores, c tanh(score / c), before bias is added. A number.
        alibi_slopes: [N] or [B, N], floating point, a constant: adds -slope * |i - j| to the
            scores.
        causal_alignment: The position of row i for `is_causal`, `local_window_size` and
            `alibi_slopes`: "upper_left" is i, "lower_right" is i + S - T.
        kv_lengths: Another name of `key_value_seq_lengths`, that of the other clients.
        deterministic: Whether equal calls give equal bits.

    Returns:
        o, [B, T, N, V] or [T, N, V]; with `return_residual` also lse, [B, T, N] or [T, N]; both of
        query's dtype.

    Raises:
        theria.InvalidArgument: Shapes or dtypes do not fit, or what the server finds.
        DerivativeOrderError: On differentiating thrice, or forward over forward.
        NoClientError: No client given and no default.
        theria.Error: Any other error of the client or the server.
    """
    chosen_client(client)  # its absence is found here, not in a compiled function
    q, k, v = (_four_dimensional(jnp.asarray(x)) for x in (query, key, value))
    _check(q, k, v)
    options = CallOptions(
        is_causal=is_causal,
        scale=_number("scale", scale, "multiply query by one that is traced or learned"),
        window=_window(local_window_size),
        softcap=_number("softcap", softcap, "one that is traced or learned is not supported"),
        causal_alignment=causal_alignment,
        deterministic=deterministic,
        implementation=implementation or "auto",
        precision=precision,
    )
    if kv_lengths is not None:
        if key_value_seq_lengths is not None:
            raise InvalidArgument.of(
                "kv_lengths", "kv_lengths is given, must be absent beside key_value_seq_lengths"
            )
        key_value_seq_lengths = kv_lengths
    restriction = _mask(q, k, bias, mask, query_seq_lengths)
    tensors = {
        "mask": restriction,
        "alibi_slopes": _slopes(q, alibi_slopes),
        "kv_lengths": _lengths(k, key_value_seq_lengths),
    }
    given = {name: x for name, x in tensors.items() if x is not None}
    if dropout_rate > 0.0:
        if dropout_key is None:
            raise InvalidArgument.of("dropout_key", "dropout_rate > 0 needs a dropout_key")
        options["dropout_p"] = dropout_rate
        options["dropout_offset"] = 0
        given["seed"] = jax.random.bits(dropout_key, (2,), jnp.uint32)
    site = Site(client, options, tuple(given))
    o, lse = forward(site, *(x.swapaxes(1, 2) for x in (q, k, v)), *given.values())
    outputs = o.swapaxes(1, 2), lse.swapaxes(1, 2).astype(o.dtype)
    if jnp.ndim(query) == 3:
        outputs = outputs[0][0], outputs[1][0]
    return outputs if return_residual else outputs[0]


def _four_dimensional(array: jax.Array) -> jax.Array:
    return array[None] if array.ndim == 3 else array


def _check(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    """What the shapes of the outputs depend on; the server checks the rest."""
    for name, array in (("query", q), ("key", k), ("value", v)):
        if array.ndim != 4:
            raise InvalidArgument.of(
                f"{name}.shape", f"{name} is {array.shape}, must be [B, T, N, H] or [T, N, H]"
            )
        if array.dtype != q.dtype:
            raise InvalidArgument.of(
                f"{name}.dtype", f"{name} is {array.dtype}, must be {q.dtype} as query"
            )
    if k.shape != (q.shape[0], k.shape[1], k.shape[2], q.shape[3]) or q.shape[2] % max(
        k.shape[2], 1
    ):
        raise InvalidArgument.of(
            "key.shape",
            f"key is {k.shape}, must be [{q.shape[0]}, S, K, {q.shape[3]}] with K a divisor of "
            f"{q.shape[2]}",
        )
    if v.shape[:3] != k.shape[:3]:
        raise InvalidArgument.of(
            "value.shape", f"value is {v.shape}, must be {k.shape[:3]} and a dimension of its own"
        )


def _number(name: str, value: object, advice: str) -> float | None:
    if value is None:
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # whatever is no number is refused
    except (TypeError, ValueError) as error:  # a traced value raises a TypeError
        raise InvalidArgument.of(
            name, f"{name} is {value!r}, must be a number; {advice}"
        ) from error


def _window(
    size: int | tuple[int | None, int | None] | None,
) -> tuple[int | None, int | None] | None:
    return (size, size) if isinstance(size, int) else size


def _slopes(q: jax.Array, slopes: ArrayLike | None) -> jax.Array | None:
    if slopes is None:
        return None
    array = jnp.asarray(slopes)
    batch, heads = q.shape[0], q.shape[2]
    if array.shape not in ((heads,), (batch, heads)):
        raise InvalidArgument.of(
            "alibi_slopes.shape",
            f"alibi_slopes is {array.shape}, must be ({heads},) or ({batch}, {heads})",
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InvalidArgument.of(
            "alibi_slopes.dtype", f"alibi_slopes is {array.dtype}, must be floating point"
        )
    return array


def _lengths(k: jax.Array, lengths: ArrayLike | None) -> jax.Array | None:
    """int32 [B], within [0, S]."""
    if lengths is None:
        return None
    array = jnp.asarray(lengths)
    _check_broadcast("key_value_seq_lengths", array.shape, k.shape[:1])
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InvalidArgument.of(
            "key_value_seq_lengths.dtype",
            f"key_value_seq_lengths is {array.dtype}, must be of integers",
        )
    clipped = jnp.clip(array, 0, k.shape[1]).astype(jnp.int32)
    return jnp.broadcast_to(clipped, k.shape[:1])


def _mask(
    q: jax.Array,
    k: jax.Array,
    bias: ArrayLike | None,
    mask: ArrayLike | None,
    query_lengths: ArrayLike | None,
) -> jax.Array | None:
    """Mask, rows and bias as one array that broadcasts to [B, N, T, S], or None."""
    scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    for name, given, shape in (
        ("bias", bias, scores),
        ("mask", mask, scores),
        ("query_seq_lengths", query_lengths, scores[:1]),
    ):
        if given is not None:
            _check_broadcast(name, jnp.shape(given), shape)
    combined = None
    if mask is not None:
        array = jnp.asarray(mask)
        if array.dtype != bool:
            raise InvalidArgument.of(
                "mask.dtype", f"mask is {array.dtype}, must be bool; what is added is bias"
            )
        combined = _aligned(array)
    if query_lengths is not None:
        rows = jnp.arange(q.shape[1])[None, None, :, None]
        allowed = rows < jnp.reshape(query_lengths, (-1, 1, 1, 1))
        combined = allowed if combined is None else combined & allowed
    if bias is None:
        return combined
    added = _aligned(jnp.asarray(bias))
    if not jnp.issubdtype(added.dtype, jnp.floating):
        added = added.astype(q.dtype)
    return added if combined is None else jnp.where(combined, added, -jnp.inf)


def _check_broadcast(name: str, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    aligned = (1,) * (len(target) - len(shape)) + shape
    if len(aligned) > len(target) or any(
        extent not in (1, wanted) for extent, wanted in zip(aligned, target, strict=True)
    ):
        raise InvalidArgument.of(f"{name}.shape", f"{name} is {shape}, must broadcast to {target}")


def _aligned(array: jax.Array) -> jax.Array:
    return array.reshape(*[1] * (4 - array.ndim), *array.shape)
