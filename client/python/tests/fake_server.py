"""A server in memory, behind the transport protocols: float64 attention forward, and a store.

It answers Forward truly and leaves Vjp, Jvp and Hvp to their shapes: what these tests check is the
client's own work. Everything that was sent stands in `requests`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from theria import _errors as errors
from theria._arrays import host_tensor
from theria._dtypes import decode_dtype, encode_dtype
from theria._steps import Call, Download, Upload
from theria.v1 import attention_pb2, server_pb2, tensor_pb2, tensor_store_pb2

Fault = Callable[[str], errors.Error | None]


class FakeServer:
    """Implements `Transport`. `faults` are asked before each RPC, by its name."""

    def __init__(self, max_message_bytes: int = 1 << 30) -> None:
        self.max_message_bytes = max_message_bytes
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        self.digests: dict[bytes, str] = {}
        self.requests: list[tuple[str, Any]] = []
        self.timeouts: list[float | None] = []
        self.faults: list[Fault] = []
        self.closed = False
        self._numbers = itertools.count()

    def names(self) -> list[str]:
        return [name for name, _ in self.requests]

    def last(self, name: str) -> Any:
        return [request for n, request in self.requests if n == name][-1]

    def call(self, step: Call) -> Any:
        name = self._enter(step)
        self.requests.append((name, _copy(step.request)))
        return getattr(self, f"_{name.lower()}")(step.request)

    def upload(self, step: Upload) -> Any:
        name = self._enter(step)
        parts = iter(step.requests)
        header = next(parts).header
        self.requests.append((name, _copy(header)))
        response = tensor_store_pb2.UploadResponse()
        if header.sha256 and header.sha256 in self.digests:
            response.already_resident = True
            response.info.handle = self.digests[header.sha256]
            return response
        data = b"".join(part.chunk for part in parts)
        array = np.frombuffer(data, decode_dtype(header.dtype)).reshape(tuple(header.shape))
        handle = self._keep(array)
        if header.sha256:
            self.digests[header.sha256] = handle
        self._describe(handle, response.info)
        return response

    def download(self, step: Download) -> None:
        self.requests.append((self._enter(step), _copy(step.request)))
        array = self._find(step.request.handle)
        data = array.tobytes()
        size = step.request.chunk_bytes
        for start in range(0, max(len(data), 1), size):
            response = tensor_store_pb2.DownloadResponse(chunk=data[start : start + size])
            if start == 0:
                self._describe(step.request.handle, response.info)
            step.receive(response)

    def close(self) -> None:
        self.closed = True

    def lose_all(self) -> None:
        """As a restart would."""
        self.tensors.clear()
        self.digests.clear()

    def array(self, message: tensor_pb2.Tensor) -> np.ndarray[Any, Any]:
        """What a tensor of a request stands for."""
        if message.WhichOneof("source") == "handle":
            return self._find(message.handle)
        flat = np.frombuffer(message.data, decode_dtype(message.dtype))
        shape = tuple(message.shape)
        if not message.strides:
            return flat.reshape(shape)
        span = 1 + sum((n - 1) * s for n, s in zip(shape, message.strides, strict=True))
        assert flat.size == span, "the payload must have the size that its strides need"
        strides = tuple(s * flat.itemsize for s in message.strides)
        return np.lib.stride_tricks.as_strided(flat, shape, strides)

    def _enter(self, step: Call | Upload | Download) -> str:
        name = step.method.path.rsplit("/", 1)[1]
        self.timeouts.append(step.timeout)
        for fault in self.faults:
            error = fault(name)
            if error is not None:
                self.requests.append((name, None))
                raise error
        return name

    def _keep(self, array: np.ndarray[Any, Any]) -> str:
        handle = f"handle-{next(self._numbers)}"
        self.tensors[handle] = array
        return handle

    def _find(self, handle: str) -> np.ndarray[Any, Any]:
        if handle not in self.tensors:
            raise errors.TensorMissing(f"no tensor {handle}", handles=(handle,))
        return self.tensors[handle]

    def _describe(self, handle: str, info: tensor_store_pb2.TensorInfo) -> None:
        array = self._find(handle)
        info.handle = handle
        info.dtype = encode_dtype(array.dtype, "info")
        info.shape.extend(array.shape)
        info.size_bytes = array.nbytes
        info.expires_in_ms = 1500

    def _answer(self, request: Any, response: Any, outputs: dict[str, Any]) -> Any:
        for name, array in outputs.items():
            mode = getattr(request.outputs, name)
            if mode == attention_pb2.SKIP:
                continue
            message = getattr(response, name)
            if mode == attention_pb2.RESIDENT:
                message.dtype = encode_dtype(array.dtype, name)
                message.shape.extend(array.shape)
                message.handle = self._keep(array)
            else:
                host_tensor(np.ascontiguousarray(array), name).write(message)
        assert response.ByteSize() <= self.max_message_bytes
        assert request.ByteSize() <= self.max_message_bytes
        response.execution.request_id = "r1"
        response.execution.implementation = attention_pb2.REFERENCE
        return response

    def _forward(self, request: attention_pb2.ForwardRequest) -> Any:
        handles = [t.handle for t in (request.q, request.k, request.v) if t.handle]
        missing = tuple(handle for handle in handles if handle not in self.tensors)
        if missing:
            raise errors.TensorMissing("gone", handles=missing)
        q, k, v = (self.array(t).astype(np.float64) for t in (request.q, request.k, request.v))
        dtype = self.array(request.q).dtype
        scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
        if request.options.HasField("mask"):
            mask = self.array(request.options.mask)
            scores = scores + (np.where(mask, 0, -np.inf) if mask.dtype == bool else mask)
        weights = np.exp(scores)
        total = weights.sum(-1, keepdims=True)
        outputs = {"o": (weights / total @ v).astype(dtype), "lse": np.log(total[..., 0])}
        return self._answer(request, attention_pb2.ForwardResponse(), outputs)

    def _vjp(self, request: attention_pb2.VjpRequest) -> Any:
        outputs = {f"{n}_bar": self.array(getattr(request, n)) for n in "qkv"}
        return self._answer(request, attention_pb2.VjpResponse(), outputs)

    def _jvp(self, request: attention_pb2.JvpRequest) -> Any:
        v = self.array(request.v)
        return self._answer(request, attention_pb2.JvpResponse(), {"o": v, "o_dot": v})

    def _hvp(self, request: attention_pb2.HvpRequest) -> Any:
        outputs = {f"{n}_{s}": self.array(getattr(request, n)) for n in "qkv" for s in _SUFFIXES}
        return self._answer(request, attention_pb2.HvpResponse(), outputs)

    def _stat(self, request: tensor_store_pb2.StatRequest) -> Any:
        response = tensor_store_pb2.StatResponse()
        self._describe(request.handle, response.info)
        return response

    _renew = _pin = _unpin = _stat

    def _delete(self, request: tensor_store_pb2.DeleteRequest) -> Any:
        self._find(request.handle)
        del self.tensors[request.handle]
        return tensor_store_pb2.DeleteResponse()

    def _list(self, request: tensor_store_pb2.ListRequest) -> Any:
        response = tensor_store_pb2.ListResponse()
        position = int(request.page_token or 0)
        handles = list(self.tensors)
        self._describe(handles[position], response.tensors.add())
        if position + 1 < len(handles):
            response.next_page_token = str(position + 1)
        return response

    def _getserverinfo(self, _: server_pb2.GetServerInfoRequest) -> Any:
        limits = server_pb2.ServerLimits(
            max_message_bytes=self.max_message_bytes, default_ttl_ms=600_000
        )
        return server_pb2.GetServerInfoResponse(version="0", limits=limits)


class AsyncFakeServer:
    """The same for asyncio. `block` names an RPC that never answers."""

    def __init__(self, server: FakeServer, block: str | None = None) -> None:
        self._server = server
        self._block = block

    async def call(self, step: Call) -> Any:
        if step.method.path.endswith(f"/{self._block}"):
            await asyncio.Event().wait()
        return self._server.call(step)

    async def upload(self, step: Upload) -> Any:
        return self._server.upload(step)

    async def download(self, step: Download) -> None:
        self._server.download(step)

    async def close(self) -> None:
        self._server.close()


_SUFFIXES = ("bar", "bar_dot")


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
