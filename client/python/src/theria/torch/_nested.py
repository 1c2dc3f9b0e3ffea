"""Nested tensors of layout `torch.jagged` as packed sequences, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from theria._errors import InvalidArgument

__all__ = ["Packed", "is_jagged", "packed", "unpacked"]

Tensor = torch.Tensor


@dataclass(frozen=True)
class Packed:
    """Sequences one behind the other.

    Attributes:
        tensors: query, key and value, [1, heads, rows of all sequences, dim].
        cu_seqlens: Where the sequences of query and of key begin, int32.
        like: query as it was given.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    cu_seqlens: tuple[Tensor, Tensor]
    like: Tensor


def is_jagged(*tensors: object) -> bool:
    """Whether all are nested tensors of that layout."""
    return all(isinstance(x, Tensor) and x.is_nested and x.layout == torch.jagged for x in tensors)


def packed(query: Tensor, key: Tensor, value: Tensor) -> Packed:
    """[batch, heads, seq, dim] with a ragged seq, packed.

    Raises:
        InvalidArgument: Of other dimensions, or key and value of unequal lengths.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4 or tensor._ragged_idx != 2:  # type: ignore[attr-defined]
            raise InvalidArgument.of(
                f"{name}.shape",
                f"{name} is a nested tensor of {tensor.dim()} dimensions, must be "
                "[batch, heads, seq, dim] with seq ragged",
            )
    if key.size(2) != value.size(2) and not torch.equal(_offsets(key), _offsets(value)):
        raise InvalidArgument.of(
            "value.shape[-2]", "the lengths of value's sequences must equal those of key"
        )
    values = tuple(x.transpose(1, 2).values().transpose(0, 1)[None] for x in (query, key, value))
    starts = tuple(_offsets(x).to(torch.int32) for x in (query, key))
    return Packed((values[0], values[1], values[2]), (starts[0], starts[1]), query)


def unpacked(result: Tensor, sequences: Packed) -> Tensor:
    """[1, heads, rows, ...] as a nested tensor [batch, heads, seq, ...]."""
    rows = result[0].transpose(0, 1)
    like = sequences.like.transpose(1, 2)
    nested = torch.nested.nested_tensor_from_jagged(
        rows,
        offsets=_offsets(like),
        min_seqlen=like._get_min_seqlen(),  # type: ignore[attr-defined]
        max_seqlen=like._get_max_seqlen(),  # type: ignore[attr-defined]
    )
    return nested.transpose(1, 2)


def _offsets(nested: Tensor) -> Tensor:
    """Where the sequences begin."""
    found: Tensor = nested.offsets()  # type: ignore[attr-defined]
    return found
