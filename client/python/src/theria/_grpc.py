"""The blocking gRPC transport."""

from __future__ import annotations

from typing import Any

import grpc

from theria._grpc_channel import Endpoint, serialize
from theria._identity import MetadataSource
from theria._steps import Call, Download, Upload

__all__ = ["GrpcTransport"]


class GrpcTransport:
    """A separate connection to a server, made at the first call. Implements `Transport`.

    Args:
        endpoint: The server.
        metadata: Returns the metadata of each RPC.
    """

    def __init__(self, endpoint: Endpoint, metadata: MetadataSource | None = None):
        self._endpoint = endpoint
        self._channel = (
            grpc.insecure_channel(endpoint.target, options=endpoint.options)
            if endpoint.credentials is None
            else grpc.secure_channel(
                endpoint.target, endpoint.credentials, options=endpoint.options
            )
        )
        self._metadata = metadata or MetadataSource()
        self._stubs: dict[str, Any] = {}

    def call(self, step: Call) -> Any:
        """See `Transport`."""
        request = serialize(step.request)
        with self._endpoint.translated():
            return self._stub("unary_unary", step)(
                request, timeout=step.timeout, metadata=self._metadata()
            )

    def upload(self, step: Upload) -> Any:
        """See `Transport`."""
        with self._endpoint.translated():
            return self._stub("stream_unary", step)(
                map(serialize, step.requests), timeout=step.timeout, metadata=self._metadata()
            )

    def download(self, step: Download) -> None:
        """See `Transport`."""
        request = serialize(step.request)
        with self._endpoint.translated():
            responses = self._stub("unary_stream", step)(
                request, timeout=step.timeout, metadata=self._metadata()
            )
            try:
                for response in responses:
                    step.receive(response)
            finally:
                responses.cancel()

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()

    def _stub(self, arity: str, step: Call | Upload | Download) -> Any:
        method = step.method
        stub = self._stubs.get(method.path)
        if stub is None:
            stub = getattr(self._channel, arity)(
                method.path, response_deserializer=method.response.FromString
            )
            self._stubs[method.path] = stub
        return stub
