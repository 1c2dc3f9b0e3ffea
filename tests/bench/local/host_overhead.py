"""Host time of in-process calls, layer by layer, beside PyTorch's own attention.

    .venv/bin/python tests/bench/local/host_overhead.py [--device cpu|cuda] [--json FILE]

The problem is so small that its arithmetic does not count: [1, 1, 1, 8] on the CPU, [1, 1, 32, 64]
bfloat16 on a GPU, where nothing is waited for between calls, so that what is timed is the host's
part. On a GPU the last line is the wall time of forward and backward at [8, 4, 32, 64] float32; the
CPU reference computes in float64, which PyTorch does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

import theria
from theria._kernels_library import kernels_library
from theria._local_client import LocalClient
from theria._local_options import packed_options
from theria.torch import sdpa
from theria.torch._eager import is_eager

Call = Callable[[], object]
CALLS = 3000
WARM_UP = 100
WAIT_EVERY = 50


def microseconds(call: Call, device: str) -> dict[str, float]:
    """Fastest and median of many calls; the fastest is what a busy machine leaves comparable."""
    times = []
    for index in range(WARM_UP + CALLS):
        if device == "cuda" and index % WAIT_EVERY == 0:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    kept = times[WARM_UP:]
    return {
        "fastest": round(min(kept) * 1e6, 2),
        "median": round(statistics.median(kept) * 1e6, 2),
    }


def orders(attention: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> dict[str, Call]:
    """Forward, forward and backward, double backward, as a user calls them."""
    plain = [x.detach() for x in tensors]
    inputs = [x.detach().clone().requires_grad_() for x in tensors]
    cotangent = torch.ones_like(attention(*plain))

    def forward_and_backward() -> object:
        return torch.autograd.grad(attention(*inputs), inputs, cotangent)

    def double_backward() -> object:
        first = torch.autograd.grad(attention(*inputs), inputs, cotangent, create_graph=True)
        return torch.autograd.grad(first[0], inputs, plain[0])

    return {
        "forward, no gradient": lambda: attention(*plain),
        "forward": lambda: attention(*inputs),
        "forward and backward": forward_and_backward,
        "double backward": double_backward,
    }


def wall_microseconds(call: Call) -> float:
    """Median time of a call on a GPU with the wait for its end."""
    times = []
    for _ in range(WARM_UP + CALLS // 3):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times[WARM_UP:]) * 1e6, 2)


def layers(client: LocalClient, x: torch.Tensor) -> dict[str, Call]:
    """What a forward consists of, innermost first."""
    runner = client.runner_of_torch(x)
    assert runner is not None
    packed = packed_options({})
    rows: dict[str, Call] = {
        "torch.empty_like": lambda: torch.empty_like(x),
        "is_eager": lambda: is_eager((x, x, x, None)),
        "runner.describe": lambda: runner.describe((x, x, x), packed),
        "runner.run": lambda: runner.run(0, (x, x, x), (0, 1), packed, 0.0),
        "client.forward": lambda: client.forward(x, x, x),
        "client.hvp": lambda: client.hvp(x, x, x, x, x, x, x),
    }
    if not x.is_cuda:
        array: Any = x.numpy()
        rows["client.forward, numpy"] = lambda: client.forward(array, array, array)
    return rows


def main() -> None:
    """Prints a line for each call."""
    parser = argparse.ArgumentParser(description="Times the host's part of calls.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device: str = arguments.device
    torch.set_num_threads(1)
    client = theria.local(device, threads=1)
    assert isinstance(client, LocalClient)
    shape, dtype = ((1, 1, 1, 8), torch.float32) if device == "cpu" else ((1, 1, 32, 64), None)
    x = torch.randn(shape, device=device, dtype=dtype or torch.bfloat16)

    def ours(*tensors: torch.Tensor) -> torch.Tensor:
        return sdpa(*tensors, client=client)

    calls = {f"torch: {k}": v for k, v in orders(scaled_dot_product_attention, x, x, x).items()}
    del calls["torch: double backward"]  # which none of its fused backends has
    calls |= {f"theria: {name}": call for name, call in orders(ours, x, x, x).items()}
    calls |= layers(client, x)
    host = {name: microseconds(call, device) for name, call in calls.items()}
    print(f"{'host time, us':32} {'fastest':>9} {'median':>9}")
    for name, row in host.items():
        print(f"{name:32} {row['fastest']:9.2f} {row['median']:9.2f}")

    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "library": kernels_library().version(),
        "host_us": host,
    }
    if device == "cuda":
        small = torch.randn(8, 4, 32, 64, device=device)
        wall = {
            name: wall_microseconds(orders(attention, small, small, small)["forward and backward"])
            for name, attention in (("torch", scaled_dot_product_attention), ("theria", ours))
        }
        ratio = round(wall["theria"] / wall["torch"], 3)
        print(f"\nforward and backward at 8,4,32,64 float32, wall us: {wall}, ratio {ratio}")
        result |= {"wall_us_8_4_32_64_float32": wall, "ratio": ratio}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
