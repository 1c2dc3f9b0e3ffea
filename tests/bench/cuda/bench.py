"""Times the CUDA backend beside its peers on one GPU, in one run, and writes JSON.

    python3 tests/bench/cuda/bench.py LIBRARY [--json FILE] [--presets small,vit] [--dtype tf32]

Times are medians in milliseconds between two events on torch's stream, ours and a peer's taken by
the same code: `milliseconds` on a device that was kept busy until the host had launched all, so
that what launches cost does not count; `milliseconds_with_launches` on an idle device. TFLOP/s are
of the former and count the products of the definition (forward 2, VJP 5, JVP 6, HVP from scratch
21, each 2 * batch * heads * seq_q * seq_kv * head_dim; half if causal). The VJP is given o and lse
and gives the three gradients, as PyTorch's backward does.

Extra bytes are the most memory in use at once beyond inputs and outputs. The error of an output is
|x - y| / |y| in the Euclidean norm over the last head of the last batch; y is computed in float64.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peers import COMPILED, EXPLICIT, FUSED, PEERS_OF, Tensors, prepare
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cuda"))
from device_kernels import OUTPUTS_OF, DeviceKernels, Options, allocate_outputs
from environment import environment
from explicit_attention import explicit_outputs


class Problem(NamedTuple):
    """One shape, `[batch, heads, seq, head_dim]` for every tensor."""

    preset: str
    batch: int
    heads: int
    seq: int
    head_dim: int
    causal: bool

    @property
    def shape(self) -> str:
        return f"{self.batch},{self.heads},{self.seq},{self.head_dim}"


PROBLEMS = [
    Problem("small", 4, 16, 2048, 64, False),
    Problem("small", 4, 16, 2048, 64, True),
    Problem("medium", 4, 16, 2048, 128, False),
    Problem("large", 4, 16, 4096, 128, False),
    Problem("large", 4, 16, 4096, 128, True),
    Problem("vit", 64, 12, 197, 64, False),
    Problem("maml", 32, 4, 64, 32, False),
    Problem("long", 1, 16, 16384, 64, False),
    Problem("long", 1, 16, 16384, 128, False),
    Problem("long", 1, 16, 16384, 128, True),
    Problem("long", 1, 2, 65536, 128, False),
]
SMALL_PRESETS = ("vit", "maml")
DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float64": torch.float64,
}
PRODUCTS = {"forward": 2, "vjp": 5, "jvp": 6, "hvp": 21}
INPUTS_OF = {
    "forward": ("q", "k", "v"),
    "vjp": ("q", "k", "v", "o_bar"),
    "jvp": ("q", "k", "v", "q_dot", "k_dot", "v_dot"),
    "hvp": ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"),
}
# Of the scores of one block of the reference.
REFERENCE_ELEMENTS = 1 << 26
CYCLES_PER_SECOND = 2e9


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the body once `seconds` are over, between two steps of Python."""

    def stop(signum: int, frame: object) -> None:
        del signum, frame
        raise TimeoutError(f"over its limit of {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def schedule(problems: list[Problem]) -> list[tuple[Problem, tuple[str, ...]]]:
    """Which peers are timed at which problem, in order; the run's time may end before the list.

    The fused ones at every problem, all others where problems are small, then the dear ones.
    """
    small = [problem for problem in problems if problem.preset in SMALL_PRESETS]
    large = [problem for problem in problems if problem.preset not in SMALL_PRESETS]
    order = ((problems, FUSED), (small, COMPILED + EXPLICIT), (large, EXPLICIT), (large, COMPILED))
    return [(problem, names) for some, names in order for problem in some]


def bytes_of(tensors: Tensors) -> int:
    """Bytes of all."""
    return sum(x.numel() * x.element_size() for x in tensors.values())


def draw(problem: Problem, dtype: torch.dtype) -> Tensors:
    """All inputs of the HVP, normal; the same at every call."""
    torch.manual_seed(problem.seq + problem.head_dim)
    shape = (problem.batch, problem.heads, problem.seq, problem.head_dim)
    return {name: torch.randn(shape, device="cuda", dtype=dtype) for name in INPUTS_OF["hvp"]}


def last_head(tensors: Tensors) -> Tensors:
    """The last head of the last batch, as a batch of one head."""
    return {name: x[-1:, -1:] for name, x in tensors.items()}


def float64_outputs(inputs: Tensors, causal: bool) -> Tensors:
    """All outputs of one head in float64, by blocks of queries.

    What belongs to queries is put together from the blocks, what belongs to keys is their sum.
    """
    seq = inputs["k"].shape[2]
    rows = max(1, min(seq, REFERENCE_ELEMENTS // seq))
    columns = torch.arange(seq, device="cuda")
    blocks: dict[str, list[torch.Tensor]] = {}
    sums: Tensors = {}
    for begin in range(0, seq, rows):
        block = {
            name: x if name[0] in "kv" else x[:, :, begin : begin + rows]
            for name, x in inputs.items()
        }
        mask = columns <= columns[begin : begin + rows].view(-1, 1) if causal else None
        for name, x in explicit_outputs("hvp", block, Options(mask=mask), torch.float64).items():
            if name[0] in "kv":
                sums[name] = sums[name] + x if name in sums else x
            else:
                blocks.setdefault(name, []).append(x)
    return sums | {name: torch.cat(parts, dim=2) for name, parts in blocks.items()}


def relative_errors(outputs: Tensors, reference: Tensors) -> dict[str, float]:
    """|x - y| / |y| of each output of one head."""
    return {
        name: float((x.double() - reference[name]).norm() / reference[name].norm())
        for name, x in last_head(outputs).items()
    }


def repetitions(seconds: float, most: int) -> int:
    """How often to time what takes `seconds`: about half a second, but 3 times at least."""
    return max(3, min(most, int(0.5 / max(seconds, 1e-9))))


def measure(run: Callable[[], object], most: int) -> dict[str, float]:
    """Both medians, see above, of `run`, which enqueues on torch's stream."""
    run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    launched = time.perf_counter() - begin
    torch.cuda.synchronize()
    count = repetitions(time.perf_counter() - begin, most)
    hold = int(CYCLES_PER_SECOND * min(1.5 * launched + 1e-4, 0.05))

    def median(cycles: int) -> float:
        times = []
        for _ in range(count):
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if cycles:
                torch.cuda._sleep(cycles)
            first.record()
            run()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last))
        return statistics.median(times)

    return {"milliseconds": median(hold), "milliseconds_with_launches": median(0)}


class Bench:
    """Ours and peers over problems, in one dtype; `results` grows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._kernels = DeviceKernels(arguments.library)
        self._dtype_name: str = arguments.dtype
        self._dtype = DTYPES[arguments.dtype]
        self._fast = arguments.dtype == "tf32"
        self._operations: list[str] = arguments.operations.split(",")
        self._peers: list[str] = arguments.peers.split(",")
        self._repeats: int = arguments.repeats
        self._limit: float = arguments.limit
        self._deadline = time.monotonic() + arguments.seconds
        self._references: dict[Problem, Tensors] = {}
        self._rows: dict[tuple[Problem, str], dict[str, Any]] = {}

    @property
    def results(self) -> list[dict[str, Any]]:
        """A row for each problem and operation."""
        return list(self._rows.values())

    def ours(self, problem: Problem) -> None:
        """Times all operations of ours and computes the reference, for which peers wait."""
        inputs = draw(problem, self._dtype)
        self._references[problem] = float64_outputs(last_head(inputs), problem.causal)
        torch.cuda.empty_cache()
        options = Options(is_causal=problem.causal, fast=self._fast)
        forward = allocate_outputs("forward", inputs)
        torch.cuda.synchronize()
        self._kernels.call(
            "forward", {n: inputs[n] for n in INPUTS_OF["forward"]}, forward, options
        )
        for operation in self._operations:
            given = {name: inputs[name] for name in INPUTS_OF[operation]}
            if operation == "vjp":
                given |= forward
            outputs = allocate_outputs(operation, given)
            for name in given:
                outputs.pop(name, None)
            torch.cuda.synchronize()
            _, kernel = self._kernels.call(operation, given, outputs, options)
            extra = self._kernels.workspace_bytes
            stream = torch.cuda.current_stream().cuda_stream
            times = measure(
                self._kernels.prepare(operation, given, outputs, options, stream), self._repeats
            )
            row = {
                "preset": problem.preset,
                "shape": problem.shape,
                "causal": problem.causal,
                "operation": operation,
                "dtype": self._dtype_name,
                "kernel": kernel,
                **self._figures(
                    problem,
                    operation,
                    times,
                    extra,
                    self._errors(problem, operation, outputs),
                ),
                "extra_share_of_inputs": extra / bytes_of(given),
                "peers": {},
            }
            self._rows[problem, operation] = row
            self._print(problem, operation, "ours", row)

    def others(self, problem: Problem, names: tuple[str, ...]) -> None:
        """Times the peers of these names, where asked for, at all operations that they have."""
        inputs = draw(problem, self._dtype)
        for operation in self._operations:
            row = self._rows[problem, operation]
            for peer in names:
                if peer not in self._peers or peer not in PEERS_OF[operation]:
                    continue
                row["peers"][peer] = figures = self._peer(problem, operation, peer, inputs)
                self._print(problem, operation, peer, figures, row["milliseconds"])
                gc.collect()
                torch.cuda.empty_cache()

    def _peer(self, problem: Problem, operation: str, peer: str, inputs: Tensors) -> dict[str, Any]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            return {"failed": "not run, the time for all peers was over"}
        try:
            with time_limit(min(left, self._limit)), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = prepare(peer, operation, inputs, problem.causal)
                outputs = run()
                torch.cuda.synchronize()
                del outputs
                before = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
                outputs = run()
                extra = torch.cuda.max_memory_allocated() - before - bytes_of(outputs)
                errors = self._errors(problem, operation, outputs)
                del outputs
                times = measure(run, self._repeats)
        except Exception as error:  # whatever a peer raises is its result
            lines = str(error).strip().splitlines() or [""]
            return {"failed": f"{type(error).__name__}: {lines[0][:160]}"}
        return self._figures(problem, operation, times, extra, errors)

    def _errors(self, problem: Problem, operation: str, outputs: Tensors) -> dict[str, float]:
        wanted = {name: x for name, x in outputs.items() if name in OUTPUTS_OF[operation]}
        return relative_errors(wanted, self._references[problem])

    @staticmethod
    def _figures(
        problem: Problem,
        operation: str,
        times: dict[str, float],
        extra: int,
        errors: dict[str, float],
    ) -> dict[str, Any]:
        flops = PRODUCTS[operation] * 2.0 * problem.batch * problem.heads * problem.head_dim
        flops *= float(problem.seq) ** 2 * (0.5 if problem.causal else 1.0)
        return {
            **times,
            "tflops": flops / times["milliseconds"] / 1e9,
            "extra_bytes": extra,
            "errors": errors,
        }

    @staticmethod
    def _print(
        problem: Problem,
        operation: str,
        who: str,
        figures: dict[str, Any],
        ours: float | None = None,
    ) -> None:
        mask = "causal" if problem.causal else "full"
        text = f"{problem.shape:16s}{mask:7s}{operation:8s}{who:10s}"
        if "failed" in figures:
            tqdm.write(f"{text}{figures['failed']}")
            return
        ratio = "" if ours is None else f"  {figures['milliseconds'] / ours:.2f}x our time"
        if "extra_share_of_inputs" in figures:
            ratio = f"  {100 * figures['extra_share_of_inputs']:.2f}% of the inputs"
        tqdm.write(
            f"{text}{figures['milliseconds']:10.3f} ms{figures['tflops']:6.0f} TFLOP/s"
            f"{figures['extra_bytes'] / 2**20:10.1f} MiB extra"
            f"  error {max(figures['errors'].values()):.1e}{ratio}"
        )


def main() -> None:
    """Ours at every problem first, then the peers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--presets", default="small,medium,large,vit,maml,long")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--operations", default="forward,vjp,jvp,hvp")
    parser.add_argument("--peers", default="flash,cudnn,efficient,math,eager,compile,jvp_flash")
    parser.add_argument("--repeats", type=int, default=20, help="at most, of fast calls")
    parser.add_argument("--limit", type=float, default=15.0, help="seconds for a peer's operation")
    parser.add_argument("--seconds", type=float, default=170.0, help="after which no peer starts")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.set_float32_matmul_precision("high" if arguments.dtype == "tf32" else "highest")
    bench = Bench(arguments)
    problems = [p for p in PROBLEMS if p.preset in arguments.presets.split(",")]
    for problem in tqdm(problems, desc="ours", disable=None):
        bench.ours(problem)
    for problem, names in tqdm(schedule(problems), desc="peers", disable=None):
        bench.others(problem, names)
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s")
    over = [
        f"{row['shape']} {row['operation']}"
        for row in bench.results
        if row["preset"] == "long" and row["extra_share_of_inputs"] >= 0.05
    ]
    print("5% of the inputs' memory or more at lengths from 16384:", ", ".join(over) or "none")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "environment": environment(),
                    "arguments": {
                        name: value
                        for name, value in vars(arguments).items()
                        if name not in ("library", "json")
                    },
                    "seconds": round(seconds, 1),
                    "results": bench.results,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
