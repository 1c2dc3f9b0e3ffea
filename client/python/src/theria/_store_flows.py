"""Flows of the tensor store: transfers, leases, and the repair of lost tensors."""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from theria._arrays import HostTensor, NumpyArray
from theria._dtypes import decode_dtype
from theria._errors import Error, Internal, InvalidArgument, TensorMissing
from theria._resident import ResidentTensor, TensorInfo, decode_info
from theria._session import Session
from theria._shared_memory import SharedPlace, SharedRegion, with_regions
from theria._steps import (
    TENSOR_SERVICE,
    Call,
    Deadline,
    Download,
    Flow,
    Method,
    Step,
    Upload,
    retrying,
)
from theria.v1 import tensor_pb2
from theria.v1 import tensor_store_pb2 as pb

__all__ = [
    "attach",
    "delete",
    "discard",
    "download",
    "fingerprint",
    "list_tensors",
    "on_tensor",
    "upload",
    "with_repair",
]

UPLOAD = Method(f"/{TENSOR_SERVICE}/Upload", pb.UploadRequest, pb.UploadResponse)
DOWNLOAD = Method(f"/{TENSOR_SERVICE}/Download", pb.DownloadRequest, pb.DownloadResponse)
STAT = Method(f"/{TENSOR_SERVICE}/Stat", pb.StatRequest, pb.StatResponse)
LIST = Method(f"/{TENSOR_SERVICE}/List", pb.ListRequest, pb.ListResponse)
RENEW = Method(f"/{TENSOR_SERVICE}/Renew", pb.RenewRequest, pb.RenewResponse)
PIN = Method(f"/{TENSOR_SERVICE}/Pin", pb.PinRequest, pb.PinResponse)
UNPIN = Method(f"/{TENSOR_SERVICE}/Unpin", pb.UnpinRequest, pb.UnpinResponse)
DELETE = Method(f"/{TENSOR_SERVICE}/Delete", pb.DeleteRequest, pb.DeleteResponse)

# Cleaning up must not hold a caller for long; what it fails to delete goes with its lease.
_DISCARD_SECONDS = 5.0


def upload(
    session: Session,
    deadline: Deadline,
    tensor: HostTensor,
    *,
    name: str = "tensor",
    ttl_ms: int = 0,
    pin_ms: int = 0,
    content_address: bool = False,
) -> Flow[ResidentTensor]:
    """Makes `tensor` resident, without a source. Errors refer to it as `name`."""
    try:
        return (
            yield from with_regions(
                session,
                deadline,
                lambda: _upload(
                    session,
                    deadline,
                    tensor,
                    ttl_ms=ttl_ms,
                    pin_ms=pin_ms,
                    content_address=content_address,
                ),
            )
        )
    except InvalidArgument as error:
        raise error.renamed(
            lambda text: re.sub(r"\bheader(?=\.(shape|dtype))", name, text)
        ) from error


def _upload(
    session: Session,
    deadline: Deadline,
    tensor: HostTensor,
    *,
    ttl_ms: int,
    pin_ms: int,
    content_address: bool,
) -> Flow[ResidentTensor]:
    row_major = tensor.array.flags.c_contiguous and not content_address
    part = session.shared_part(tensor) if row_major else None
    header = pb.UploadHeader(
        dtype=tensor.wire_dtype,
        shape=tensor.array.shape,
        ttl_ms=ttl_ms,
        pin_ms=pin_ms,
        sha256=fingerprint(tensor, content_address=True) if content_address else b"",
        shared_memory=part,
    )

    def requests() -> Iterator[pb.UploadRequest]:
        yield pb.UploadRequest(header=header)
        if part is None:
            for chunk in tensor.chunks(session.chunk_bytes):
                yield pb.UploadRequest(chunk=chunk)

    response: pb.UploadResponse = yield from retrying(
        session.retry, deadline, lambda timeout: Upload(UPLOAD, requests(), timeout)
    )
    return ResidentTensor(
        response.info.handle, tensor.array.dtype, tensor.array.shape, tensor.framework
    )


def fingerprint(tensor: HostTensor, *, content_address: bool) -> bytes:
    """Digest of the row-major elements: SHA-256 for content addressing, else CRC-32."""
    if content_address:
        digest = hashlib.sha256()
        for chunk in tensor.chunks(1 << 20):
            digest.update(chunk)
        return digest.digest()
    checksum = 0
    for chunk in tensor.chunks(1 << 20):
        checksum = zlib.crc32(chunk, checksum)
    return checksum.to_bytes(4, "little")


def download(
    session: Session,
    deadline: Deadline,
    tensor: ResidentTensor | str,
    region: SharedRegion | None = None,
) -> Flow[NumpyArray]:
    """The elements of a resident tensor, or of the tensor of a handle, as a new array.

    Args:
        session: Of the client.
        deadline: Of the call.
        tensor: The tensor.
        region: Shared memory for the array; None for memory of this process.
    """
    if region is not None and isinstance(tensor, str):
        tensor = yield from attach(session, deadline, tensor)
    return (
        yield from with_regions(
            session,
            deadline,
            lambda: _download(
                session, deadline, tensor, region if region in session.regions else None
            ),
        )
    )


def _download(
    session: Session,
    deadline: Deadline,
    tensor: ResidentTensor | str,
    region: SharedRegion | None,
) -> Flow[NumpyArray]:
    if region is not None and isinstance(tensor, ResidentTensor):
        return (yield from _download_shared(session, deadline, tensor, region))
    receiver = _Receiver()

    def step(timeout: float | None) -> Step:
        nonlocal receiver
        receiver = _Receiver()  # a repeated download starts anew
        request = pb.DownloadRequest(handle=_handle(tensor), chunk_bytes=session.chunk_bytes)
        return Download(DOWNLOAD, request, receiver.receive, timeout)

    yield from with_repair(
        session, deadline, _residents(tensor), lambda: retrying(session.retry, deadline, step)
    )
    return receiver.finish()


def _download_shared(
    session: Session, deadline: Deadline, tensor: ResidentTensor, region: SharedRegion
) -> Flow[NumpyArray]:
    nbytes = math.prod(tensor.shape) * tensor.dtype.itemsize
    place = SharedPlace(region, [nbytes])
    part = tensor_pb2.SharedMemoryRef()

    def attempt() -> Flow[Any]:
        is_first = True

        def step(timeout: float | None) -> Step:
            nonlocal is_first
            if not is_first:
                place.move()
            is_first = False
            part.CopyFrom(place.part)
            part.size_bytes = nbytes
            request = pb.DownloadRequest(handle=tensor.handle, shared_memory=part)
            return Download(DOWNLOAD, request, _no_chunk, timeout)

        return retrying(session.retry, deadline, step)

    with place.during_call():
        yield from with_repair(session, deadline, [tensor], attempt)
    return place.memory(part).view(tensor.dtype).reshape(tensor.shape)


def _no_chunk(response: pb.DownloadResponse) -> None:
    if response.chunk:
        raise Internal("the server sent elements that were to be shared")


class _Receiver:
    """Assembles the responses of one Download."""

    def __init__(self) -> None:
        self._array: NumpyArray | None = None
        self._bytes: NumpyArray = np.empty(0, np.uint8)
        self._received = 0

    def receive(self, response: pb.DownloadResponse) -> None:
        if self._array is None:
            self._array = np.empty(tuple(response.info.shape), decode_dtype(response.info.dtype))
            self._bytes = self._array.reshape(-1).view(np.uint8)
        end = self._received + len(response.chunk)
        if end > self._bytes.size:
            raise Internal(f"the server sent over {self._bytes.size} bytes of a tensor")
        self._bytes[self._received : end] = np.frombuffer(response.chunk, np.uint8)
        self._received = end

    def finish(self) -> NumpyArray:
        if self._array is None or self._received != self._bytes.size:
            raise Internal(f"the server sent {self._received} of {self._bytes.size} bytes")
        return self._array


def with_repair(
    session: Session,
    deadline: Deadline,
    tensors: Iterable[ResidentTensor],
    attempt: Callable[[], Flow[Any]],
) -> Flow[Any]:
    """Runs a flow. If resident tensors are missing, uploads them again and runs it once more.

    Args:
        session: Of the client.
        deadline: Of the call.
        tensors: The tensors that the flow uses.
        attempt: Creates the flow with the current handles of the tensors.

    Raises:
        TensorMissing: A tensor has no source, its source has changed, another client put it, or it
            was lost twice.
    """
    by_handle = {tensor.handle: tensor for tensor in tensors}
    try:
        return (yield from attempt())
    except TensorMissing as error:
        if not error.handles or not all(handle in by_handle for handle in error.handles):
            raise
        for handle in error.handles:
            tensor = by_handle[handle]
            if tensor.handle == handle and not (
                yield from _upload_again(session, deadline, tensor, handle)
            ):
                raise
    return (yield from attempt())


def _upload_again(
    session: Session, deadline: Deadline, tensor: ResidentTensor, lost: str
) -> Flow[bool]:
    """Uploads `tensor` again; False if its source is missing, changed or not this client's."""
    source = tensor.source
    host = source.tensor() if source is not None and source.owner is session else None
    if source is None or host is None:
        return False
    if source.fingerprint is not None and source.fingerprint != fingerprint(
        host, content_address=source.content_address
    ):
        return False
    fresh = yield from upload(
        session,
        deadline,
        host,
        ttl_ms=source.ttl_ms,
        pin_ms=source.pin_ms,
        content_address=source.content_address,
    )
    if not tensor.replace_handle(lost, fresh.handle):
        yield from discard([fresh])
    return True


def discard(tensors: Iterable[ResidentTensor]) -> Flow[None]:
    """Deletes the temporary tensors of a call. After a failure, they end with their leases."""
    for tensor in tensors:
        try:
            yield Call(DELETE, pb.DeleteRequest(handle=tensor.handle), _DISCARD_SECONDS)
        except Error:
            continue


def on_tensor(
    session: Session,
    deadline: Deadline,
    method: Method[Any, Any],
    tensor: ResidentTensor | str,
    *,
    repair: bool = False,
    **fields: int,
) -> Flow[TensorInfo]:
    """An RPC on one handle that returns its description.

    Args:
        session: Of the client.
        deadline: Of the call.
        method: STAT, RENEW, PIN or UNPIN.
        tensor: The tensor, or its handle.
        repair: Whether to upload the tensor again if it is missing.
        **fields: Other fields of the request.
    """

    def attempt() -> Flow[Any]:
        request = method.request(handle=_handle(tensor), **fields)
        return retrying(session.retry, deadline, lambda timeout: Call(method, request, timeout))

    residents = _residents(tensor) if repair else []
    response = yield from with_repair(session, deadline, residents, attempt)
    return decode_info(response.info)


def attach(session: Session, deadline: Deadline, handle: str) -> Flow[ResidentTensor]:
    """A tensor that another client made resident."""
    info = yield from on_tensor(session, deadline, STAT, handle)
    return ResidentTensor(info.handle, info.dtype, info.shape)


def delete(session: Session, deadline: Deadline, tensor: ResidentTensor | str) -> Flow[None]:
    """Deletes one tensor and its source, so that later uses do not upload it again."""
    request = pb.DeleteRequest(handle=_handle(tensor))
    resident = tensor if isinstance(tensor, ResidentTensor) else None
    try:
        yield from retrying(session.retry, deadline, lambda timeout: Call(DELETE, request, timeout))
    except TensorMissing:
        # To others than its owner it is missing also where it lives on, as another tenant's.
        if resident and resident.source and resident.source.owner is session:
            resident.source = None
        raise
    if resident:
        resident.source = None


def _handle(tensor: ResidentTensor | str) -> str:
    return tensor if isinstance(tensor, str) else tensor.handle


def _residents(tensor: ResidentTensor | str) -> list[ResidentTensor]:
    return [] if isinstance(tensor, str) else [tensor]


def list_tensors(session: Session, deadline: Deadline) -> Flow[tuple[TensorInfo, ...]]:
    """All pages of List, oldest tensor first."""
    tensors: list[TensorInfo] = []
    request = pb.ListRequest()

    def step(timeout: float | None) -> Step:
        return Call(LIST, request, timeout)

    while True:
        response: pb.ListResponse = yield from retrying(session.retry, deadline, step)
        tensors += [decode_info(info) for info in response.tensors]
        if not response.next_page_token:
            return tuple(tensors)
        request.page_token = response.next_page_token
