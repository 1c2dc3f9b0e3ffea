"""The asyncio gRPC transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio

from theria._errors import Cancelled
from theria._grpc_channel import Endpoint, serialize
from theria._identity import MetadataSource
from theria._steps import Call, Download, Upload

__all__ = ["GrpcAioTransport"]


class GrpcAioTransport:
    """As `GrpcTransport`, for one asyncio event loop. Implements `AsyncTransport`."""

    def __init__(self, endpoint: Endpoint, metadata: MetadataSource | None = None):
        self._endpoint = endpoint
        self._channel = (
            grpc.aio.insecure_channel(endpoint.target, options=endpoint.options)
            if endpoint.credentials is None
            else grpc.aio.secure_channel(
                endpoint.target, endpoint.credentials, options=endpoint.options
            )
        )
        self._metadata = metadata or MetadataSource()
        self._stubs: dict[str, Any] = {}
        self._under_way: set[asyncio.Future[Any]] = set()

    async def call(self, step: Call) -> Any:
        """See `AsyncTransport`."""
        request = serialize(step.request)
        with self._endpoint.translated():
            return await self._ended(
                self._stub("unary_unary", step)(
                    request, timeout=step.timeout, metadata=self._metadata()
                )
            )

    async def upload(self, step: Upload) -> Any:
        """See `AsyncTransport`."""

        async def requests() -> AsyncIterator[bytes]:
            for request in step.requests:
                yield serialize(request)

        with self._endpoint.translated():
            return await self._ended(
                self._stub("stream_unary", step)(
                    requests(), timeout=step.timeout, metadata=self._metadata()
                )
            )

    async def download(self, step: Download) -> None:
        """See `AsyncTransport`."""
        request = serialize(step.request)

        async def receive_all() -> None:
            responses = self._stub("unary_stream", step)(
                request, timeout=step.timeout, metadata=self._metadata()
            )
            try:
                async for response in responses:
                    step.receive(response)
            finally:
                responses.cancel()

        with self._endpoint.translated():
            await self._ended(receive_all())

    async def close(self) -> None:
        """See `AsyncTransport`."""
        for rpc in tuple(self._under_way):
            rpc.cancel()
        await self._channel.close()

    async def _ended(self, rpc: Awaitable[Any]) -> Any:
        """The result of `rpc`, which is cancelled if the waiting task is.

        `gather` distinguishes the two cases: it raises the CancelledError of the waiting task, and
        returns that of an RPC that `close` has ended.

        Raises:
            Cancelled: The client was closed.
        """
        task: asyncio.Future[Any] = asyncio.ensure_future(rpc)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        result: Any = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, asyncio.CancelledError):
            raise Cancelled("the client is closed")
        if isinstance(result, BaseException):
            raise result
        return result

    def _stub(self, arity: str, step: Call | Upload | Download) -> Any:
        method = step.method
        stub = self._stubs.get(method.path)
        if stub is None:
            stub = getattr(self._channel, arity)(
                method.path, response_deserializer=method.response.FromString
            )
            self._stubs[method.path] = stub
        return stub
