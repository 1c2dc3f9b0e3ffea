"""What a PyTorch user with a GPU waits for: `theria.torch.sdpa` in process beside PyTorch, one run.

    THERIA_KERNELS_LIBRARY=build/cuda/lib/libtheria_kernels.so \
      python3 tests/bench/cuda/user_path.py [--json FILE] [--rows small,vit]

Wall times are medians in milliseconds of one call that starts and ends with an idle device; host
times are microseconds from call to return of one forward without waiting for the device. The double
backward differentiates the squared norm of the gradient by q with respect to q, k and v. PyTorch is
`F.scaled_dot_product_attention` with the backend that it chooses, and for the double backward its
math backend and explicit softmax attention, because no other backend has one. Peak memory is what
PyTorch's allocator held beyond the inputs. The worst rows come first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from theria.torch import sdpa

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cuda"))
from environment import environment

Attention = Callable[..., torch.Tensor]


class Row(NamedTuple):
    """A shape [batch, heads, seq, head_dim] of all tensors, and their dtype."""

    name: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype


ROWS = [
    Row("small", (8, 4, 32, 64), torch.float32),
    Row("maml", (32, 4, 64, 32), torch.float32),
    Row("vit", (64, 12, 197, 64), torch.bfloat16),
    Row("medium", (4, 16, 2048, 64), torch.bfloat16),
    Row("long", (1, 16, 16384, 128), torch.bfloat16),
]


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Softmax attention that stores its scores."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return torch.softmax(scores, -1) @ v


def math_sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """PyTorch's attention by its math backend."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def forward(attention: Attention, inputs: list[torch.Tensor]) -> Any:
    """One forward without a graph."""
    with torch.no_grad():
        return attention(*inputs)


def backward(attention: Attention, inputs: list[torch.Tensor]) -> Any:
    """One forward and its gradients."""
    return torch.autograd.grad(attention(*inputs).sum(), inputs)


def double_backward(attention: Attention, inputs: list[torch.Tensor]) -> Any:
    """The gradients of the squared norm of a gradient."""
    (gradient,) = torch.autograd.grad(attention(*inputs).sum(), inputs[:1], create_graph=True)
    return torch.autograd.grad(gradient.float().square().sum(), inputs)


PATHS: dict[str, tuple[Callable[..., Any], dict[str, Attention]]] = {
    "forward": (forward, {"torch": F.scaled_dot_product_attention}),
    "forward and backward": (backward, {"torch": F.scaled_dot_product_attention}),
    "double backward": (double_backward, {"math": math_sdpa, "explicit": explicit}),
}


def wall_milliseconds(call: Callable[[], Any], seconds: float) -> float:
    """The median of calls that start and end with an idle device, for about so many seconds."""
    for _ in range(3):
        call()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def host_microseconds(call: Callable[[], Any]) -> float:
    """The median time from call to return, in batches that the device's queue holds."""
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(50):
            call()
        times.append((time.perf_counter() - started) / 50)
    return statistics.median(times) * 1e6


def measured(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Wall time and peak memory of a call, or why it failed."""
    try:
        call()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        peak = torch.cuda.max_memory_allocated() - before
        return {"milliseconds": wall_milliseconds(call, seconds), "peak_bytes": peak}
    except (RuntimeError, torch.OutOfMemoryError) as error:
        torch.cuda.empty_cache()
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}


def run(row: Row, seconds: float) -> list[dict[str, Any]]:
    """All paths of one row, ours and the peers'."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(row.shape, device="cuda", dtype=row.dtype, requires_grad=True) for _ in range(3)
    ]
    results = []
    for path, (step, peers) in PATHS.items():
        figures = {
            name: measured(lambda step=step, attention=attention: step(attention, inputs), seconds)
            for name, attention in {"ours": sdpa, **peers}.items()
        }
        results.append(
            {
                "row": row.name,
                "shape": row.shape,
                "dtype": str(row.dtype),
                "path": path,
                **figures,
            }
        )
    return results


def ratio(result: dict[str, Any]) -> float:
    """The best peer's time over ours; infinite where every peer failed."""
    peers = [
        figures["milliseconds"]
        for name, figures in result.items()
        if isinstance(figures, dict) and name != "ours" and "milliseconds" in figures
    ]
    ours = result["ours"].get("milliseconds", float("inf"))
    return min(peers, default=float("inf")) / ours


def main() -> None:
    """Prints a line for each row and path, the worst first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS))
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    arguments = parser.parse_args()
    chosen = [row for row in ROWS if row.name in arguments.rows.split(",")]
    results = [r for row in tqdm(chosen, disable=None) for r in run(row, arguments.seconds)]
    small = [torch.randn(8, 4, 32, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    host = {
        name: host_microseconds(lambda attention=attention: attention(*small))
        for name, attention in (("ours", sdpa), ("torch", F.scaled_dot_product_attention))
    }
    for result in sorted(results, key=ratio):
        figures = "  ".join(
            f"{name} {x['milliseconds']:.3f} ms {x['peak_bytes'] / 2**20:.0f} MiB"
            if "milliseconds" in x
            else f"{name} failed ({x['failed'][:40]})"
            for name, x in result.items()
            if isinstance(x, dict)
        )
        shape = ",".join(map(str, result["shape"]))
        case = f"{result['path']:21s}{shape:16s}{result['dtype'][6:]:9s}"
        print(f"{ratio(result):7.2f}  {case}{figures}")
    print(f"host time of one forward: ours {host['ours']:.1f} us, torch {host['torch']:.1f} us")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "environment": environment(),
                    "seconds": arguments.seconds,
                    "host_microseconds": host,
                    "results": results,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
