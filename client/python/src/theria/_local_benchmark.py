"""`benchmark` of a local client."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from theria._call_frame import CallFrame
from theria._errors import InvalidArgument
from theria._local_arrays import HostPlace
from theria._local_call import LocalCall
from theria._local_context import LocalContext
from theria._local_options import OPERATION_NUMBERS
from theria._local_staging import StagedPlace
from theria._operations import Operation
from theria._results import BenchmarkResult

__all__ = ["ProblemShape", "benchmark"]


@dataclass(frozen=True)
class ProblemShape:
    """Extents; 0 for `heads_kv`, `seq_kv` and `head_dim_v` takes those of the queries."""

    batch: int
    heads_q: int
    seq_q: int
    head_dim: int
    heads_kv: int = 0
    seq_kv: int = 0
    head_dim_v: int = 0

    def inputs(self, operation: str, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Random tensors for all that `operation` reads."""
        for name in ("batch", "heads_q", "seq_q", "head_dim"):
            extent = getattr(self, name)
            if extent < 1:
                raise InvalidArgument.of(name, f"{name} is {extent}, must be at least 1")
        heads_kv, seq_kv = self.heads_kv or self.heads_q, self.seq_kv or self.seq_q
        head_dim_v = self.head_dim_v or self.head_dim
        q = (self.batch, self.heads_q, self.seq_q, self.head_dim)
        k = (self.batch, heads_kv, seq_kv, self.head_dim)
        v = (self.batch, heads_kv, seq_kv, head_dim_v)
        o = (*q[:3], head_dim_v)
        shapes = {"q": q, "k": k, "v": v}
        if operation in ("vjp", "hvp"):
            shapes["o_bar"] = o
        if operation in ("jvp", "hvp"):
            shapes.update(q_dot=q, k_dot=k, v_dot=v)
        if operation == "hvp":
            shapes["o_bar_dot"] = o
        random = np.random.default_rng(0)
        return {
            name: random.standard_normal(shape, np.float32).astype(dtype)
            for name, shape in shapes.items()
        }


def benchmark(
    context: LocalContext,
    operation: Operation[Any],
    shape: ProblemShape,
    dtype: np.dtype[Any],
    repetitions: int,
    options: bytes,
) -> BenchmarkResult:
    """Times an operation. On a GPU from the launch to its end, on the CPU what the library says."""
    number = OPERATION_NUMBERS[operation.name]
    place = StagedPlace(context) if context.is_cuda else HostPlace(None, False)
    call = LocalCall(context, place, CallFrame())
    seconds = []
    try:
        inputs = shape.inputs(operation.name, dtype)
        call.describe(inputs, options)
        outputs = call.make_outputs(number, tuple(operation.outputs))
        flops = call.flops(number)
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            call.launch(number, None, None)
            context.library.synchronize(context.address, 0)
            wall = time.perf_counter() - start
            seconds.append(wall if context.is_cuda else call.execution().compute_seconds)
    finally:
        if isinstance(place, StagedPlace):
            place.close()
    median = statistics.median(seconds[1:])  # the first one warms up
    return BenchmarkResult(
        seconds=tuple(seconds[1:]),
        median_seconds=median,
        flops=flops,
        flops_per_second=flops / median,
        bytes=sum(array.nbytes for array in (*inputs.values(), *outputs.values())),
        execution=call.execution(),
    )
