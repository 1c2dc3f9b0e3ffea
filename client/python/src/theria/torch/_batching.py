"""`torch.func.vmap` of attention: the mapped dimension becomes part of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

__all__ = ["fold_and_apply", "loop_and_apply"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None
Apply = Callable[..., tuple[Tensor, ...]]


def fold_and_apply(
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


def loop_and_apply(
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
