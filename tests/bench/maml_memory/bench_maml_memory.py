"""Memory of one exact meta-gradient against the number of inner steps, beside its peers.

The adjoint method of `theria.maml`, without and with checkpoints, beside the unrolled loop written
in PyTorch and beside `higher`: the same model (an encoder layer of PyTorch's own, with its explicit
attention, the same for all), task, optimizer and dtype, so the same meta-gradient. Every figure
comes from a process of its own, whose allocator gives memory back when it is freed: the growth of
its peak resident memory from the moment at which model and task exist and one step's meta-gradient
has been taken, to the end. A ratio is the peer's over that of the adjoint method with the same
number of steps; of time, that of the processor.

    python tests/bench/maml_memory/bench_maml_memory.py --out docs/benchmarks

writes maml_memory.json, .png and .svg. Exit status 1 if two methods disagree by more than 1e-9.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from theria import maml

STEPS = (2, 5, 10, 20, 50)
BATCH, LENGTH, WIDTH, HEADS, CLASSES = 16, 64, 64, 4, 5
RATE = 0.01
AGREEMENT = 1e-9
# Of glibc: nothing above 64 KiB is kept when freed, so resident memory is what is held.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
OURS = "theria.maml, adjoint"


class Classifier(nn.Module):
    """An encoder layer, the mean over tokens, a linear head; float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True
        )
        self.head = nn.Linear(WIDTH, CLASSES)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, width] to logits [batch, classes]."""
        logits: torch.Tensor = self.head(self.encoder(x).mean(1))
        return logits


Batch = tuple[torch.Tensor, torch.Tensor]
Method = Callable[[Classifier, Batch, Batch, int], list[torch.Tensor]]


def adjoint(checkpoint_every: Callable[[int], int]) -> Method:
    """Of `theria.maml`."""

    def gradient(model: Classifier, support: Batch, query: Batch, steps: int) -> list[torch.Tensor]:
        loss, params = maml.from_module(model, cross_entropy)
        inner = maml.InnerLoop(steps, RATE, checkpoint_every(steps))
        result = maml.meta_gradient(loss, params, maml.Task(support, query), inner)
        return list(result.gradient.values())

    return gradient


def unrolled(model: Classifier, support: Batch, query: Batch, steps: int) -> list[torch.Tensor]:
    """The loop as one writes it, with the graph of every step."""
    initial: dict[str, torch.Tensor] = dict(model.named_parameters())
    params = initial
    for _ in range(steps):
        logits = torch.func.functional_call(model, params, support[0])
        gradients = torch.autograd.grad(
            cross_entropy(logits, support[1]), list(params.values()), create_graph=True
        )
        params = {n: p - RATE * g for (n, p), g in zip(params.items(), gradients, strict=True)}
    logits = torch.func.functional_call(model, params, query[0])
    return list(torch.autograd.grad(cross_entropy(logits, query[1]), list(initial.values())))


def with_higher(model: Classifier, support: Batch, query: Batch, steps: int) -> list[torch.Tensor]:
    """As the documentation of `higher` has it."""
    import higher  # type: ignore[import-untyped]

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, inner):
        for _ in range(steps):
            inner.step(cross_entropy(fast(support[0]), support[1]))
        loss = cross_entropy(fast(query[0]), query[1])
        return list(torch.autograd.grad(loss, list(model.parameters())))


METHODS: dict[str, Method] = {
    OURS: adjoint(lambda _steps: 1),
    "theria.maml, checkpoints": adjoint(lambda steps: max(1, math.isqrt(steps))),
    "unrolled loop": unrolled,
    "higher": with_higher,
}


def peak_bytes() -> int:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(method: str, steps: int) -> dict[str, Any]:
    """In this process, which must be a fresh one."""
    torch.set_num_threads(1)
    model = Classifier()
    generator = torch.Generator().manual_seed(1)

    def draw() -> Batch:
        x = torch.randn(BATCH, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
        return x, torch.randint(CLASSES, (BATCH,), generator=generator)

    support, query = draw(), draw()
    with sdpa_kernel(SDPBackend.MATH):
        METHODS[method](model, support, query, 1)
        before, start = peak_bytes(), time.process_time()
        gradient = METHODS[method](model, support, query, steps)
    flat = torch.cat([g.ravel() for g in gradient])
    return {
        "method": method,
        "inner_steps": steps,
        "growth_bytes": peak_bytes() - before,
        "processor_seconds": time.process_time() - start,
        "gradient": flat[:: max(1, flat.numel() // 64)].tolist(),
    }


def in_a_process(method: str, steps: int) -> dict[str, Any]:
    """`measure`, by a process of its own."""
    command = [sys.executable, __file__, f"--measure={method}", f"--steps={steps}"]
    environment = {**os.environ, **EXACT_MEMORY}
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def disagreement(rows: list[dict[str, Any]]) -> float:
    """The largest relative difference of two methods' meta-gradients."""
    worst = 0.0
    for steps in {row["inner_steps"] for row in rows}:
        gradients = [
            torch.tensor(r["gradient"], dtype=torch.float64)
            for r in rows
            if r["inner_steps"] == steps
        ]
        differences = [float((g - gradients[0]).norm()) for g in gradients]
        worst = max(worst, max(differences) / float(gradients[0].norm()))
    return worst


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """MiB against inner steps, a line a method."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "theria"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for method, marker in zip(METHODS, "osD^", strict=True):
        mine = [row for row in rows if row["method"] == method]
        axes.plot(
            [row["inner_steps"] for row in mine],
            [row["growth_bytes"] / 2**20 for row in mine],
            marker=marker,
            label=method,
        )
    axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel="growth of peak memory, MiB")
    axes.set_xticks(STEPS, map(str, STEPS), minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title("One exact meta-gradient, an encoder layer, float64")
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(out / f"maml_memory.{suffix}", dpi=150, metadata=metadata)


def main() -> int:
    """Measures all; the return value is the exit status."""
    parser = argparse.ArgumentParser(description="Memory of a meta-gradient by inner steps.")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder")
    parser.add_argument("--steps", type=int, nargs="*", default=list(STEPS))
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.steps[0])))
        return 0
    pairs = [(method, steps) for steps in arguments.steps for method in METHODS]
    rows = [in_a_process(*pair) for pair in tqdm(pairs, desc="processes")]
    worst = disagreement(rows)
    ours = {row["inner_steps"]: row for row in rows if row["method"] == OURS}
    for row in rows:
        del row["gradient"]
        own = max(ours[row["inner_steps"]]["growth_bytes"], 1)
        row["memory_ratio"] = row["growth_bytes"] / own
        row["time_ratio"] = row["processor_seconds"] / ours[row["inner_steps"]]["processor_seconds"]
        print(
            f"{row['inner_steps']:4d} {row['method']:26s} {row['growth_bytes'] / 2**20:9.1f} MiB"
            f"  x{row['memory_ratio']:7.1f} memory  x{row['time_ratio']:5.2f} time"
        )
    print(f"largest relative difference of two methods' meta-gradients: {worst:.1e}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "shape": {"batch": BATCH, "length": LENGTH, "width": WIDTH, "heads": HEADS},
        "parameter_bytes": sum(p.nbytes for p in Classifier().parameters()),
        "largest_disagreement": worst,
        "rows": rows,
    }
    (arguments.out / "maml_memory.json").write_text(json.dumps(document, indent=1) + "\n")
    plot(rows, arguments.out)
    return 0 if worst < AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())
