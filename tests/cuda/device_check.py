"""Compares the CUDA backend with float64 on the GPU, over shapes, dtypes and options.

    python3 tests/cuda/device_check.py LIBRARY [--json FILE] [--match TEXT ...] [--candidate N]
        [--part PART PARTS]

Passes if every output's error, in the maximum and in the root-mean-square norm, is at most twice
that of explicit math in the same dtype (the worst of several ways to write it), plus ULPS units in
the last place of the largest value among the outputs of the same order (o; o_dot; gradients;
their tangents). The units matter where PyTorch's error happens to vanish: a row with one key has a
gradient of 0, as the difference of two equal numbers. For float64 the reference has errors of the
same size as ours.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from device_kernels import DeviceKernels, KernelsError, Options, allocate_outputs
from environment import environment
from explicit_attention import ExplicitAttention, Tf32Products, explicit_outputs
from extended_cases import SPOILED, extend_inputs, extended_cases, extended_options, spoil_unseen
from hard_inputs import (
    FINITE_MASKS,
    NAN_KINDS,
    SIZES,
    Shape,
    draw,
    finite_mask,
    reordered,
    rounded_once,
    spoil,
)
from visible_attention import visible_outputs

OPERATIONS = ("forward", "vjp", "jvp", "hvp")
DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
}


SHAPES = [
    Shape(2, 3, 3, 197, 197, 64, 64),
    Shape(1, 2, 2, 256, 384, 128, 128),
    Shape(1, 2, 1, 130, 70, 64, 64),
    Shape(2, 4, 2, 65, 129, 32, 32),
    Shape(1, 1, 1, 1, 1, 64, 64),
    Shape(1, 2, 2, 1, 333, 128, 128),
    Shape(3, 2, 2, 16, 16, 8, 8),
    Shape(1, 6, 2, 100, 300, 96, 64),
    Shape(1, 2, 2, 150, 90, 40, 80),
    Shape(1, 2, 2, 77, 140, 192, 192),
    Shape(1, 2, 1, 90, 160, 256, 256),
    Shape(1, 4, 2, 700, 900, 128, 120),
    Shape(1, 2, 2, 900, 650, 56, 64),
    Shape(1, 4, 2, 1100, 1030, 64, 64),
    Shape(1, 2, 2, 513, 1300, 96, 88),
]
# Of many tiles, whose errors must not add up.
LONG_SHAPE = Shape(1, 1, 1, 64, 4096, 64, 64)
# More tiles than a GPU has multiprocessors, so that a block of a persistent grid takes several.
MANY_TILES = [Shape(8, 24, 12, 200, 270, 64, 64), Shape(8, 16, 16, 300, 200, 128, 128)]
ODD_SHAPES = [Shape(1, 2, 2, 50, 60, 20, 36), Shape(2, 1, 1, 33, 17, 5, 7)]


def options_of(kind: str, shape: Shape, dtype: torch.dtype) -> Options:
    """The options that `kind` names, with masks drawn for `shape` and inputs of `dtype`."""
    rows, columns = shape.seq_q, shape.seq_kv
    full = (shape.batch, shape.heads_q, rows, columns)
    if kind.startswith("extended"):
        return extended_options(kind, shape, dtype)
    if kind == "plain" or kind in SIZES:
        return Options()
    if kind in ("causal", "nan_causal", "nan_late", "nan_query"):
        return Options(is_causal=True)
    if kind == "nan_window":
        return Options(window=(9, 4))
    if kind == "nan_masked":
        mask = torch.rand(full, device="cuda") < 0.6
        mask[:, :, : rows // 3] = False
        mask[..., columns - columns // 4 :] = False
        return Options(mask=mask)
    if kind in FINITE_MASKS:
        return Options(mask=finite_mask(FINITE_MASKS[kind], shape, dtype))
    if kind == "window":
        return Options(window=(20, 9))
    if kind == "window_left":
        return Options(window=(33, None), is_causal=True)
    if kind == "scale":
        return Options(scale=-0.3)
    if kind == "bool_mask":
        mask = torch.rand(full, device="cuda") < 0.6
        mask[:, :, : rows // 3] = False  # rows without any key
        return Options(mask=mask)
    if kind == "key_padding":
        mask = torch.rand((shape.batch, 1, 1, columns), device="cuda") < 0.7
        return Options(mask=mask)
    if kind == "additive_mask":
        mask = torch.randn((shape.heads_q, rows, columns), device="cuda")
        mask[:, :, ::5] = -torch.inf
        return Options(mask=mask, is_causal=True)
    if kind == "half_mask":
        return Options(mask=torch.randn((rows, columns), device="cuda").half())
    if kind == "dropout":
        return Options(dropout=0.2, seed=(7 << 33) + 11, offset=(5 << 40) + 3)
    if kind == "everything":
        mask = torch.rand((1, shape.heads_q, rows, columns), device="cuda") < 0.8
        return Options(mask=mask, dropout=0.3, seed=1, window=(50, 30), scale=0.2)
    raise ValueError(kind)


# Yardsticks of each random kind that a case with large scores is compared with.
DRAWS = 32
# Units in the last place, see above, and their size.
ULPS = {"float16": 2, "bfloat16": 2, "float32": 4, "tf32": 2, "float64": 64}
EPSILON = {name: torch.finfo(dtype).eps for name, dtype in DTYPES.items()} | {"tf32": 2.0**-10}

INPUTS_OF = {
    "forward": ("q", "k", "v"),
    "vjp": ("q", "k", "v", "o_bar"),
    "jvp": ("q", "k", "v", "q_dot", "k_dot", "v_dot"),
    "hvp": ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"),
}


def errors(x: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Maximum and root-mean-square error over the finite entries; inf where finiteness differs."""
    finite = torch.isfinite(reference)
    if not torch.equal(torch.isfinite(x), finite):
        return float("inf"), float("inf")
    exact = ~finite & ~torch.isnan(reference)  # a NaN may come out as an infinity
    if not torch.equal(x[exact].double(), reference[exact]):
        return float("inf"), float("inf")
    if not bool(finite.any()):
        return 0.0, 0.0
    difference = (x.double() - reference)[finite]
    return float(difference.abs().max()), float(difference.square().mean().sqrt())


def largest_of_order(reference: dict[str, torch.Tensor], name: str) -> float:
    """The largest finite value among the outputs that are derivatives of the order of `name`."""

    def order(name: str) -> tuple[bool, bool, bool]:
        return ("lse" in name, "_bar" in name, "_dot" in name)

    alike = [x[torch.isfinite(x)] for n, x in reference.items() if order(n) == order(name)]
    return max((float(x.abs().max()) for x in alike if x.numel()), default=0.0)


@dataclasses.dataclass
class Row:
    """One output of one case."""

    case: str
    output: str
    kernel: str
    ours: tuple[float, float]
    torch: tuple[float, float]
    limit: tuple[float, float]
    ratio: float
    passed: bool


def reordered_outputs(
    operation: str, inputs: dict[str, torch.Tensor | None], options: Options, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Explicit math whose sums over the head dimensions run in a random order."""
    shuffled, back = reordered(inputs)
    outputs = explicit_outputs(operation, shuffled, options, dtype)
    return {name: x[..., back[name[0]]] if name[0] in back else x for name, x in outputs.items()}


def bias_factor(mask: torch.Tensor, shape: Shape, epsilon: float) -> float:
    """What units in the last place of bias derivatives are more than those of other outputs.

    They have the dtype of the bias. Where it broadcasts over the keys, each row's sum is a
    difference of equal numbers, whose errors add up over the rows.
    """
    factor = max(1.0, torch.finfo(mask.dtype).eps / epsilon)
    if mask.numel() > 0 and mask.shape[-1] == 1:
        rows = shape.batch * shape.heads_q * shape.seq_q / mask.numel()
        factor *= max(1.0, rows**0.5)
    return factor


def check(
    kernels: DeviceKernels,
    operation: str,
    dtype_name: str,
    shape: Shape,
    kind: str,
    layout: str,
    absent: tuple[str, ...] = (),
    saved: bool = False,
    implementation: str = "auto",
) -> list[Row]:
    """Runs one case and compares every output."""
    case = f"{operation} {dtype_name} {shape} {kind} {layout}"
    case += "".join(f" -{name}" for name in absent) + (" saved" if saved else "")
    case += "" if implementation == "auto" else f" {implementation}"
    torch.manual_seed(sum(case.encode()))
    dtype = DTYPES[dtype_name]
    options = options_of(kind, shape, dtype)
    size = SIZES.get(kind.removeprefix("extended_softcap_"), 1.0)
    drawn = draw(shape, dtype, layout, size)
    inputs = {name: drawn[name] for name in INPUTS_OF[operation] if name not in absent}
    extended = kind.startswith("extended")
    if extended:
        extend_inputs(kind, operation, shape, inputs, options)
    clean = dict(inputs)
    if kind in NAN_KINDS or kind.removeprefix("extended_") in SPOILED:
        inputs = {name: None if x is None else x.clone() for name, x in inputs.items()}
        if extended:
            q, k = inputs["q"], inputs["k"]
            assert q is not None and k is not None
            spoil_unseen(inputs, ExplicitAttention(q, k, options).forbidden)
        else:
            spoil(kind, inputs, options)
        clean = {
            name: None if x is None else torch.nan_to_num(x, 0.0, 0.0, 0.0)
            for name, x in inputs.items()
        }
        reference = visible_outputs(operation, inputs, options)
    else:
        reference = explicit_outputs(operation, inputs, options, torch.float64)
    # PyTorch spreads NaN: its error is that of the same inputs without.
    exact = explicit_outputs(operation, clean, options, torch.float64)
    # Where scores are large, one row between two keys makes the error, and chance decides whose
    # rounding hits it. So the worst counts of three ways to write the same math, of the same sums
    # in other orders, and of exact math on inputs that differ by a unit in the last place.
    with Tf32Products() if dtype_name == "tf32" else contextlib.nullcontext():
        yardsticks = [
            explicit_outputs(operation, clean, options, dtype, scaled)
            for scaled in ("q", "k", "scores")
        ]
        if size > 1 and dtype_name[-2:] != "16":
            yardsticks += [
                reordered_outputs(operation, clean, options, dtype) for _ in range(DRAWS)
            ]
    if dtype_name[-2:] != "16":
        yardsticks += [
            explicit_outputs(
                operation, rounded_once(clean, EPSILON[dtype_name]), options, torch.float64
            )
            for _ in range(DRAWS if size > 1 else 3)
        ]
    mask = options.mask
    has_bias = extended and mask is not None and mask.is_floating_point()
    outputs = allocate_outputs(operation, inputs, mask if has_bias else None)
    if kind == "extended_bias_alone":
        outputs = {name: x for name, x in outputs.items() if name[:4] in ("bias", "lse")}
    given = dict(inputs)
    if saved:
        given["o"] = reference["o"].to(dtype)
        given["lse"] = reference["lse"].to(outputs["lse"].dtype)
    ours = dataclasses.replace(options, fast=dtype_name == "tf32", implementation=implementation)
    torch.cuda.synchronize()
    try:
        _, kernel = kernels.call(operation, given, outputs, ours)
    except KernelsError as error:
        return [Row(case, "*", str(error), (0, 0), (0, 0), (0, 0), float("inf"), False)]
    rows = []
    for name, x in outputs.items():
        own = errors(x, reference[name])
        others = [errors(yardstick[name], exact[name]) for yardstick in yardsticks]
        other = (max(error[0] for error in others), max(error[1] for error in others))
        unit = ULPS[dtype_name] * EPSILON[dtype_name] * largest_of_order(reference, name)
        if name[:5] in ("q_bar", "k_bar"):
            # The sum's terms, in which equal numbers are subtracted, are as large as q and k.
            unit *= max(size * float(max(shape.head_dim, 1)) ** -0.5, 1.0)
        if "bias" in name and mask is not None:
            unit *= bias_factor(mask, shape, EPSILON[dtype_name])
        if "lse" in name:  # float32 or float64 whatever the dtype; scores are of size 1
            unit = max(
                unit,
                ULPS[dtype_name] * EPSILON["float32" if dtype_name[-2:] == "16" else dtype_name],
            )
        limit = (2 * other[0] + unit, 2 * other[1] + unit / 2)
        ratio = max(
            own[0] / limit[0] if limit[0] else own[0], own[1] / limit[1] if limit[1] else own[1]
        )
        passed = own[0] <= limit[0] and own[1] <= limit[1]
        rows.append(Row(case, name, kernel, own, other, limit, ratio, passed))
    return rows


def repeatable(
    kernels: DeviceKernels, operation: str, dtype_name: str, shape: Shape, kind: str
) -> Row:
    """Whether three runs give the same bits."""
    dtype = DTYPES[dtype_name]
    drawn = draw(shape, dtype, "bhsd")
    inputs = {name: drawn[name] for name in INPUTS_OF[operation]}
    options = dataclasses.replace(options_of(kind, shape, dtype), fast=dtype_name == "tf32")
    runs = []
    for _ in range(3):
        mask = options.mask if kind.startswith("extended") else None
        outputs = allocate_outputs(operation, inputs, mask)
        torch.cuda.synchronize()
        _, kernel = kernels.call(operation, inputs, outputs, options)
        runs.append(outputs)
    same = all(torch.equal(runs[0][n], run[n]) for run in runs[1:] for n in runs[0])
    case = f"repeatable {operation} {dtype_name} {shape} {kind}"
    return Row(case, "*", kernel, (0, 0), (0, 0), (0, 0), 0.0 if same else float("inf"), same)


def cases() -> list[tuple[object, ...]]:
    """Arguments of `check`, without the library."""
    listed: list[tuple[object, ...]] = []
    for operation, dtype, shape in itertools.product(OPERATIONS, DTYPES, SHAPES):
        kinds = ["plain", "causal", "window", "bool_mask", "dropout"]
        if shape in SHAPES[:4]:
            kinds += [
                "window_left",
                "scale",
                "key_padding",
                "additive_mask",
                "half_mask",
                "everything",
            ]
        listed += [(operation, dtype, shape, kind, "bhsd") for kind in kinds]
    hard = [SHAPES[i] for i in (0, 1, 2, 7, 10)]
    for operation, dtype, shape in itertools.product(OPERATIONS, DTYPES, hard):
        for kind in (*SIZES, *FINITE_MASKS, *NAN_KINDS):
            listed.append((operation, dtype, shape, kind, "bhsd"))
            if shape in hard[:2] and operation != "forward" and kind not in NAN_KINDS:
                listed.append((operation, dtype, shape, kind, "bhsd", (), True))
    for operation, dtype, kind in itertools.product(
        OPERATIONS, DTYPES, (*SIZES, *FINITE_MASKS, *NAN_KINDS)
    ):
        listed.append((operation, dtype, SHAPES[2], kind, "bhsd", (), False, "unfused"))
    for operation, dtype, shape in itertools.product(OPERATIONS, DTYPES, ODD_SHAPES):
        listed += [(operation, dtype, shape, kind, "bhsd") for kind in ("plain", "everything")]
    for operation, dtype in itertools.product(OPERATIONS, ("float32", "float64")):
        listed.append((operation, dtype, LONG_SHAPE, "plain", "bhsd"))
    for operation, dtype, shape in itertools.product(
        OPERATIONS, ("float16", "bfloat16"), MANY_TILES
    ):
        listed += [
            (operation, dtype, shape, kind, "bhsd") for kind in ("plain", "causal", "window")
        ]
    for operation, dtype, layout in itertools.product(OPERATIONS, DTYPES, ("bshd", "slice")):
        listed.append((operation, dtype, SHAPES[0], "causal", layout))
    absent_sets = [
        *[(name,) for name in ("q_dot", "k_dot", "v_dot")],
        ("q_dot", "k_dot"),
        ("k_dot", "v_dot"),
        ("q_dot", "v_dot"),
        ("q_dot", "k_dot", "v_dot"),
    ]
    for dtype, absent in itertools.product(("bfloat16", "float32", "float64"), absent_sets):
        listed.append(("jvp", dtype, SHAPES[2], "causal", "bhsd", absent))
        listed.append(("hvp", dtype, SHAPES[2], "causal", "bhsd", absent))
        listed.append(("hvp", dtype, SHAPES[2], "plain", "bhsd", (*absent, "o_bar_dot")))
    for dtype, kind in itertools.product(DTYPES, ("plain", "dropout")):
        listed.append(("hvp", dtype, SHAPES[1], kind, "bhsd", ("o_bar_dot",)))
        listed += [(op, dtype, SHAPES[1], kind, "bhsd", (), True) for op in ("vjp", "jvp", "hvp")]
    for operation, dtype, shape in itertools.product(OPERATIONS, DTYPES, SHAPES[:4] + ODD_SHAPES):
        for kind in ("plain", "bool_mask", "everything"):
            listed.append((operation, dtype, shape, kind, "bhsd", (), False, "unfused"))
    listed += extended_cases(OPERATIONS, tuple(DTYPES), SHAPES + ODD_SHAPES)
    return listed


def prefer(kernels: DeviceKernels, candidate: int) -> None:
    """Makes the backend use the `candidate`-th kernel of each group; call before any other."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as table:
        for group, names in kernels.kernels().items():
            name = names[min(candidate, len(names) - 1)]
            table.writelines(f"{group} {length} {name}\n" for length in ("short", "medium", "long"))
    os.environ["THERIA_CUDA_TUNING"] = table.name


def rounded(pair: tuple[float, float]) -> list[float]:
    """Three significant digits."""
    return [float(f"{x:.3g}") for x in pair]


def main() -> int:
    """Runs all cases; 0 if all pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--match", nargs="*", default=[""], help="only cases whose text contains one of these"
    )
    parser.add_argument(
        "--candidate", type=int, help="of kernels that do the same, use the N-th, or the last"
    )
    parser.add_argument("--show", type=int, default=40, help="failures to print, the worst first")
    parser.add_argument(
        "--part",
        type=int,
        nargs=2,
        default=(0, 1),
        metavar=("PART", "PARTS"),
        help="only this part, from 0 on, of the cases dealt to so many",
    )
    arguments = parser.parse_args()
    part, parts = arguments.part
    kernels = DeviceKernels(arguments.library)
    if arguments.candidate is not None:
        prefer(kernels, arguments.candidate)
    rows: list[Row] = []
    count = 0
    for case in cases():
        text = " ".join(map(str, case[:5]))
        if not any(match in text for match in arguments.match):
            continue
        count += 1
        if count % parts == part:
            rows += check(kernels, *case)  # type: ignore[arg-type]
    repeated = list(itertools.product(OPERATIONS, DTYPES, SHAPES[3:4], ("plain", "everything")))
    # Long enough for the VJP in one pass, and a bias whose tiles several blocks share.
    repeated += itertools.product(
        OPERATIONS, DTYPES, SHAPES[13:14], ("extended_deterministic", "extended_bias_keys")
    )
    for operation, dtype, shape, kind in repeated:
        text = f"{operation} {dtype} {shape} {kind}"
        if any(match in text for match in arguments.match):
            count += 1
            if count % parts == part:
                rows.append(repeatable(kernels, operation, dtype, shape, kind))
    failed = sorted((row for row in rows if not row.passed), key=lambda row: -row.ratio)
    for row in failed[: arguments.show]:
        print("FAILED", row.case, row.output, "ours", row.ours, "torch", row.torch, row.kernel)
    by_group: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        operation, dtype = row.case.split()[:2]
        if row.case.endswith("unfused"):
            dtype += "/unf"
        by_group.setdefault((operation, dtype), []).append(row)
    for (operation, dtype), group in by_group.items():
        worst = max(group, key=lambda row: row.ratio)
        print(
            f"{operation:11s}{dtype:13s} outputs {len(group):4d} failed "
            f"{sum(not row.passed for row in group):4d} worst {worst.ratio:.3f} of the limit "
            f"({worst.output}, {worst.case})"
        )
    print(f"{count} cases, {len(rows)} outputs, {len(failed)} failed")
    if arguments.json:
        text = json.dumps(
            {
                "environment": environment(),
                "columns": [
                    "case",
                    "output",
                    "kernel",
                    "our maximum and rms error",
                    "PyTorch maximum and rms error",
                    "share of the limit",
                ],
                "rows": [
                    [
                        row.case,
                        row.output,
                        row.kernel,
                        rounded(row.ours),
                        rounded(row.torch),
                        float(f"{row.ratio:.3g}"),
                    ]
                    for row in rows
                ],
            }
        )
        arguments.json.write_text(text.replace('], ["', '],\n["'))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
