"""Host time of a call of `theria.local` beside PyTorch's own attention, without arithmetic.

    .venv/bin/python tests/bench/local/local_overhead.py [--device cpu|cuda] [--json FILE]

On a GPU nothing is waited for between calls, so that what is timed is the host's part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

import theria

CALLS = 2000


def best_microseconds(call: Callable[[], object], device: str) -> float:
    """The fastest of many calls."""
    best = float("inf")
    for index in range(CALLS):
        if device == "cuda" and index % 50 == 0:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best * 1e6


def main() -> None:
    """Prints a line for each call."""
    parser = argparse.ArgumentParser(description="Times the host's part of calls.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    client = theria.local(arguments.device, threads=1)
    extent = 1 if arguments.device == "cpu" else 32
    x = torch.randn(1, 1, extent, 64, device=arguments.device)
    calls: dict[str, Callable[[], object]] = {
        "torch sdpa": lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x),
        "torch empty": lambda: torch.empty_like(x),
        "forward": lambda: client.forward(x, x, x),
        "vjp": lambda: client.vjp(x, x, x, x),
        "jvp": lambda: client.jvp(x, x, x, x, x, x),
        "hvp": lambda: client.hvp(x, x, x, x, x, x, x),
    }
    rows = {
        name: round(best_microseconds(call, arguments.device), 2) for name, call in calls.items()
    }
    for name, microseconds in rows.items():
        print(f"{name:12} {microseconds:8.2f} us")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
