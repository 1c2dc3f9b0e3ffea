"""The client for asyncio.

    import theria

    async with theria.aio.connect("localhost:50051") as client:
        r = await client.forward(q, k, v, is_causal=True)

The methods are those of `theria.Client`, to be awaited; arguments, results and errors are the same.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from types import TracebackType
from typing import Any

import numpy.typing as npt
from typing_extensions import Self, Unpack

from theria import _server_flows, _store_flows
from theria._arrays import ArrayLike
from theria._attention_flow import attention
from theria._grpc_aio import GrpcAioTransport
from theria._grpc_channel import ChannelCredentials, Endpoint
from theria._identity import Metadata, MetadataSource, Priority, Tls
from theria._keepalive import DEFAULT_KEEPALIVE, Keepalive
from theria._operations import FORWARD, HVP, JVP, VJP
from theria._options import CallOptions, Operand, milliseconds
from theria._process import OfOneProcess
from theria._put_flow import get, put
from theria._resident import ResidentTensor, Retain, TensorInfo
from theria._results import (
    BenchmarkResult,
    ForwardResult,
    HvpResult,
    JvpResult,
    ServerInfo,
    VjpResult,
)
from theria._session import Session
from theria._shared_memory import SharedRegion, share, unshare
from theria._steps import Call, Deadline, Download, Flow, RetryPolicy, Sleep, T, Upload
from theria._transport import AsyncTransport

__all__ = ["Client", "connect"]


def connect(
    target: str,
    *,
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    credentials: ChannelCredentials | None = None,
    metadata: Metadata = (),
    tls: Tls | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    priority: Priority = "normal",
    connect_timeout: float = 5.0,
    keepalive: Keepalive | None = DEFAULT_KEEPALIVE,
) -> Client:
    """A client for the running event loop; the arguments are those of `theria.connect`.

    Raises:
        RuntimeError: The process is the forked child of one that had an open client of this kind,
            which gRPC does not survive.
        InvalidArgument: As `theria.connect`.
    """
    if any(not client._is_of_this_process for client in _open_clients):
        raise RuntimeError(
            "this process was forked from one with an open theria.aio client: close it before the "
            "fork, start the process by 'spawn' or 'forkserver', or use theria.connect"
        )
    endpoint = Endpoint(target, credentials, tls, keepalive, connect_timeout, retry is not None)
    transport = GrpcAioTransport(endpoint, MetadataSource(metadata, token, token_file, priority))
    return Client(transport, Session(timeout, retry or RetryPolicy()))


class Client(OfOneProcess):
    """As `theria.Client`, for one asyncio event loop; an asynchronous context manager.

    Any number of tasks may use one client at once. Cancelling a task cancels its request; what the
    request had made for itself on the server is deleted.
    """

    def __init__(self, transport: AsyncTransport, session: Session | None = None):
        super().__init__()
        self._transport = transport
        self._session = session or Session()
        _open_clients.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """See `theria.Client.close`."""
        if self._is_of_this_process:
            await self._transport.close()
            _open_clients.discard(self)

    async def forward(
        self, q: Operand, k: Operand, v: Operand, **options: Unpack[CallOptions]
    ) -> ForwardResult:
        """See `theria.Client.forward`."""
        return await self._run(attention(self._session, FORWARD, {"q": q, "k": k, "v": v}, options))

    async def vjp(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        o_bar: Operand | None = None,
        *,
        lse_bar: Operand | None = None,
        o: Operand | None = None,
        lse: Operand | None = None,
        **options: Unpack[CallOptions],
    ) -> VjpResult:
        """See `theria.Client.vjp`."""
        inputs = {"q": q, "k": k, "v": v, "o_bar": o_bar, "lse_bar": lse_bar, "o": o, "lse": lse}
        return await self._run(attention(self._session, VJP, inputs, options))

    async def jvp(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        q_dot: Operand | None = None,
        k_dot: Operand | None = None,
        v_dot: Operand | None = None,
        *,
        bias_dot: Operand | None = None,
        o: Operand | None = None,
        lse: Operand | None = None,
        **options: Unpack[CallOptions],
    ) -> JvpResult:
        """See `theria.Client.jvp`."""
        inputs = {"q": q, "k": k, "v": v, "o": o, "lse": lse}
        tangents = {"q_dot": q_dot, "k_dot": k_dot, "v_dot": v_dot, "bias_dot": bias_dot}
        return await self._run(attention(self._session, JVP, {**inputs, **tangents}, options))

    async def hvp(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        o_bar: Operand | None = None,
        q_dot: Operand | None = None,
        k_dot: Operand | None = None,
        v_dot: Operand | None = None,
        o_bar_dot: Operand | None = None,
        *,
        lse_bar: Operand | None = None,
        lse_bar_dot: Operand | None = None,
        bias_dot: Operand | None = None,
        o: Operand | None = None,
        lse: Operand | None = None,
        **options: Unpack[CallOptions],
    ) -> HvpResult:
        """See `theria.Client.hvp`."""
        inputs = {"q": q, "k": k, "v": v, "o_bar": o_bar, "lse_bar": lse_bar, "o": o, "lse": lse}
        tangents = {
            "q_dot": q_dot,
            "k_dot": k_dot,
            "v_dot": v_dot,
            "bias_dot": bias_dot,
            "o_bar_dot": o_bar_dot,
            "lse_bar_dot": lse_bar_dot,
        }
        return await self._run(attention(self._session, HVP, {**inputs, **tangents}, options))

    async def put(
        self,
        tensor: ArrayLike,
        *,
        ttl: float | None = None,
        pin: float | None = None,
        content_address: bool = False,
        retain: Retain = "strong",
        timeout: float | None = None,
    ) -> ResidentTensor:
        """See `theria.Client.put`."""
        return await self._run(
            put(
                self._session,
                self._deadline(timeout),
                tensor,
                ttl=ttl,
                pin=pin,
                content_address=content_address,
                retain=retain,
            )
        )

    async def get(
        self,
        tensor: ResidentTensor | str,
        *,
        region: SharedRegion | None = None,
        timeout: float | None = None,
    ) -> Any:
        """See `theria.Client.get`."""
        return await self._run(get(self._session, self._deadline(timeout), tensor, region))

    async def share(
        self, nbytes: int, *, ttl: float | None = None, timeout: float | None = None
    ) -> SharedRegion:
        """See `theria.Client.share`."""
        return await self._run(share(self._session, self._deadline(timeout), nbytes, ttl))

    async def unshare(self, region: SharedRegion, *, timeout: float | None = None) -> None:
        """See `theria.Client.unshare`."""
        await self._run(unshare(self._session, self._deadline(timeout), region))

    async def attach(self, handle: str, *, timeout: float | None = None) -> ResidentTensor:
        """See `theria.Client.attach`."""
        return await self._run(_store_flows.attach(self._session, self._deadline(timeout), handle))

    async def stat(
        self, tensor: ResidentTensor | str, *, timeout: float | None = None
    ) -> TensorInfo:
        """See `theria.Client.stat`."""
        return await self._on_tensor(_store_flows.STAT, tensor, timeout)

    async def renew(
        self,
        tensor: ResidentTensor | str,
        ttl: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        """See `theria.Client.renew`."""
        return await self._on_tensor(
            _store_flows.RENEW, tensor, timeout, repair=True, ttl_ms=milliseconds(ttl, "ttl")
        )

    async def pin(
        self,
        tensor: ResidentTensor | str,
        duration: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        """See `theria.Client.pin`."""
        return await self._on_tensor(
            _store_flows.PIN,
            tensor,
            timeout,
            repair=True,
            pin_ms=milliseconds(duration, "duration"),
        )

    async def unpin(
        self, tensor: ResidentTensor | str, *, timeout: float | None = None
    ) -> TensorInfo:
        """See `theria.Client.unpin`."""
        return await self._on_tensor(_store_flows.UNPIN, tensor, timeout)

    async def delete(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> None:
        """See `theria.Client.delete`."""
        await self._run(_store_flows.delete(self._session, self._deadline(timeout), tensor))

    async def list(self, *, timeout: float | None = None) -> tuple[TensorInfo, ...]:
        """See `theria.Client.list`."""
        return await self._run(_store_flows.list_tensors(self._session, self._deadline(timeout)))

    async def info(self, *, timeout: float | None = None) -> ServerInfo:
        """See `theria.Client.info`."""
        return await self._run(_server_flows.server_info(self._session, self._deadline(timeout)))

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """See `theria.Client.health`."""
        return await self._run(_server_flows.health(service, self._deadline(timeout)))

    async def benchmark(
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
        """See `theria.Client.benchmark`."""
        shape = {
            "batch": batch,
            "heads_q": heads_q,
            "heads_kv": heads_kv,
            "seq_q": seq_q,
            "seq_kv": seq_kv,
            "head_dim": head_dim,
            "head_dim_v": head_dim_v,
        }
        return await self._run(
            _server_flows.benchmark(
                self._session, operation, shape, dtype, repetitions, preset, options
            )
        )

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._session.timeout if timeout is None else timeout)

    async def _on_tensor(
        self,
        method: Any,
        tensor: ResidentTensor | str,
        timeout: float | None,
        *,
        repair: bool = False,
        **fields: int,
    ) -> TensorInfo:
        return await self._run(
            _store_flows.on_tensor(
                self._session,
                self._deadline(timeout),
                method,
                tensor,
                repair=repair,
                **fields,
            )
        )

    async def _run(self, flow: Flow[T]) -> T:
        self._check_process()
        return await _run_flow(flow, self._transport)


# While one is open, gRPC has a thread that a forked child lacks and whose part it cannot take.
_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


async def _run_flow(flow: Flow[T], transport: AsyncTransport) -> T:
    try:
        step = next(flow)
        while True:
            result: Any = None
            try:
                if isinstance(step, Call):
                    result = await transport.call(step)
                elif isinstance(step, Upload):
                    result = await transport.upload(step)
                elif isinstance(step, Download):
                    await transport.download(step)
                elif isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
            except BaseException as error:  # also CancelledError: the flow cleans up
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value
