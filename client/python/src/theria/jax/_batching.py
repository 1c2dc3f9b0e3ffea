"""The rule of vmap: the mapped dimension becomes part of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["batched"]

# Of the bias's shape, and without a size of their own: their batch may be 1.
_BIASES = ("mask", "bias_dot")


def batched(
    apply: Callable[[Sequence[Any]], Sequence[Any]],
    layout: Sequence[str],
    outputs: Sequence[str],
    operands: Sequence[Any],
    dims: Sequence[int | None],
) -> tuple[list[Any], list[int]]:
    """The results of `apply` for every element, and their mapped dimensions.

    What dropout drops depends on an element's place in the batch: there, one call an element.

    Args:
        apply: A primitive.
        layout: Names of its operands.
        outputs: Names of its results.
        operands: Some of them with a mapped dimension.
        dims: Which that is, or None.
    """
    moved = [
        operand if dim is None else jnp.moveaxis(operand, dim, 0)
        for operand, dim in zip(operands, dims, strict=True)
    ]
    mapped = [dim is not None for dim in dims]
    if "seed" in layout:
        each: Sequence[Any] = jax.lax.map(
            lambda elements: apply(_merge(mapped, elements, moved)),
            [operand for operand, is_mapped in zip(moved, mapped, strict=True) if is_mapped],
        )
        return list(each), [0] * len(each)
    size = next(operand.shape[0] for operand, m in zip(moved, mapped, strict=True) if m)
    extent = moved[0].shape[1 if mapped[0] else 0]
    # One bias serves all elements, unless they have their own tangents or cotangents of it.
    is_shared = not any(name.startswith("bias") for name in outputs) and not any(
        is_mapped for name, is_mapped in zip(layout, mapped, strict=True) if name in _BIASES
    )
    folded, bias_batch = [], extent
    for name, operand, is_mapped in zip(layout, moved, mapped, strict=True):
        own = operand.shape[1:] if is_mapped else operand.shape
        if name == "mask":
            bias_batch = own[0]
        keeps = (name in _BIASES and is_shared and own[0] == 1) or (
            name == "alibi_slopes" and not is_mapped and len(own) == 1
        )
        folded.append(operand if keeps else _fold(operand, is_mapped, size, extent, name))
    results = [x.reshape(size, extent, *x.shape[1:]) for x in apply(folded)]
    return [
        x.sum(1, keepdims=True) if name.startswith("bias") and bias_batch != extent else x
        for name, x in zip(outputs, results, strict=True)
    ], [0] * len(results)


def _merge(mapped: Sequence[bool], elements: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """`others`, where mapped replaced by the elements one after the other."""
    remaining = iter(elements)
    return [
        next(remaining) if is_mapped else other
        for is_mapped, other in zip(mapped, others, strict=True)
    ]


def _fold(operand: Any, is_mapped: bool, size: int, extent: int, name: str) -> Any:
    """[size, batch, ...] or [batch, ...] -> [size * extent, ...], where batch is extent or 1."""
    if not is_mapped:
        operand = jnp.broadcast_to(operand, (size, *operand.shape))
    if name == "alibi_slopes" and operand.ndim == 2:
        operand = operand[:, None]
    rest = operand.shape[2:]
    return jnp.broadcast_to(operand, (size, extent, *rest)).reshape(size * extent, *rest)
