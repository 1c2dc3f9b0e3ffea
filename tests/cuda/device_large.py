"""Long sequences, tensors of more than 2^31 elements, and workspace, on the GPU.

    python3 tests/cuda/device_large.py build/cuda/lib/libtheria_kernels.so [--json FILE]

- T = 65536, D = 128: all four operations run; rows of o and o_dot are compared with float64.
- More than 2^31 elements: the last batch of a large problem gives the bits that it gives alone.
- T = 16384: the workspace is under 5% of the inputs' bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from device_check import INPUTS_OF, OPERATIONS
from device_kernels import DeviceKernels, Options, allocate_outputs


def draw(batch: int, heads: int, rows: int, dim: int) -> dict[str, torch.Tensor]:
    """All inputs of the HVP, normal, bfloat16, of one shape."""
    return {
        name: torch.randn(batch, heads, rows, dim, device="cuda", dtype=torch.bfloat16)
        for name in INPUTS_OF["hvp"]
    }


def pick(inputs: dict[str, torch.Tensor], operation: str) -> dict[str, torch.Tensor]:
    """The inputs that `operation` reads."""
    return {name: inputs[name] for name in INPUTS_OF[operation]}


def long_rows(kernels: DeviceKernels, causal: bool) -> dict[str, object]:
    """T = 65536: times, and the relative error of the last 64 rows of o and o_dot."""
    inputs = draw(1, 2, 65536, 128)
    result: dict[str, object] = {"case": f"T = 65536, causal {causal}"}
    for operation in OPERATIONS:
        given = pick(inputs, operation)
        outputs = allocate_outputs(operation, given)
        torch.cuda.synchronize()
        seconds, _ = kernels.call(operation, given, outputs, Options(is_causal=causal))
        result[f"{operation} ms"] = 1e3 * seconds
        if not all(bool(torch.isfinite(x).all()) for x in outputs.values()):
            result["failed"] = f"{operation} is not finite"
    wide = {name: x.double() for name, x in pick(inputs, "jvp").items()}
    rows = slice(65536 - 64, 65536)
    scale = 128**-0.5
    q, q_dot = wide["q"][:, :, rows], wide["q_dot"][:, :, rows]
    s = scale * q @ wide["k"].mT
    if causal:
        column = torch.arange(65536, device="cuda")
        s = s.masked_fill(column > column[rows].view(-1, 1), -torch.inf)
    p = torch.softmax(s, -1)
    s_dot = scale * (q_dot @ wide["k"].mT + q @ wide["k_dot"].mT)
    p_dot = p * (s_dot - (p * s_dot).sum(-1, keepdim=True))
    for name, reference in (
        ("o", p @ wide["v"]),
        ("o_dot", p_dot @ wide["v"] + p @ wide["v_dot"]),
    ):
        x = outputs[name][:, :, rows].double()
        error = float((x - reference).norm() / reference.norm())
        result[f"{name} error"] = error
        if not error < 1e-2:
            result["failed"] = f"{name} error {error}"
    return result


def many_elements(kernels: DeviceKernels) -> dict[str, object]:
    """2.2e9 elements a tensor: the last batch alone gives the same bits."""
    batch, heads, rows, dim = 33, 16, 32768, 128
    options = Options(window=(40, 40))
    inputs: dict[str, torch.Tensor] = {}
    for name in ("q", "k", "v", "o_bar"):
        inputs[name] = torch.empty(batch, heads, rows, dim, device="cuda", dtype=torch.bfloat16)
        inputs[name].normal_()
    result: dict[str, object] = {"case": f"{inputs['q'].numel()} elements"}
    outputs = allocate_outputs("vjp", inputs)
    torch.cuda.synchronize()
    seconds, _ = kernels.call("vjp", inputs, outputs, options)
    result["vjp ms"] = 1e3 * seconds
    last = {name: x[-1:].contiguous() for name, x in inputs.items()}
    alone = allocate_outputs("vjp", last)
    torch.cuda.synchronize()
    kernels.call("vjp", last, alone, options)
    different = [name for name, x in alone.items() if not torch.equal(x, outputs[name][-1:])]
    if different:
        result["failed"] = f"different bits in {different}"
    return result


def workspace(kernels: DeviceKernels, dim: int) -> dict[str, object]:
    """T = 16384: the workspace's peak over the inputs' bytes, for each operation."""
    inputs = draw(1, 16, 16384, dim)
    result: dict[str, object] = {"case": f"workspace at T = 16384, D = {dim}"}
    for operation in OPERATIONS:
        given = pick(inputs, operation)
        outputs = allocate_outputs(operation, given)
        torch.cuda.synchronize()
        kernels.call(operation, given, outputs, Options())
        share = kernels.workspace_bytes / sum(x.numel() * 2 for x in given.values())
        result[operation] = share
        if not 0 <= share < 0.05:
            result["failed"] = f"{operation} takes {share:.3f} of the inputs"
    return result


def main() -> int:
    """Runs all; 0 if all pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kernels = DeviceKernels(arguments.library)
    results = [workspace(kernels, 64), workspace(kernels, 128)]
    results += [long_rows(kernels, False), long_rows(kernels, True), many_elements(kernels)]
    for result in results:
        print(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    return 1 if any("failed" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
