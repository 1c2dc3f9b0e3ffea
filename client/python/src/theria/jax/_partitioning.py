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
    "bias": ("batch", "heads", "rows", "keys"),
    "alibi": ("batch", "heads"),
    "kv": ("batch",),
    "seed": ("halves",),
}
_BROADCAST = ("mask", "bias")  # an extent of 1 is broadcast
_DIVIDED = ("batch", "groups")
_DEVICES = "theria_devices"  # the axis of all devices, within a call

Compute = Callable[..., Sequence[jax.Array]]


def partitioned(
    compute: Compute, names: Sequence[str], outputs: Sequence[str], operands: Sequence[Any]
) -> Compute:
    """`compute`, which XLA may divide among devices by batch and by groups of heads.

    What dropout drops depends on the place of a head in the whole array, so a call with a seed is
    computed whole on every device. The cotangent of a bias that is broadcast over what is divided
    is the sum over the devices.

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

        def part(*parts: jax.Array) -> list[jax.Array]:
            found = zip(results, wanted, compute(*parts), strict=True)
            return [division.summed(kind, x.shape, y) for kind, x, y in found]

        return division.mesh(), part, infer(mesh, given, wanted), tuple(operand_shardings)

    shapes = dict(zip(kinds, (x.shape for x in operands), strict=True))
    rule, factors = _sharding_rule(
        [(kind, x.shape) for kind, x in zip(kinds, operands, strict=True)],
        [(kind, shapes["mask"] if kind == "bias" else None) for kind in results],
        groups,
        group,
    )
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
            divided.get(axis) if extent > 1 or kind not in _BROADCAST else None
            for axis, extent in zip(_axes(kind, shape), shape, strict=True)
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

    def mesh(self) -> jax.sharding.Mesh:
        """The devices in XLA's order, which number them in `summed`."""
        return jax.sharding.Mesh(np.array(self._devices), (_DEVICES,))

    def summed(self, kind: str, shape: Sequence[int], part: jax.Array) -> jax.Array:
        """The result of a device, summed over those that share it as a bias that is broadcast."""
        if kind not in _BROADCAST:
            return part
        axes = [axis for axis in (0, 1) if shape[axis] == 1 and self._grid.shape[axis] > 1]
        if not axes:
            return part
        size = math.prod(self._grid.shape[axis] for axis in axes)
        sharing = np.moveaxis(self._grid, axes, range(-len(axes), 0)).reshape(-1, size)
        total: jax.Array = jax.lax.psum(part, _DEVICES, axis_index_groups=sharing.tolist())
        return total


def _axes(kind: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Those of a tensor of that kind, which may lack leading ones: slopes without a batch."""
    return _AXES[kind][len(_AXES[kind]) - len(shape) :]


def _sharding_rule(
    operands: Sequence[tuple[str, Sequence[int]]],
    results: Sequence[tuple[str, Sequence[int] | None]],
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
        for index, axis in enumerate(_AXES[kind] if shape is None else _axes(kind, shape)):
            if kind in _BROADCAST and shape is not None and shape[index] == 1:
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

    left, right = (", ".join(of(*tensor) for tensor in side) for side in (operands, results))
    return f"{left} -> {right}", list(factors)
