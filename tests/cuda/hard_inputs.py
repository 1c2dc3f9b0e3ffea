"""What the device check draws: random inputs, and those that hurt.

Large scores, finite masks, NaN and infinities.
"""

from __future__ import annotations

import dataclasses

import torch
from device_kernels import Options


@dataclasses.dataclass(frozen=True)
class Shape:
    """batch, query heads, key heads, query rows, key rows, head_dim, head_dim_v."""

    batch: int
    heads_q: int
    heads_kv: int
    seq_q: int
    seq_kv: int
    head_dim: int
    head_dim_v: int

    def __str__(self) -> str:
        return ",".join(map(str, dataclasses.astuple(self)))


# Sizes of inputs: scores of 1e1 to 1e5.
SIZES = {"size9": 9.0, "size30": 30.0, "size130": 130.0}
# Finite values that masks hold where they mean to forbid.
FINITE_MASKS = {"mask_1e9": -1e9, "mask_min": None}


def finite_mask(value: float | None, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
    """Additive: whole rows of `value`, left padding in one head, and half of the keys elsewhere.

    None: the smallest finite number of `dtype`.
    """
    value = torch.finfo(dtype).min if value is None else value
    size = (shape.batch, shape.heads_q, shape.seq_q, shape.seq_kv)
    chosen = torch.rand(size, device="cuda") < 0.5
    chosen[:, 0] = torch.arange(shape.seq_kv, device="cuda") < shape.seq_kv // 3
    chosen[:, :, : max(shape.seq_q // 4, 1)] = True
    mask = torch.zeros(
        size, device="cuda", dtype=torch.float64 if dtype.itemsize == 8 else torch.float32
    )
    return mask.masked_fill_(chosen, value)


def spoil(kind: str, inputs: dict[str, torch.Tensor | None], options: Options) -> None:
    """Writes NaN and infinities into `inputs`, by what `kind` says they take part in."""
    q, k = inputs["q"], inputs["k"]
    assert q is not None and k is not None
    rows, keys = q.shape[2], k.shape[2]
    if kind in ("nan_causal", "nan_window"):  # keys that no row sees
        first = min(rows + (4 if kind == "nan_window" else 0), keys - 1)
        spoiled = {"k": first, "v": first, "k_dot": first, "v_dot": first}
    elif kind == "nan_late":  # a key that one row sees
        spoiled = {"v": min(rows, keys) - 1, "v_dot": min(rows, keys) - 1}
    elif kind == "nan_query":  # a row that sees keys
        spoiled = {"q": rows - 1, "q_dot": rows - 1}
    else:  # nan_masked: keys that no row sees, and rows that see none
        assert options.mask is not None
        for name in ("q", "q_dot", "o_bar", "o_bar_dot"):
            if (x := inputs.get(name)) is not None:
                x[:, :, : rows // 3 : 2] = torch.nan
                x[:, :, 1 : rows // 3 : 2] = torch.inf
        spoiled = dict.fromkeys(("k", "v", "k_dot", "v_dot"), keys - keys // 4)
    for name, first in spoiled.items():
        x = inputs.get(name)
        if x is None or first >= x.shape[2]:
            continue
        x[:, :, first::2] = torch.nan
        x[:, :, first + 1 :: 2] = torch.inf


NAN_KINDS = ("nan_causal", "nan_window", "nan_late", "nan_query", "nan_masked")


def draw(
    shape: Shape, dtype: torch.dtype, layout: str, size: float = 1.0
) -> dict[str, torch.Tensor | None]:
    """Random inputs; layout bshd puts the heads inside the sequence, slice takes part of a row.

    q and k, which scores are made of, are `size` times as large.
    """

    def one(name: str, heads: int, rows: int, dim: int) -> torch.Tensor:
        extents = (shape.batch, heads, rows, dim)
        factor = size if name in ("q", "k") else 1.0
        if layout == "bshd":
            stored = torch.randn(shape.batch, rows, heads, dim, device="cuda", dtype=torch.float64)
            return (stored * factor).to(dtype).transpose(1, 2)
        if layout == "slice":
            stored = torch.randn(*extents[:3], 2 * dim + 3, device="cuda", dtype=torch.float64)
            return (stored * factor).to(dtype)[..., 1 : 2 * dim + 1 : 2]
        return (torch.randn(extents, device="cuda", dtype=torch.float64) * factor).to(dtype)

    q = (shape.heads_q, shape.seq_q, shape.head_dim)
    k = (shape.heads_kv, shape.seq_kv, shape.head_dim)
    v = (shape.heads_kv, shape.seq_kv, shape.head_dim_v)
    o = (shape.heads_q, shape.seq_q, shape.head_dim_v)
    sizes = {
        "q": q,
        "k": k,
        "v": v,
        "o_bar": o,
        "q_dot": q,
        "k_dot": k,
        "v_dot": v,
        "o_bar_dot": o,
    }
    return {name: one(name, *extents) for name, extents in sizes.items()}


def rounded_once(
    inputs: dict[str, torch.Tensor | None], epsilon: float
) -> dict[str, torch.Tensor | None]:
    """The inputs in float64; elements of q and k are off by at most one unit in the last place."""

    def perturb(x: torch.Tensor) -> torch.Tensor:
        return x.double() * (1 + epsilon * (2 * torch.rand_like(x.double()) - 1))

    return {
        name: perturb(x) if x is not None and name in ("q", "k") else x
        for name, x in inputs.items()
    }


def reordered(
    inputs: dict[str, torch.Tensor | None],
) -> tuple[dict[str, torch.Tensor | None], dict[str, torch.Tensor]]:
    """The inputs with their head dimensions in a random order, and the way back for outputs.

    Every sum over head_dim or head_dim_v then adds up the same products in another order.
    """
    q, v = inputs["q"], inputs["v"]
    assert q is not None and v is not None
    order = torch.randperm(q.shape[-1], device=q.device)
    order_v = torch.randperm(v.shape[-1], device=v.device)
    orders = {"q": order, "k": order, "v": order_v, "o": order_v}
    back = {name: torch.argsort(way) for name, way in orders.items()}
    return {
        name: None if x is None else x[..., orders[name[0]]].contiguous()
        for name, x in inputs.items()
    }, back
