"""`benchmark` of a local client."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from typing_extensions import override

from theria._errors import InvalidArgument
from theria._local_context import LocalContext
from theria._local_options import IMPLEMENTATIONS, OPERATION_NUMBERS
from theria._local_runner import runner_in_place
from theria._local_staging import Described, StagedPlace
from theria._operations import Operation, output_layout
from theria._results import BenchmarkResult, Execution

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
    names = context.library.binding.OUTPUTS
    outputs = [name for name in operation.outputs if not name.startswith("bias")]
    wanted = tuple(map(names.index, outputs))
    inputs = shape.inputs(operation.name, dtype)
    place = _ReusedPlace(context, len(wanted)) if context.is_cuda else None
    seconds = []
    try:
        runner = place.runner() if place is not None else runner_in_place(context)
        arrays = tuple(map(inputs.get, context.library.binding.INPUTS))
        if place is not None:
            arrays = tuple(None if x is None else place.copy_in(x, "input") for x in arrays)
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            _, report = runner.run(number, arrays, wanted, options, 0.0)
            context.library.synchronize(context.address, 0)
            wall = time.perf_counter() - start
            seconds.append(wall if context.is_cuda else report[2])
        flops = runner.flops(number, arrays, options)
    finally:
        if place is not None:
            place.close()
    median = statistics.median(seconds[1:])  # the first one warms up
    layouts = {name: (inputs[name].shape, dtype) for name in ("q", "k", "v")}
    made = (output_layout(name, layouts) for name in outputs)
    output_bytes = sum(prod(extents) * element.itemsize for extents, element in made)
    return BenchmarkResult(
        seconds=tuple(seconds[1:]),
        median_seconds=median,
        flops=flops,
        flops_per_second=flops / median,
        bytes=sum(array.nbytes for array in inputs.values()) + output_bytes,
        execution=Execution(
            request_id="",
            implementation=IMPLEMENTATIONS[report[0]],
            kernel=report[1],
            device=context.device.id,
            queue_seconds=0.0,
            compute_seconds=seconds[-1],
        ),
    )


class _ReusedPlace(StagedPlace):
    """Gives the outputs of every call the memory of the first one's."""

    def __init__(self, context: LocalContext, outputs: int):
        super().__init__(context)
        self._made: list[Described] = []
        self._places = itertools.cycle(range(outputs))

    @override
    def new_output(self, _q: Any, dtype: int, shape: tuple[int, ...]) -> Described:
        place = next(self._places)
        if place == len(self._made):
            self._made.append(super().new_output(_q, dtype, shape))
        return self._made[place]
