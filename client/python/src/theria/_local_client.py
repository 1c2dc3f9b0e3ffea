"""The client that computes in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from typing_extensions import Self, Unpack, override

from theria._arrays import ArrayLike, Framework, host_tensor, to_framework
from theria._client import Client, R
from theria._client_registry import client_name
from theria._errors import InvalidArgument, RegionMissing, ResourceExhausted, Unimplemented
from theria._kernels_library import kernels_library
from theria._lengths import check_lengths
from theria._local_benchmark import ProblemShape, benchmark
from theria._local_context import LocalContext, local_context
from theria._local_options import (
    IMPLEMENTATIONS,
    OPERATION_NUMBERS,
    check_option_names,
    packed_options,
)
from theria._local_runner import runner_in_place, use_torch
from theria._local_server import server_info
from theria._local_staging import StagedPlace
from theria._local_store import LocalStore
from theria._operations import OPERATIONS, Operation
from theria._options import CallOptions, Operand, choice, milliseconds, option_tensors
from theria._resident import ResidentTensor, Retain, TensorInfo
from theria._results import BenchmarkResult, Execution, ServerInfo
from theria._shared_memory import SharedRegion
from theria._steps import Deadline

if TYPE_CHECKING:
    import torch
    from theria_kernels import _binding

__all__ = ["LocalClient"]

_HEALTH_SERVICES = ("", "theria.v1.AttentionService")
_MAX_PLANS = 256


@dataclass(frozen=True)
class _Plan:
    """What becomes of the outputs of a call.

    Attributes:
        modes: By name.
        wanted: Names of those that are computed.
        numbers: Their places in the binding's OUTPUTS.
        absent: The others, each None.
    """

    modes: Mapping[str, str]
    wanted: tuple[str, ...]
    numbers: tuple[int, ...]
    absent: Mapping[str, None]


class LocalClient(Client):
    """A `Client` that computes in this process. Made by `local`.

    Args:
        ordinal: Of the CUDA device; -1 for the CPU; None for the device of each call's `q`.
        threads: Of the CPU; 0 for one per core.
    """

    def __init__(self, ordinal: int | None, threads: int = 0):
        self._ordinal = ordinal
        self._threads = threads
        self._store = LocalStore()
        self._plans: dict[object, _Plan] = {}
        client_name(self)  # torch.compile finds a name and cannot give one

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalClient, (self._ordinal, self._threads)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        name = "auto" if self._ordinal is None else "cpu"
        if self._ordinal is not None and self._ordinal >= 0:
            name = f"cuda:{self._ordinal}"
        return f"theria.local({name!r})"

    @override
    def close(self) -> None:
        pass

    @override
    def computes_on(self, device_type: str) -> bool:
        return device_type == "cpu" or (device_type == "cuda" and self._ordinal != -1)

    @property
    def threads(self) -> int:
        """Of the CPU; 0 for one per core."""
        return self._threads

    def reads_in_place(self, device_type: str) -> bool:
        """Whether arrays on devices of that type, ``"cpu"`` or ``"cuda"``, are not copied."""
        if self._ordinal is None:
            return True
        return device_type == ("cpu" if self._ordinal < 0 else "cuda")

    @override
    def _attention(
        self,
        operation: Operation[R],
        inputs: Mapping[str, Operand | None],
        options: CallOptions,
    ) -> R:
        check_option_names(operation.name, options)
        timeout = options.get("timeout")
        deadline = None if timeout is None else Deadline(timeout)
        packed = packed_options(options)
        plan = self._plan(operation, options.get("outputs"))
        tensors: dict[str, Any] = {**inputs, **option_tensors(options)}
        for name, value in tensors.items():
            if isinstance(value, ResidentTensor):
                tensors[name] = self._store.array(value)
        for name in ("q", "k", "v"):
            if tensors[name] is None:
                raise InvalidArgument.of(name, f"{name} is None, must be an array")

        _check_lengths(tensors)
        binding = kernels_library().binding
        arrays = tuple(map(tensors.get, binding.INPUTS))
        number = OPERATION_NUMBERS[operation.name]
        context, runner = self.runner_for(arrays[0])
        place = StagedPlace(context) if runner is None else None
        try:
            remaining = 0.0 if deadline is None else deadline.remaining() or 0.0
            made, report = (runner or cast(StagedPlace, place).runner()).run(
                number, arrays, plan.numbers, packed, remaining
            )
            results: Sequence[Any] = made if place is None else place.fetch(made)
        except MemoryError as error:
            raise ResourceExhausted(f"there is no memory for the outputs: {error}") from error
        finally:
            if place is not None:
                place.close()
        outputs: dict[str, Any] = dict(plan.absent)
        outputs.update(zip(plan.wanted, results, strict=True))
        if "resident" in plan.modes.values():
            self._make_resident(outputs, plan.modes, options)
        implementation, kernel, seconds = report
        execution = Execution(
            request_id="",
            implementation=IMPLEMENTATIONS[implementation],
            kernel=kernel,
            device=context.device.id,
            queue_seconds=0.0,
            compute_seconds=seconds if seconds >= 0 else float("nan"),
        )
        return operation.result(**outputs, execution=execution)

    def runner_for(self, q: Any) -> tuple[LocalContext, _binding.Runner | None]:
        """Who computes on `q`: on its memory, or, without a runner, on a copy on the device."""
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(q, torch.Tensor):
            use_torch(kernels_library())
            if q.is_cuda and self._ordinal != -1:
                ordinal = q.get_device() if self._ordinal is None else self._ordinal
                context = local_context(ordinal)
                return context, runner_in_place(context)
        if self._ordinal is not None and self._ordinal >= 0:
            return local_context(self._ordinal), None
        context = local_context(-1, self._threads)
        return context, runner_in_place(context)

    def runner_of_torch(self, q: torch.Tensor) -> _binding.Runner | None:
        """The runner that computes on the memory of `q`; None if there is none."""
        ordinal = q.get_device()  # -1 on the CPU
        if self._ordinal is not None and self._ordinal != ordinal:
            return None
        return runner_in_place(local_context(ordinal, self._threads if ordinal < 0 else 0))

    def _plan(self, operation: Operation[Any], asked: Mapping[str, Any] | None) -> _Plan:
        try:
            key = (operation.name, *asked.items()) if asked else operation.name
            return self._plans[key]
        except (KeyError, TypeError):
            modes = operation.output_modes(asked)
        wanted = tuple(name for name, mode in modes.items() if mode != "skip")
        numbers = tuple(map(kernels_library().binding.OUTPUTS.index, wanted))
        plan = _Plan(modes, wanted, numbers, dict.fromkeys(modes.keys() - set(wanted)))
        if len(self._plans) < _MAX_PLANS:
            self._plans[key] = plan
        return plan

    def _make_resident(
        self, outputs: dict[str, Any], modes: Mapping[str, str], options: CallOptions
    ) -> None:
        ttl = _seconds(options.get("resident_ttl"), "resident_ttl")
        for name, mode in modes.items():
            if mode == "resident":
                array = outputs[name]
                framework: Framework = "numpy" if isinstance(array, np.ndarray) else "torch"
                outputs[name] = self._store.add(array, framework, ttl=ttl)

    @override
    def put(
        self,
        tensor: ArrayLike,
        *,
        ttl: float | None = None,
        pin: float | None = None,
        content_address: bool = False,
        retain: Retain = "strong",
        timeout: float | None = None,
    ) -> ResidentTensor:
        Deadline(timeout)
        lease, pinned = _seconds(ttl, "ttl"), _seconds(pin, "pin")
        if getattr(tensor, "is_cuda", False) and self._ordinal != -1:
            array = tensor.detach().resolve_neg().contiguous().clone()  # type: ignore[union-attr]
            return self._store.add(
                array, "torch", ttl=lease, pin=pinned, content_address=content_address
            )
        host = host_tensor(tensor, "tensor")
        array = to_framework(np.array(host.array, order="C", copy=True), host.framework)
        return self._store.add(
            array, host.framework, ttl=lease, pin=pinned, content_address=content_address
        )

    @override
    def get(
        self,
        tensor: ResidentTensor | str,
        *,
        region: SharedRegion | None = None,
        timeout: float | None = None,
    ) -> Any:
        Deadline(timeout)
        array = self._store.array(tensor)
        return array.copy() if isinstance(array, np.ndarray) else array.clone()

    @override
    def share(
        self, nbytes: int, *, ttl: float | None = None, timeout: float | None = None
    ) -> SharedRegion:
        raise Unimplemented("a local client shares no memory: it reads arrays where they are")

    @override
    def unshare(self, region: SharedRegion, *, timeout: float | None = None) -> None:
        raise RegionMissing("a local client shares no memory: it reads arrays where they are")

    @override
    def attach(self, handle: str, *, timeout: float | None = None) -> ResidentTensor:
        return self._store.attach(handle)

    @override
    def stat(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> TensorInfo:
        return self._store.info(tensor)

    @override
    def renew(
        self,
        tensor: ResidentTensor | str,
        ttl: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        return self._store.renew(tensor, _seconds(ttl, "ttl"))

    @override
    def pin(
        self,
        tensor: ResidentTensor | str,
        duration: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        return self._store.pin(tensor, _seconds(duration, "duration"))

    @override
    def unpin(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> TensorInfo:
        return self._store.pin(tensor, 0.0)

    @override
    def delete(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> None:
        self._store.delete(tensor)

    @override
    def list(self, *, timeout: float | None = None) -> tuple[TensorInfo, ...]:
        return self._store.infos()

    @override
    def info(self, *, timeout: float | None = None) -> ServerInfo:
        return server_info(self._contexts(), self._store)

    @override
    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        self._contexts()
        return "serving" if service in _HEALTH_SERVICES else "service_unknown"

    @override
    def benchmark(
        self,
        operation: str,
        *,
        batch: int,
        heads_q: int,
        seq_q: int,
        head_dim: int,
        heads_kv: int = 0,
        seq_kv: int = 0,
        head_dim_v: int = 0,
        dtype: npt.DTypeLike = "float32",
        repetitions: int = 0,
        preset: str = "",
        **options: Unpack[CallOptions],
    ) -> BenchmarkResult:
        check_option_names("benchmark", options)
        for path in option_tensors(options):
            raise InvalidArgument.of(path, "a benchmark takes no tensors")
        shape = ProblemShape(batch, heads_q, seq_q, head_dim, heads_kv, seq_kv, head_dim_v)
        return benchmark(
            self._contexts()[0],
            choice(OPERATIONS, operation, "operation"),
            shape,
            np.dtype(dtype),
            repetitions or 10,
            packed_options(options),
        )

    def _contexts(self) -> tuple[LocalContext, ...]:
        """Those that this client may use; the one that computes first."""
        if self._ordinal is not None:
            return (local_context(self._ordinal, self._threads if self._ordinal < 0 else 0),)
        gpus = range(kernels_library().cuda_device_count())
        return (local_context(-1, self._threads), *map(local_context, gpus))


def _check_lengths(tensors: Mapping[str, Any]) -> None:
    """Those among the options that are in host memory; the library checks everything else."""
    q, k = tensors["q"], tensors["k"]
    if len(getattr(q, "shape", ())) == len(getattr(k, "shape", ())) == 4:
        check_lengths(tensors, q.shape[2], k.shape[2])


def _seconds(seconds: float | None, field: str) -> float | None:
    milliseconds(seconds, field)  # refuses what is no time
    return seconds
