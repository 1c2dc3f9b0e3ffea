"""`sdpa_varlen`: packed sequences with the arguments of `flash_attn_varlen_func`."""

from __future__ import annotations

from typing import Any

import torch

from theria._default_client import AttentionClient
from theria._errors import InvalidArgument
from theria._options import Implementation, Precision
from theria.torch._sdpa import attend
from theria.torch._tensors import check_constant, check_tensor

__all__ = ["sdpa_varlen"]

Tensor = torch.Tensor


def sdpa_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    client: AttentionClient | None = None,
    implementation: Implementation = "auto",
    precision: Precision = "strict",
    dropout_seed: int | None = None,
) -> Any:  # a Tensor, or three with return_attn_probs
    """Attention of sequences packed one behind the other, with exact first and second derivatives.

    Takes what `flash_attn.flash_attn_varlen_func` takes, with the same meaning: `causal`, the
    window and ALiBi are aligned to the last row and key of each sequence.

    Args:
        q: [rows of all sequences, heads_q, head_dim].
        k: [keys of all sequences, heads_kv, head_dim]; heads_kv divides heads_q.
        v: [keys of all sequences, heads_kv, head_dim_v].
        cu_seqlens_q: int32 [sequences + 1]: where each sequence's rows begin, and at last their
            number.
        cu_seqlens_k: The same of keys.
        max_seqlen_q: Not needed.
        max_seqlen_k: Not needed.
        dropout_p: As for `sdpa`.
        softmax_scale: Factor of the scores; default 1/sqrt(head_dim).
        causal: Whether a row sees no later key.
        window_size: (left, right): how many keys before and after its own place a row sees; -1 for
            all.
        softcap: The cap of the scores; 0 for none.
        alibi_slopes: [heads_q], floating point, a constant.
        deterministic: Whether equal calls give equal bits.
        return_attn_probs: Whether to return (o, lse, None) instead of o. lse, [heads_q, rows], is
            differentiable.
        block_table: None: keys in pages are not supported.
        client: As for `sdpa`.
        implementation: As for `sdpa`.
        precision: As for `sdpa`.
        dropout_seed: As for `sdpa`.

    Returns:
        o, [rows of all sequences, heads_q, head_dim_v].

    Raises:
        theria.Error: As `sdpa`.
    """
    del max_seqlen_q, max_seqlen_k
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor)
        if tensor.dim() != 3:
            raise InvalidArgument.of(
                f"{name}.shape", f"{name} is {tuple(tensor.shape)}, must be [rows, heads, dim]"
            )
    check_constant("cu_seqlens_q", cu_seqlens_q)
    check_constant("cu_seqlens_k", cu_seqlens_k)
    if block_table is not None:
        raise InvalidArgument.of("block_table", "block_table is given, must be None")
    if alibi_slopes is not None and alibi_slopes.dim() != 1:
        raise InvalidArgument.of(
            "alibi_slopes.shape",
            f"alibi_slopes is {tuple(alibi_slopes.shape)}, must be [heads_q]: all sequences have "
            "the same slopes",
        )
    sides = [None if size < 0 else size for size in window_size]
    o, lse = attend(
        *(x.transpose(0, 1)[None] for x in (q, k, v)),
        cu_seqlens=(cu_seqlens_q.to(torch.int32), cu_seqlens_k.to(torch.int32)),
        dropout_p=dropout_p,
        is_causal=causal,
        scale=softmax_scale,
        enable_gqa=True,
        client=client,
        implementation=implementation,
        precision=precision,
        window=None if sides == [None, None] else (sides[0], sides[1]),
        dropout_seed=dropout_seed,
        softcap=softcap or None,
        alibi_slopes=alibi_slopes,
        causal_alignment="lower_right",
        deterministic=deterministic,
    )
    o = o[0].transpose(0, 1)
    return (o, lse[0], None) if return_attn_probs else o
