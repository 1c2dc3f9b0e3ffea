"""The client of a server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from typing_extensions import Unpack, override

from theria import _server_flows, _store_flows
from theria._arrays import ArrayLike
from theria._attention_flow import attention
from theria._client import Client, R
from theria._client_registry import client_name
from theria._operations import Operation
from theria._options import CallOptions, Operand, milliseconds
from theria._process import OfOneProcess
from theria._put_flow import get, put
from theria._resident import ResidentTensor, Retain, TensorInfo
from theria._results import BenchmarkResult, ServerInfo
from theria._session import Session
from theria._shared_memory import SharedRegion, share, unshare
from theria._steps import Call, Deadline, Download, Flow, Sleep, T, Upload
from theria._transport import Transport

__all__ = ["RemoteClient"]


class RemoteClient(OfOneProcess, Client):
    """A `Client` that calls a server. Made by `connect`."""

    def __init__(self, transport: Transport, session: Session | None = None):
        super().__init__()
        self._transport = transport
        self._session = session or Session()
        client_name(self)  # torch.compile finds a name and cannot give one

    @override
    def close(self) -> None:
        if self._is_of_this_process:
            self._transport.close()

    @override
    def _attention(
        self,
        operation: Operation[R],
        inputs: Mapping[str, Operand | None],
        options: CallOptions,
    ) -> R:
        return self._run(attention(self._session, operation, inputs, options))

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
        return self._run(
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

    @override
    def get(
        self,
        tensor: ResidentTensor | str,
        *,
        region: SharedRegion | None = None,
        timeout: float | None = None,
    ) -> Any:
        return self._run(get(self._session, self._deadline(timeout), tensor, region))

    @override
    def share(
        self, nbytes: int, *, ttl: float | None = None, timeout: float | None = None
    ) -> SharedRegion:
        return self._run(share(self._session, self._deadline(timeout), nbytes, ttl))

    @override
    def unshare(self, region: SharedRegion, *, timeout: float | None = None) -> None:
        self._run(unshare(self._session, self._deadline(timeout), region))

    @override
    def attach(self, handle: str, *, timeout: float | None = None) -> ResidentTensor:
        return self._run(_store_flows.attach(self._session, self._deadline(timeout), handle))

    @override
    def stat(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> TensorInfo:
        return self._on_tensor(_store_flows.STAT, tensor, timeout)

    @override
    def renew(
        self,
        tensor: ResidentTensor | str,
        ttl: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        return self._on_tensor(
            _store_flows.RENEW, tensor, timeout, repair=True, ttl_ms=milliseconds(ttl, "ttl")
        )

    @override
    def pin(
        self,
        tensor: ResidentTensor | str,
        duration: float | None = None,
        *,
        timeout: float | None = None,
    ) -> TensorInfo:
        return self._on_tensor(
            _store_flows.PIN,
            tensor,
            timeout,
            repair=True,
            pin_ms=milliseconds(duration, "duration"),
        )

    @override
    def unpin(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> TensorInfo:
        return self._on_tensor(_store_flows.UNPIN, tensor, timeout)

    @override
    def delete(self, tensor: ResidentTensor | str, *, timeout: float | None = None) -> None:
        self._run(_store_flows.delete(self._session, self._deadline(timeout), tensor))

    @override
    def list(self, *, timeout: float | None = None) -> tuple[TensorInfo, ...]:
        return self._run(_store_flows.list_tensors(self._session, self._deadline(timeout)))

    @override
    def info(self, *, timeout: float | None = None) -> ServerInfo:
        return self._run(_server_flows.server_info(self._session, self._deadline(timeout)))

    @override
    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        return self._run(_server_flows.health(service, self._deadline(timeout)))

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
        shape = {
            "batch": batch,
            "heads_q": heads_q,
            "heads_kv": heads_kv,
            "seq_q": seq_q,
            "seq_kv": seq_kv,
            "head_dim": head_dim,
            "head_dim_v": head_dim_v,
        }
        return self._run(
            _server_flows.benchmark(
                self._session, operation, shape, dtype, repetitions, preset, options
            )
        )

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._session.timeout if timeout is None else timeout)

    def _on_tensor(
        self,
        method: Any,
        tensor: ResidentTensor | str,
        timeout: float | None,
        *,
        repair: bool = False,
        **fields: int,
    ) -> TensorInfo:
        return self._run(
            _store_flows.on_tensor(
                self._session,
                self._deadline(timeout),
                method,
                tensor,
                repair=repair,
                **fields,
            )
        )

    def _run(self, flow: Flow[T]) -> T:
        self._check_process()
        return _run_flow(flow, self._transport)


def _run_flow(flow: Flow[T], transport: Transport) -> T:
    try:
        step = next(flow)
        while True:
            result: Any = None
            try:
                if isinstance(step, Call):
                    result = transport.call(step)
                elif isinstance(step, Upload):
                    result = transport.upload(step)
                elif isinstance(step, Download):
                    transport.download(step)
                elif isinstance(step, Sleep):
                    time.sleep(step.seconds)
            except BaseException as error:  # also KeyboardInterrupt: the flow cleans up
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        value: T = end.value
        return value
