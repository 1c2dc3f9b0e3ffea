"""vmap of attention: the mapped dimension becomes part of the batch.

PyTorch has two. That of `torch.func` brings mapped tensors to `Function.vmap`, by their dimensions.
The older one, behind `is_grads_batched=True` and `jacobian(..., vectorize=True)`, knows nothing of
functions with rules of their own: its tensors are taken apart before and put together after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

__all__ = ["is_legacy_batched", "map_and_apply", "map_legacy"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None
Apply = Callable[..., tuple[Tensor, ...]]

_LEGACY_LEVELS = 64  # as many as PyTorch has


def map_and_apply(
    apply: Apply, size: int, in_dims: Sequence[int | None], operands: Sequence[MaybeTensor]
) -> tuple[Tensor, ...]:
    """`apply(mask, seed, *tensors)` over a mapped dimension, which the outputs have at 0.

    Args:
        apply: An operation on tensors [batch, ...].
        size: Extent of the mapped dimension.
        in_dims: The mapped dimension of each operand; None where it has none.
        operands: mask, seed, then the tensors; a None is passed on.
    """
    mask, seed, *tensors = operands
    if seed is not None:
        return _loop_and_apply(apply, size, in_dims, operands)
    return _fold_and_apply(apply, size, (in_dims[0], *in_dims[2:]), mask, tensors)


def is_legacy_batched(tensor: MaybeTensor) -> bool:
    """Whether it comes from the older vmap."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def map_legacy(apply: Apply, operands: Sequence[MaybeTensor]) -> tuple[Tensor, ...]:
    """As `map_and_apply`, where the mapped dimension is that of the older vmap.

    Args:
        apply: As for `map_and_apply`; called again with what is mapped at further levels.
        operands: As for `map_and_apply`; one `is_legacy_batched` at least.
    """
    level = next(
        level
        for level in range(1, _LEGACY_LEVELS + 1)
        if any(_has_level(operand, level) for operand in operands)
    )
    in_dims = [0 if _has_level(operand, level) else None for operand in operands]
    plain = [
        operand if operand is None or dim is None else torch._remove_batch_dim(operand, level, 1, 0)
        for operand, dim in zip(operands, in_dims, strict=True)
    ]
    size = next(
        x.size(0) for x, dim in zip(plain, in_dims, strict=True) if x is not None and dim == 0
    )
    outputs = map_and_apply(apply, size, in_dims, plain)
    return tuple(torch._add_batch_dim(output, 0, level) for output in outputs)


def _has_level(tensor: MaybeTensor, level: int) -> bool:
    """Whether that level of the older vmap maps it: one that it does not map takes any extent."""
    if tensor is None or not is_legacy_batched(tensor):
        return False
    extents = [torch._remove_batch_dim(tensor, level, extent, 0).size(0) for extent in (1, 2)]
    return extents[0] == extents[1]


def _fold_and_apply(
    apply: Apply,
    size: int,
    in_dims: Sequence[int | None],
    mask: MaybeTensor,
    tensors: Sequence[MaybeTensor],
) -> tuple[Tensor, ...]:
    """Calls `apply(mask, None, *tensors)` once with a batch that is `size` times as large.

    Args:
        apply: An operation on tensors [batch, ...].
        size: Extent of the mapped dimension.
        in_dims: The mapped dimension of mask and of each tensor; None where it has none.
        mask: As the operation takes it, or None.
        tensors: [batch, ...] apart from the mapped dimension; a None is passed on.

    Returns:
        The outputs, mapped at dimension 0. Unmapped inputs are repeated without a copy where the
        batch is 1.
    """
    batch = next(
        tensor.size(0) if dim is None else tensor.movedim(dim, 0).size(1)
        for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        if tensor is not None
    )
    folded = [_fold(tensor, dim, size) for tensor, dim in zip(tensors, in_dims[1:], strict=True)]
    outputs = apply(_fold_mask(mask, in_dims[0], size, batch), None, *folded)
    return tuple(output.unflatten(0, (size, batch)) for output in outputs)


def _loop_and_apply(
    apply: Apply,
    size: int,
    in_dims: Sequence[int | None],
    operands: Sequence[MaybeTensor],
) -> tuple[Tensor, ...]:
    """Calls `apply` for each element of the mapped dimension and stacks the outputs.

    Dropout needs this: what is dropped depends on an element's place in the batch, which folding
    would change.
    """

    def element(operand: MaybeTensor, dim: int | None, index: int) -> MaybeTensor:
        return operand if operand is None or dim is None else operand.select(dim, index)

    results = [
        apply(*(element(x, dim, index) for x, dim in zip(operands, in_dims, strict=True)))
        for index in range(size)
    ]
    return tuple(torch.stack(column) for column in zip(*results, strict=True))


def _fold(tensor: MaybeTensor, dim: int | None, size: int) -> MaybeTensor:
    if tensor is None:
        return None
    if dim is None:
        return tensor.expand(size, *tensor.shape).flatten(0, 1)
    return tensor.movedim(dim, 0).flatten(0, 1)


def _fold_mask(mask: MaybeTensor, dim: int | None, size: int, batch: int) -> MaybeTensor:
    if mask is None:
        return None
    if dim is None:
        broadcasts = mask.dim() < 4 or mask.size(0) == 1
        return mask if broadcasts else _fold(mask, None, size)
    mask = mask.movedim(dim, 0)
    mask = mask.reshape(size, *[1] * (5 - mask.dim()), *mask.shape[1:])
    return mask.expand(size, batch, *mask.shape[2:]).flatten(0, 1)
