"""How a custom call is divided among devices: by batch and heads, as XLA's partitioners see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jaxlib.xla_client import OpSharding

__all__ = ["partitioned"]

# The axes of each kind of tensor, by the first part of its name. Query head h = (g, n) attends to
# key head g: XLA sees the heads of query as a product, whose major factor both share.
_AXES = {
    "q": ("batch", "heads", "rows", "dim"),
    "k": ("batch", "groups", "keys", "dim"),
    "v": ("batch", "groups", "keys", "dim_v"),
    "o": ("batch", "heads", "rows", "dim_v"),
    "lse": ("batch", "heads", "rows"),
    "mask": ("batch", "heads", "rows", "keys"),
    "seed": ("halves",),
}
_DIVIDED = ("batch", "groups")

Compute = Callable[..., Sequence[jax.Array]]


def partitioned(
    compute: Compute, names: Sequence[str], outputs: Sequence[str], operands: Sequence[Any]
) -> Compute:
    """`compute`, which XLA may divide among devices by batch and by groups of heads.

    What dropout drops depends on the place of a head in the whole array, so a call with a seed is
    computed whole on every device.

    Args:
        compute: Takes operands and gives results of any batch and number of heads.
        names: Of the operands.
        outputs: Names of the results.
        operands: Shapes of the whole arrays.
    """
    kinds = [name.split("_")[0] for name in names]
    results = [name.split("_")[0] for name in outputs]
    heads, groups = operands[0].shape[1], operands[1].shape[1]
    group = heads // groups if groups else 1
    whole = "seed" in names

    def infer(_mesh: Any, given: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
        division = _Division(given[0], groups, whole)
        return [division.sharding(kind, x.shape) for kind, x in zip(results, wanted, strict=True)]

    def partition(mesh: Any, given: Sequence[Any], wanted: Sequence[Any]) -> tuple[Any, ...]:
        division = _Division(given[0], groups, whole)
        operand_shardings = [
            division.sharding(kind, x.shape) for kind, x in zip(kinds, given, strict=True)
        ]
        return mesh, compute, infer(mesh, given, wanted), tuple(operand_shardings)

    rule, factors = _sharding_rule(kinds, results, [x.shape for x in operands], groups, group)
    divided = () if whole else _DIVIDED
    apply = custom_partitioning(compute)
    apply.def_partition(
        partition,
        infer_sharding_from_operands=infer,
        sharding_rule=rule,
        need_replication_factors=tuple(name for name in factors if name not in divided),
        # A factor's size may lie within a mesh axis, for which a PartitionSpec has no word.
        decode_shardings=False,
        **({"members": group} if group > 1 and groups > 1 else {}),
    )
    return apply


class _Division:
    """The devices as a grid of batches and heads, and those that compute the same.

    Args:
        q: The whole array, with the sharding that XLA proposes for it.
        groups: Heads of key, which parts of the heads may not cut.
        whole: Whether nothing is divided.
    """

    def __init__(self, q: Any, groups: int, whole: bool):
        self._class, self._devices = type(q.sharding), q.sharding._device_assignment
        places = q.sharding.devices_indices_map(q.shape)

        def parts(axis: int, extent: int) -> list[int]:
            starts = [places[device][axis].start or 0 for device in self._devices]
            known = sorted(set(starts))
            divides = not whole and extent % len(known) == 0
            return [known.index(start) if divides else 0 for start in starts]

        cells: dict[tuple[int, int], list[int]] = {}
        coordinates = zip(parts(0, q.shape[0]), parts(1, groups), strict=True)
        for position, cell in enumerate(coordinates):
            cells.setdefault(cell, []).append(position)
        batches, heads = (max(cell[axis] for cell in cells) + 1 for axis in (0, 1))
        self._grid = np.array([cells[cell] for cell in sorted(cells)]).reshape(batches, heads, -1)

    def sharding(self, kind: str, shape: Sequence[int]) -> Any:
        """Of a tensor of that kind, such as ``"q"`` or ``"mask"``."""
        divided = {"batch": 0, "heads": 1, "groups": 1}
        axes = [
            divided.get(axis) if extent > 1 or kind != "mask" else None
            for axis, extent in zip(_AXES[kind], shape, strict=True)
        ]
        tiles = [1 if axis is None else self._grid.shape[axis] for axis in axes]
        if math.prod(tiles) == 1:
            return self._class.get_replicated(self._devices)
        used = [axis for axis in axes if axis is not None]
        order = [*used, *(axis for axis in range(3) if axis not in used)]
        proto = OpSharding()
        proto.type = OpSharding.Type.OTHER
        proto.tile_assignment_dimensions = [*tiles, self._grid.size // math.prod(tiles)]
        proto.tile_assignment_devices = self._grid.transpose(order).ravel().tolist()
        proto.replicate_on_last_tile_dim = True
        return self._class(self._devices, proto)


def _sharding_rule(
    kinds: Sequence[str],
    results: Sequence[str],
    shapes: Sequence[Sequence[int]],
    groups: int,
    group: int,
) -> tuple[str, list[str]]:
    """Shardy's rule, the factors of each axis of operands and results; and all factors."""
    factors: dict[str, None] = {}

    def factor(name: str) -> str:
        factors[name] = None
        return name

    def of(kind: str, shape: Sequence[int] | None) -> str:
        words = []
        for index, axis in enumerate(_AXES[kind]):
            if kind == "mask" and shape is not None and shape[index] == 1:
                words.append(factor(f"one_{axis}"))  # broadcast
            elif axis == "heads" and group > 1:
                # A product may have no factor of size 1.
                members = factor("members") if groups == 1 else None
                words.append(members or f"({factor('groups')} {factor('members')})")
            elif axis == "heads":
                words.append(factor("groups"))
            else:
                words.append(factor(axis))
        return " ".join(words)

    left = ", ".join(of(kind, shape) for kind, shape in zip(kinds, shapes, strict=True))
    return f"{left} -> {', '.join(of(kind, None) for kind in results)}", list(factors)
