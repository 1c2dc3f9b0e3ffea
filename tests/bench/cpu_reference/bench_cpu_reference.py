"""The CPU reference against PyTorch's explicit float64 attention, by turns in the same run.

Each round times our operation and then PyTorch's, so that both see the same machine; a ratio is
PyTorch's median time over ours (above 1: we are faster). Also measured: the growth of the process
during an HVP over 8192 keys.

    python tests/bench/cpu_reference/bench_cpu_reference.py \
        --program build/bin/cpu_reference_bench --json docs/benchmarks/cpu_reference.json

Exit status 1 if a figure misses its target: forward 0.7, VJP, JVP and HVP 1.0 (HVP against the
faster of forward-over-reverse and double backward), growth 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

Shape = tuple[int, int, int, int]  # batch, heads, seq, head_dim
Tensors = dict[str, torch.Tensor]

SHAPES: tuple[Shape, ...] = ((2, 4, 512, 64), (1, 2, 2048, 64))
GROWTH_SHAPE: Shape = (1, 1, 8192, 64)
GROWTH_LIMIT_BYTES = 64 << 20
TARGETS = {"forward": 0.7, "vjp": 1.0, "jvp": 1.0, "hvp": 1.0}


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) v, every matrix stored."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores, dim=-1) @ v


def vjp(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor) -> Any:
    """Cotangents of q, k and v, differentiable."""
    return torch.func.vjp(attention, q, k, v)[1](o_bar)


def torch_forward(t: Tensors) -> None:
    with torch.no_grad():
        attention(t["q"], t["k"], t["v"])


def torch_vjp(t: Tensors) -> None:
    leaves = [t[name].detach().requires_grad_() for name in ("q", "k", "v")]
    torch.autograd.grad(attention(*leaves), leaves, t["o_bar"])


def torch_jvp(t: Tensors) -> None:
    primals = (t["q"], t["k"], t["v"])
    torch.func.jvp(attention, primals, (t["q_dot"], t["k_dot"], t["v_dot"]))


def torch_forward_over_reverse(t: Tensors) -> None:
    primals = (t["q"], t["k"], t["v"], t["o_bar"])
    torch.func.jvp(vjp, primals, (t["q_dot"], t["k_dot"], t["v_dot"], t["o_bar_dot"]))


def torch_double_backward(t: Tensors) -> None:
    leaves = [t[name].detach().requires_grad_() for name in ("q", "k", "v", "o_bar")]
    bars = torch.autograd.grad(attention(*leaves[:3]), leaves[:3], leaves[3], create_graph=True)
    torch.autograd.grad(bars, leaves, (t["q_dot"], t["k_dot"], t["v_dot"]))


PEERS: tuple[tuple[str, str, Callable[[Tensors], None]], ...] = (
    ("forward", "matmul, softmax, matmul", torch_forward),
    ("vjp", "autograd", torch_vjp),
    ("jvp", "torch.func.jvp", torch_jvp),
    ("hvp", "jvp of vjp", torch_forward_over_reverse),
    ("hvp", "double backward", torch_double_backward),
)


@dataclass(frozen=True)
class Row:
    """Medians in seconds; ratio is peer_seconds / seconds."""

    shape: Shape
    operation: str
    peer: str
    seconds: float
    peer_seconds: float
    ratio: float
    target: float


class Program:
    """cpu_reference_bench, which answers a line of JSON to each line."""

    def __init__(self, path: pathlib.Path) -> None:
        self._process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *words: object) -> dict[str, Any]:
        """Raises RuntimeError if the program has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(" ".join(str(word) for word in words) + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError("cpu_reference_bench ended unexpectedly")
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(program: Program, shape: Shape, rounds: int) -> list[Row]:
    """One row for each peer."""
    generator = torch.Generator().manual_seed(0)
    names = ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
    tensors = {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name in names}
    rows = []
    for operation, peer, function in PEERS:
        ours: list[float] = []
        theirs: list[float] = []
        for warm_up in (True, *[False] * rounds):
            answer = program.ask("time", operation, *shape, 2)["seconds"]
            for _ in range(2):
                start = time.perf_counter()
                function(tensors)
                if not warm_up:
                    theirs.append(time.perf_counter() - start)
            if not warm_up:
                ours += answer
        seconds, peer_seconds = statistics.median(ours), statistics.median(theirs)
        rows.append(
            Row(
                shape,
                operation,
                peer,
                seconds,
                peer_seconds,
                peer_seconds / seconds,
                TARGETS[operation],
            )
        )
    return rows


def commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip()


def print_table(rows: list[Row], growth_bytes: int) -> None:
    print(
        f"{'batch,heads,seq,dim':>20} {'operation':>9} {'peer':>24}"
        f" {'ours ms':>9} {'torch ms':>9} {'ratio':>6} {'target':>6}"
    )
    for row in rows:
        shape = ",".join(map(str, row.shape))
        print(
            f"{shape:>20} {row.operation:>9} {row.peer:>24} {row.seconds * 1e3:9.2f}"
            f" {row.peer_seconds * 1e3:9.2f} {row.ratio:6.2f} {row.target:6.1f}"
        )
    shape = ",".join(map(str, GROWTH_SHAPE))
    print(
        f"HVP at {shape} grows the process by {growth_bytes / 2**20:.1f} MiB"
        f" (limit {GROWTH_LIMIT_BYTES >> 20})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--program", type=pathlib.Path, default="build/bin/cpu_reference_bench")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()

    threads = len(os.sched_getaffinity(0))  # what the program takes too
    torch.set_num_threads(threads)
    program = Program(arguments.program)
    try:
        info = program.ask("info")
        growth_bytes = int(program.ask("memory", "hvp", *GROWTH_SHAPE)["growth_bytes"])
        rows = [row for shape in SHAPES for row in measure(program, shape, arguments.rounds)]
    finally:
        program.close()

    print_table(rows, growth_bytes)
    if arguments.json is not None:
        report = {
            "commit": commit(),
            "processor": info["device"],
            "instructions": info["instructions"],
            "threads": threads,
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "rounds": arguments.rounds,
            "times": [asdict(row) for row in rows],
            "growth": {
                "shape": GROWTH_SHAPE,
                "bytes": growth_bytes,
                "limit_bytes": GROWTH_LIMIT_BYTES,
            },
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    met = all(row.ratio >= row.target for row in rows) and growth_bytes < GROWTH_LIMIT_BYTES
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
