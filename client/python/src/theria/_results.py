"""What the calls return.

An output that was asked to stay on the server is a `ResidentTensor`; one that was skipped is None;
all others are writable row-major numpy arrays, or torch tensors if `q` was one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "BenchmarkResult",
    "DeviceInfo",
    "Execution",
    "ForwardResult",
    "HvpResult",
    "JvpResult",
    "KernelSupport",
    "Output",
    "ServerInfo",
    "ServerLimits",
    "StoreInfo",
    "VjpResult",
]

# numpy.ndarray, torch.Tensor, ResidentTensor or None, as the module's docstring says.
Output: TypeAlias = Any


@dataclass(frozen=True)
class Execution:
    """Who served a request, and what it cost.

    Attributes:
        request_id: Stands in the server's log line for the request.
        implementation: ``"fused"``, ``"unfused"`` or ``"reference"``.
        kernel: The variant that ran.
        device: ``"cpu"``, ``"cuda:0"``.
        queue_seconds: From acceptance to the start of the computation.
        compute_seconds: By the device's own clock where it has one.
    """

    request_id: str
    implementation: str
    kernel: str
    device: str
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, eq=False)
class ForwardResult:
    """Of `forward`: `o` [batch, heads_q, seq_q, head_dim_v], `lse` [batch, heads_q, seq_q]."""

    o: Output
    lse: Output
    execution: Execution


@dataclass(frozen=True, eq=False)
class VjpResult:
    """Of `vjp`: cotangents, shaped as q, k, v and the mask; `bias_bar`, `o`, `lse` on request."""

    q_bar: Output
    k_bar: Output
    v_bar: Output
    bias_bar: Output
    o: Output
    lse: Output
    execution: Execution


@dataclass(frozen=True, eq=False)
class JvpResult:
    """Of `jvp`: `o` and its tangent `o_dot`; `lse` and its tangent `lse_dot` on request."""

    o: Output
    o_dot: Output
    lse: Output
    lse_dot: Output
    execution: Execution


@dataclass(frozen=True, eq=False)
class HvpResult:
    """Of `hvp`: the cotangents and their tangents, shaped as q, k and v; all else on request."""

    q_bar: Output
    k_bar: Output
    v_bar: Output
    q_bar_dot: Output
    k_bar_dot: Output
    v_bar_dot: Output
    bias_bar: Output
    bias_bar_dot: Output
    o: Output
    lse: Output
    o_dot: Output
    lse_dot: Output
    execution: Execution


@dataclass(frozen=True)
class BenchmarkResult:
    """Of `benchmark`.

    Attributes:
        seconds: Each repetition, by the device's own clock.
        median_seconds: Their median.
        flops: Floating-point operations of the definition's products in one repetition.
        flops_per_second: At the median.
        bytes: Of inputs and outputs.
        execution: Who ran it.
    """

    seconds: tuple[float, ...]
    median_seconds: float
    flops: float
    flops_per_second: float
    bytes: int
    execution: Execution


@dataclass(frozen=True)
class DeviceInfo:
    """A device of the server: ``"cpu"`` or ``"cuda:0"``, as its vendor names it."""

    id: str
    name: str
    memory_bytes: int
    architecture: str


@dataclass(frozen=True)
class KernelSupport:
    """Problems that one kind of kernel covers; the head dimensions are head_dim and head_dim_v."""

    operation: str
    implementation: str
    dtype: str
    min_head_dim: int
    max_head_dim: int
    head_dim_multiple: int


@dataclass(frozen=True)
class ServerLimits:
    """What the server takes: bytes, counts, and seconds."""

    max_message_bytes: int
    max_tensor_bytes: int
    max_queued_requests: int
    max_queued_bytes: int
    default_ttl: float
    max_ttl: float
    max_pin: float
    max_benchmark_repetitions: int


@dataclass(frozen=True)
class StoreInfo:
    """The tensor store at the moment of asking."""

    capacity_bytes: int
    used_bytes: int
    entries: int


@dataclass(frozen=True)
class ServerInfo:
    """Of `info`. `uptime` in seconds; `commit` is empty if the build did not know it."""

    version: str
    commit: str
    backend: str
    devices: tuple[DeviceInfo, ...]
    kernels: tuple[KernelSupport, ...]
    limits: ServerLimits
    store: StoreInfo
    uptime: float
    shared_memory: bool
