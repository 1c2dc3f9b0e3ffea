"""The tensor service as it is on the wire: no client library, every message in the test's hands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from observe import await_that

from theria.v1 import server_pb2, tensor_pb2
from theria.v1 import tensor_store_pb2 as pb

SERVICE = "/theria.v1.TensorService/"
CHUNK_BYTES = 1 << 20


class Failure(NamedTuple):
    """How a call failed: its code, the fields at fault, the missing handles, when to retry."""

    code: grpc.StatusCode
    message: str
    fields: tuple[str, ...]
    missing: tuple[str, ...]
    retry_seconds: float | None


def failure_of(error: grpc.RpcError) -> Failure:
    fields: list[str] = []
    missing: list[str] = []
    retry_seconds = None
    status = status_pb2.Status()
    for metadatum in error.trailing_metadata() or ():
        if metadatum.key == "grpc-status-details-bin" and isinstance(metadatum.value, bytes):
            status.ParseFromString(metadatum.value)
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        precondition = error_details_pb2.PreconditionFailure()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
        elif detail.Unpack(precondition):
            assert all(violation.type == "TENSOR_MISSING" for violation in precondition.violations)
            missing += [violation.subject for violation in precondition.violations]
        elif detail.Unpack(retry):
            retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return Failure(
        error.code(), error.details() or "", tuple(fields), tuple(missing), retry_seconds
    )


def header(size_bytes: int, **changes: Any) -> pb.UploadRequest:
    """The header of a BOOL tensor of so many bytes, but for `changes`."""
    fields = {"dtype": tensor_pb2.BOOL, "shape": [size_bytes], **changes}
    return pb.UploadRequest(header=pb.UploadHeader(**fields))


def chunks(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Iterator[pb.UploadRequest]:
    for at in range(0, len(data), chunk_bytes):
        yield pb.UploadRequest(chunk=data[at : at + chunk_bytes])


class WireStore:
    """A connection of its own to one server."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(
            target, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    def __enter__(self) -> WireStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()

    def upload_method(
        self,
    ) -> grpc.StreamUnaryMultiCallable[pb.UploadRequest, pb.UploadResponse]:
        return self.channel.stream_unary(
            SERVICE + "Upload",
            request_serializer=pb.UploadRequest.SerializeToString,
            response_deserializer=pb.UploadResponse.FromString,
        )

    def upload_messages(self, messages: Iterable[pb.UploadRequest]) -> pb.UploadResponse:
        response: pb.UploadResponse = self.upload_method()(iter(messages), timeout=120)
        return response

    def upload(
        self, data: bytes, *, with_sha256: bool = False, **changes: Any
    ) -> pb.UploadResponse:
        if with_sha256:
            changes["sha256"] = hashlib.sha256(data).digest()
        return self.upload_messages([header(len(data), **changes), *chunks(data)])

    def download_stream(self, handle: str, chunk_bytes: int = 0) -> Any:
        method = self.channel.unary_stream(
            SERVICE + "Download",
            request_serializer=pb.DownloadRequest.SerializeToString,
            response_deserializer=pb.DownloadResponse.FromString,
        )
        return method(pb.DownloadRequest(handle=handle, chunk_bytes=chunk_bytes), timeout=120)

    def download(self, handle: str) -> bytes:
        return b"".join(response.chunk for response in self.download_stream(handle))

    def call(self, name: str, **fields: Any) -> Any:
        """A unary call by name, its request from `fields`."""
        request: Message = getattr(pb, f"{name}Request")(**fields)
        method = self.channel.unary_unary(
            SERVICE + name,
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )
        return method(request, timeout=60)

    def stat(self, handle: str) -> pb.TensorInfo:
        info: pb.TensorInfo = self.call("Stat", handle=handle).info
        return info

    def exists(self, handle: str) -> bool:
        try:
            self.stat(handle)
        except grpc.RpcError as error:
            failure = failure_of(error)
            assert (failure.code, failure.missing) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                (handle,),
            )
            return False
        return True

    def list_all(self, page_size: int = 0) -> list[pb.TensorInfo]:
        tensors: list[pb.TensorInfo] = []
        token = ""
        while True:
            page = self.call("List", page_size=page_size, page_token=token)
            tensors += page.tensors
            token = page.next_page_token
            if not token:
                return tensors

    def info(self) -> server_pb2.GetServerInfoResponse:
        method = self.channel.unary_unary(
            "/theria.v1.ServerService/GetServerInfo",
            request_serializer=server_pb2.GetServerInfoRequest.SerializeToString,
            response_deserializer=server_pb2.GetServerInfoResponse.FromString,
        )
        response: server_pb2.GetServerInfoResponse = method(
            server_pb2.GetServerInfoRequest(), timeout=60
        )
        return response

    def used_bytes(self) -> int:
        return int(self.info().store.used_bytes)

    def wait_until_used(self, used_bytes: int) -> None:
        """A stream's end reaches the store a moment after it reaches the client."""
        await_that(lambda: self.used_bytes() == used_bytes, otherwise=self.used_bytes)
