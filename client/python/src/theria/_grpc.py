"""The blocking gRPC transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from theria._grpc_channel import CHANNEL_OPTIONS, checked_target, serialize, translated
from theria._identity import MetadataSource
from theria._steps import Call, Download, Upload

__all__ = ["GrpcTransport"]


class GrpcTransport:
    """A connection of its own to a server, made at the first call. Implements `Transport`.

    Args:
        target: As `theria.connect` takes it.
        credentials: For TLS; None for plain text.
        metadata: Gives what is sent with every RPC.
        options: Of the channel, beside those that every client has.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: MetadataSource | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ):
        target = checked_target(target)
        options = [*CHANNEL_OPTIONS, *options]
        self._channel = (
            grpc.insecure_channel(target, options=options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options=options)
        )
        self._metadata = metadata or MetadataSource()
        self._stubs: dict[str, Any] = {}

    def call(self, step: Call) -> Any:
        """See `Transport`."""
        request = serialize(step.request)
        with translated():
            return self._stub("unary_unary", step)(
                request, timeout=step.timeout, metadata=self._metadata()
            )

    def upload(self, step: Upload) -> Any:
        """See `Transport`."""
        with translated():
            return self._stub("stream_unary", step)(
                map(serialize, step.requests), timeout=step.timeout, metadata=self._metadata()
            )

    def download(self, step: Download) -> None:
        """See `Transport`."""
        request = serialize(step.request)
        with translated():
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
