"""The derivatives' tensors by name: which there are, and what is linear in what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch

from theria.torch._operators import ARGUMENTS

Tensor = torch.Tensor
MaybeTensor = Tensor | None
Tensors = dict[str, MaybeTensor]

POINT = ("q", "k", "v", "mask")  # x, by the arguments' names
COTANGENTS = ("o_bar", "lse_bar")  # y_bar
POINT_OF = {"q": "q", "k": "k", "v": "v", "bias": "mask"}
BARS = tuple(f"{x}_bar" for x in POINT_OF)
DOTS = tuple(f"{x}_dot" for x in POINT_OF)
BAR_DOTS = tuple(f"{x}_bar_dot" for x in POINT_OF)
COTANGENT_DOTS = tuple(f"{y}_dot" for y in COTANGENTS)
CONSTANTS = ("o", "lse", "seed", "alibi_slopes", "kv_lengths", "cu_seqlens_q", "cu_seqlens_kv")
# What is linear in what: the symmetric matrix [[H, J^T], [J, 0]] of hvp.
DIRECTION_OF = {
    **dict(zip(BAR_DOTS, DOTS, strict=True)),
    "o_dot": "o_bar_dot",
    "lse_dot": "lse_bar_dot",
}
GUARDED = (*POINT, *COTANGENTS)


# By which of q, k, v and mask need a gradient: the outputs of vjp.
BARS_NEEDED = {
    needs: tuple(itertools.compress(BARS, needs))
    for needs in itertools.product((False, True), repeat=len(POINT))
}


def arranged(names: Sequence[str], operation: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """From the order of `names`, the last of which is None, to that of an operator's arguments."""
    return itemgetter(*(names.index(x) if x in names else -1 for x in ARGUMENTS[operation]))


vjp_of_forward = arranged((*ARGUMENTS["forward"], "o", "lse", "o_bar", "lse_bar", ""), "vjp")


def picked(tensors: Tensors, *names: str) -> Tensors:
    return {name: tensors.get(name) for name in names}


def point_of(tensors: Tensors) -> Tensors:
    """Of all operators: x and the constants."""
    return picked(tensors, *POINT, *CONSTANTS)


def any_of(tensors: Tensors) -> bool:
    return any(tensor is not None for tensor in tensors.values())


def gradients_of(found: Tensors, suffix: str) -> Tensors:
    """The results x_bar or x_bar_dot as gradients of the arguments."""
    return {
        argument: found[f"{x}{suffix}"]
        for x, argument in POINT_OF.items()
        if f"{x}{suffix}" in found
    }


def sum_of(x: MaybeTensor, y: MaybeTensor) -> MaybeTensor:
    return y if x is None else x if y is None else x + y
