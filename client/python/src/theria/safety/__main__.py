"""`python -m theria.safety`: writes OUT/safety.json, safety.md, safety.png and safety.svg.

Exit status 0: done; 1: an attention given by --attention or --target is not exact in every
operation; 2: wrong arguments, or the server is unreachable; 3: the server failed during the survey.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

import theria
from theria.safety._backends import theria_backends, torch_backends
from theria.safety._classify import classify
from theria.safety._explicit import explicit_attention
from theria.safety._figure import draw
from theria.safety._meta_gradient import meta_loss
from theria.safety._problem import Attention, Problem
from theria.safety._report import Row, table, widest, write_rows
from theria.safety._wrappers import WRAPPERS

__all__ = ["main"]

DTYPES = ("float64", "float32", "float16", "bfloat16")


def main() -> int:
    """Runs the survey and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m theria.safety",
        description="Decides by value which derivatives of attention are exact.",
    )
    parser.add_argument("--target", metavar="ADDR", help="also survey this Theria server")
    parser.add_argument(
        "--attention", metavar="MODULE:NAME", help="survey only this function of (q, k, v)"
    )
    parser.add_argument("--device", default="cpu", help="PyTorch device; default: cpu")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--seed", type=int, default=0, help="seed of the tensors; default: 0")
    parser.add_argument("--out", type=Path, default=Path("build/safety"), help="output folder")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        try:
            subjects = _subjects(arguments, stack)
        except (theria.Error, ImportError, AttributeError, TypeError, ValueError) as error:
            print(f"theria.safety: {error}", file=sys.stderr)
            return 2
        began = time.monotonic()
        try:
            rows = _survey(subjects, arguments)
        except theria.Error as error:
            print(f"theria.safety: the survey ended: {error}", file=sys.stderr)
            return 3
    environment = _environment(arguments, time.monotonic() - began)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_rows(rows, environment, arguments.out / "safety.json")
    (arguments.out / "safety.md").write_text(table(rows))
    title = f"Attention, differentiated: {environment['device']}, PyTorch {environment['torch']}"
    if any(row.available for row in rows):
        draw(widest(rows), title, arguments.out / "safety")
    print(table(rows))
    for row in rows:
        if row.group == "given" and not row.available:
            kept = row.classification
            print(f"{kept.name} {kept.dtype}: {kept.findings['forward'].reason}", file=sys.stderr)
    judged = [row for row in rows if row.group in ("Theria", "given") and row.available]
    if arguments.attention and not judged:
        return 1
    return 0 if all(row.classification.exact for row in judged) else 1


def _subjects(
    arguments: argparse.Namespace, stack: ExitStack
) -> list[tuple[str, str, Attention, torch.dtype]]:
    """Each is (group, name, attention, dtype)."""
    dtypes = [getattr(torch, name) for name in arguments.dtypes]
    if arguments.attention:
        module, _, name = arguments.attention.partition(":")
        if not module or not name:
            raise ValueError(f"--attention is {arguments.attention!r}, must be MODULE:NAME")
        given: Attention = getattr(importlib.import_module(module), name)
        if not callable(given):
            raise TypeError(f"--attention {arguments.attention} is {given!r}, no callable")
        return [("given", arguments.attention, given, dtype) for dtype in dtypes]
    groups = {"PyTorch": {"explicit math": explicit_attention, **torch_backends(arguments.device)}}
    if arguments.target:
        client = stack.enter_context(theria.connect(arguments.target, timeout=60.0))
        groups["Theria"] = theria_backends(client)
    subjects = [
        (group, name, attention, dtype)
        for group, attentions in groups.items()
        for name, attention in attentions.items()
        # A compilation takes many seconds a dtype: one tells all.
        for dtype in (dtypes[-1:] if name.endswith("compiled") else dtypes)
    ]
    # What the wrappers lose has nothing to do with rounding: one dtype tells all.
    subjects += [("wrapper", name, attention, dtypes[0]) for name, attention in WRAPPERS.items()]
    return subjects


def _survey(
    subjects: list[tuple[str, str, Attention, torch.dtype]], arguments: argparse.Namespace
) -> list[Row]:
    rows = []
    with warnings.catch_warnings(), tqdm(subjects, unit="attention") as bar:
        warnings.simplefilter("ignore")  # backends say why they do not serve a call; so do we
        for group, name, attention, dtype in bar:
            bar.set_description(name)
            problem = Problem(dtype=dtype, device=arguments.device, seed=arguments.seed)
            row = Row(group, classify(attention, problem, name=name), None)
            if row.available:
                row = Row(group, row.classification, meta_loss(attention, dtype, arguments.device))
            rows.append(row)
    return rows


def _environment(arguments: argparse.Namespace, seconds: float) -> dict[str, Any]:
    on_gpu = torch.device(arguments.device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "theria": theria.__version__ if hasattr(theria, "__version__") else "",
        "seed": arguments.seed,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
