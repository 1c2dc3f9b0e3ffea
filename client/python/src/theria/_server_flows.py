"""Flows about the server itself: info, limits, benchmark, health."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2

from theria import _results as results
from theria._dtypes import decode_dtype, encode_dtype
from theria._errors import FailedPrecondition, InvalidArgument
from theria._operations import OPERATIONS
from theria._options import CallOptions, check_names, choice, encode_options, option_tensors
from theria._session import Session
from theria._steps import SERVER_SERVICE, Call, Deadline, Flow, Method, retrying
from theria.v1 import attention_pb2, server_pb2

__all__ = ["benchmark", "decode_execution", "health", "server_info", "server_limits"]

INFO = Method(
    f"/{SERVER_SERVICE}/GetServerInfo",
    server_pb2.GetServerInfoRequest,
    server_pb2.GetServerInfoResponse,
)
BENCHMARK = Method(
    f"/{SERVER_SERVICE}/RunBenchmark",
    server_pb2.RunBenchmarkRequest,
    server_pb2.RunBenchmarkResponse,
)
HEALTH: Method[Any, Any] = Method(
    "/grpc.health.v1.Health/Check",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse,
)


def server_info(session: Session, deadline: Deadline) -> Flow[results.ServerInfo]:
    """What the server is; its limits are remembered in `session`."""
    request = server_pb2.GetServerInfoRequest()
    response: server_pb2.GetServerInfoResponse = yield from retrying(
        session.retry, deadline, lambda timeout: Call(INFO, request, timeout)
    )
    info = _decode_info(response)
    session.limits = info.limits
    return info


def server_limits(session: Session, deadline: Deadline) -> Flow[results.ServerLimits]:
    """The server's limits, asked for once a client."""
    if session.limits is not None:
        return session.limits
    return (yield from server_info(session, deadline)).limits


def benchmark(
    session: Session,
    operation: str,
    shape: dict[str, int],
    dtype: npt.DTypeLike,
    repetitions: int,
    preset: str,
    options: CallOptions,
) -> Flow[results.BenchmarkResult]:
    """Times a resident kernel; `shape` has the names of the request's fields."""
    check_names("benchmark", options)
    deadline = session.deadline(options)
    for path in option_tensors(options):
        raise InvalidArgument.of(path, "a benchmark takes no tensors")
    try:
        request = server_pb2.RunBenchmarkRequest(repetitions=repetitions, preset=preset)
        for name, extent in shape.items():
            setattr(request, name, extent)
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of("shape", f"benchmark: {error}") from error
    request.operation = choice(OPERATIONS, operation, "operation").number
    request.dtype = encode_dtype(np.dtype(dtype), "benchmark")
    encode_options(options, request.options)
    response: server_pb2.RunBenchmarkResponse = yield from retrying(
        session.retry, deadline, lambda timeout: Call(BENCHMARK, request, timeout)
    )
    return results.BenchmarkResult(
        seconds=tuple(response.seconds),
        median_seconds=response.median_seconds,
        flops=response.flops,
        flops_per_second=response.flops_per_second,
        bytes=response.bytes,
        execution=decode_execution(response.execution),
    )


def health(service: str, deadline: Deadline) -> Flow[str]:
    """One Check, without retries: what is not there should be seen not to be."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        response = yield Call(HEALTH, request, deadline.remaining())
    except FailedPrecondition as error:
        if error.code == "NOT_FOUND":
            return "service_unknown"
        raise
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return name.lower()


def decode_execution(message: attention_pb2.ExecutionInfo) -> results.Execution:
    """The message as a value."""
    return results.Execution(
        request_id=message.request_id,
        implementation=attention_pb2.Implementation.Name(message.implementation).lower(),
        kernel=message.kernel,
        device=message.device,
        queue_seconds=message.queue_seconds,
        compute_seconds=message.compute_seconds,
    )


def _decode_info(message: server_pb2.GetServerInfoResponse) -> results.ServerInfo:
    limits = message.limits
    return results.ServerInfo(
        version=message.version,
        commit=message.commit,
        backend=message.backend,
        devices=tuple(
            results.DeviceInfo(d.id, d.name, d.memory_bytes, d.architecture)
            for d in message.devices
        ),
        kernels=tuple(
            results.KernelSupport(
                operation=server_pb2.Operation.Name(k.operation).lower(),
                implementation=attention_pb2.Implementation.Name(k.implementation).lower(),
                dtype=decode_dtype(k.dtype).name,
                min_head_dim=k.min_head_dim,
                max_head_dim=k.max_head_dim,
                head_dim_multiple=k.head_dim_multiple,
            )
            for k in message.kernels
        ),
        limits=results.ServerLimits(
            max_message_bytes=limits.max_message_bytes,
            max_tensor_bytes=limits.max_tensor_bytes,
            max_queued_requests=limits.max_queued_requests,
            max_queued_bytes=limits.max_queued_bytes,
            default_ttl=limits.default_ttl_ms / 1e3,
            max_ttl=limits.max_ttl_ms / 1e3,
            max_pin=limits.max_pin_ms / 1e3,
            max_benchmark_repetitions=limits.max_benchmark_repetitions,
        ),
        store=results.StoreInfo(
            message.store.capacity_bytes, message.store.used_bytes, message.store.entries
        ),
        uptime=message.uptime_seconds,
        shared_memory=message.shared_memory,
    )
