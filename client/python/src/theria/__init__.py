"""Attention and its exact first and second derivatives, in this process or on a server.

    import theria

    with theria.local() as client:                                    # or theria.connect(TARGET)
        r = client.forward(q, k, v, is_causal=True)                   # r.o, r.lse
        r = client.vjp(q, k, v, o_bar)                                # r.q_bar, r.k_bar, r.v_bar
        r = client.jvp(q, k, v, q_dot, k_dot, v_dot)                  # r.o, r.o_dot
        r = client.hvp(q, k, v, o_bar, q_dot, k_dot, v_dot)           # r.q_bar, ..., r.q_bar_dot
        t = client.put(q)                                             # replaces an array in calls

`theria.aio` has the same client for asyncio. `theria.torch` replaces PyTorch's attention and has
exact double backward, `theria.jax` does the same for JAX, and `theria.maml` builds meta-learning on
top. All errors derive from `theria.Error`; `theria._errors` shows the tree.
"""

from theria import aio
from theria._arrays import ArrayLike
from theria._client import Client
from theria._connect import connect
from theria._errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    RegionMissing,
    ResourceExhausted,
    TensorMissing,
    Unavailable,
    Unimplemented,
    WrongType,
)
from theria._identity import Priority, Tls
from theria._keepalive import Keepalive
from theria._local import local
from theria._options import CallOptions, Implementation, Operand, OutputMode, Precision
from theria._resident import ResidentTensor, TensorInfo
from theria._results import (
    BenchmarkResult,
    DeviceInfo,
    Execution,
    ForwardResult,
    HvpResult,
    JvpResult,
    KernelSupport,
    ServerInfo,
    ServerLimits,
    StoreInfo,
    VjpResult,
)
from theria._shared_memory import SharedRegion
from theria._steps import RetryPolicy

__all__ = [
    "AccessDenied",
    "ArrayLike",
    "BenchmarkResult",
    "CallOptions",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "DeviceInfo",
    "Error",
    "Execution",
    "FailedPrecondition",
    "FieldViolation",
    "ForwardResult",
    "HvpResult",
    "Implementation",
    "Internal",
    "InvalidArgument",
    "JvpResult",
    "Keepalive",
    "KernelSupport",
    "Operand",
    "OutputMode",
    "Precision",
    "Priority",
    "RegionMissing",
    "ResidentTensor",
    "ResourceExhausted",
    "RetryPolicy",
    "ServerInfo",
    "ServerLimits",
    "SharedRegion",
    "StoreInfo",
    "TensorInfo",
    "TensorMissing",
    "Tls",
    "Unavailable",
    "Unimplemented",
    "VjpResult",
    "WrongType",
    "aio",
    "connect",
    "local",
]

__version__ = "0.1.0"
