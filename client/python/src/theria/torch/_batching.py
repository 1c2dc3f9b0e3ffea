"""vmap of attention: the mapped dimension becomes part of the batch.

PyTorch has two. That of `torch.func` brings mapped tensors to `Function.vmap`, by their dimensions.
The older one, behind `is_grads_batched=True` and `jacobian(..., vectorize=True)`, knows nothing of
functions with rules of their own: its tensors are taken apart before and put together after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

__all__ = ["is_legacy_batched", "map_and_apply", "map_legacy"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None
Apply = Callable[[dict[str, MaybeTensor]], tuple[Tensor, ...]]
# Tensors with which calls are not put together.
_OF_ONE_CALL = ("seed", "cu_seqlens_q", "bias_dot")

_LEGACY_LEVELS = 64  # as many as PyTorch has


def map_and_apply(
    apply: Apply,
    size: int,
    in_dims: Mapping[str, int | None],
    operands: Mapping[str, MaybeTensor],
    *,
    takes_apart: bool,
) -> tuple[Tensor, ...]:
    """`apply(operands)` over a mapped dimension, which the outputs have at 0.

    Args:
        apply: An operation on tensors [batch, ...] by name.
        size: Extent of the mapped dimension.
        in_dims: The mapped dimension of each operand; None where it has none.
        operands: The tensors; a None is passed on.
        takes_apart: Whether to call once for each element of the mapped dimension.
    """
    if takes_apart or any(operands.get(name) is not None for name in _OF_ONE_CALL):
        return _loop_and_apply(apply, size, in_dims, operands)
    return _fold_and_apply(apply, size, in_dims, operands)


def is_legacy_batched(tensor: MaybeTensor) -> bool:
    """Whether it comes from the older vmap."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def map_legacy(
    apply: Apply, operands: Mapping[str, MaybeTensor], *, takes_apart: bool
) -> tuple[Tensor, ...]:
    """As `map_and_apply`, where the mapped dimension is that of the older vmap.

    Args:
        apply: As for `map_and_apply`; called again with what is mapped at further levels.
        operands: As for `map_and_apply`; one `is_legacy_batched` at least.
        takes_apart: As for `map_and_apply`.
    """
    level = next(
        level
        for level in range(1, _LEGACY_LEVELS + 1)
        if any(_has_level(operand, level) for operand in operands.values())
    )
    in_dims = {name: 0 if _has_level(x, level) else None for name, x in operands.items()}
    plain = {
        name: x if x is None or in_dims[name] is None else torch._remove_batch_dim(x, level, 1, 0)
        for name, x in operands.items()
    }
    size = next(x.size(0) for name, x in plain.items() if x is not None and in_dims[name] == 0)
    outputs = map_and_apply(apply, size, in_dims, plain, takes_apart=takes_apart)
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
    in_dims: Mapping[str, int | None],
    operands: Mapping[str, MaybeTensor],
) -> tuple[Tensor, ...]:
    """Calls `apply` once with a batch that is `size` times as large.

    Unmapped inputs are repeated without a copy where the batch is 1.
    """
    q, q_dim = operands["q"], in_dims["q"]
    assert q is not None
    batch = q.size(0) if q_dim is None else q.movedim(q_dim, 0).size(1)
    folded: dict[str, MaybeTensor] = {}
    for name, operand in operands.items():
        dim = in_dims[name]
        if name == "mask":
            folded[name] = _fold_mask(operand, dim, size, batch)
        elif name == "alibi_slopes":
            folded[name] = _fold_slopes(operand, dim, size, batch)
        else:
            folded[name] = _fold(operand, dim, size)
    return tuple(output.unflatten(0, (size, batch)) for output in apply(folded))


def _loop_and_apply(
    apply: Apply,
    size: int,
    in_dims: Mapping[str, int | None],
    operands: Mapping[str, MaybeTensor],
) -> tuple[Tensor, ...]:
    """Calls `apply` for each element of the mapped dimension and stacks the outputs.

    Dropout needs this: what is dropped depends on an element's place in the batch, which folding
    would change. So do packed sequences, whose batch is 1, and what is summed over the batch.
    """

    def element(name: str, index: int) -> MaybeTensor:
        operand, dim = operands[name], in_dims[name]
        return operand if operand is None or dim is None else operand.select(dim, index)

    results = [apply({name: element(name, index) for name in operands}) for index in range(size)]
    return tuple(torch.stack(column) for column in zip(*results, strict=True))


def _fold(tensor: MaybeTensor, dim: int | None, size: int) -> MaybeTensor:
    if tensor is None:
        return None
    if dim is None:
        return tensor.expand(size, *tensor.shape).flatten(0, 1)
    return tensor.movedim(dim, 0).flatten(0, 1)


def _fold_slopes(slopes: MaybeTensor, dim: int | None, size: int, batch: int) -> MaybeTensor:
    """[heads] or [batch, heads], as `_fold`."""
    if slopes is None or (dim is None and slopes.dim() == 1):
        return slopes
    slopes = slopes.expand(size, *slopes.shape) if dim is None else slopes.movedim(dim, 0)
    heads = slopes.size(-1)
    return slopes.reshape(size, -1, heads).expand(size, batch, heads).flatten(0, 1)


def _fold_mask(mask: MaybeTensor, dim: int | None, size: int, batch: int) -> MaybeTensor:
    if mask is None:
        return None
    if dim is None:
        broadcasts = mask.dim() < 4 or mask.size(0) == 1
        return mask if broadcasts else _fold(mask, None, size)
    mask = mask.movedim(dim, 0)
    mask = mask.reshape(size, *[1] * (5 - mask.dim()), *mask.shape[1:])
    return mask.expand(size, batch, *mask.shape[2:]).flatten(0, 1)
