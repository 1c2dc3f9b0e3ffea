"""Requests that must fail, each with its exact code and detail, and leave the server as it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from wire_store import SERVICE, Failure, WireStore, chunks, failure_of, header

from theria.v1 import tensor_pb2
from theria.v1 import tensor_store_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNKNOWN_HANDLE = "0123456789abcdef" * 3
HUGE = 2**62


def chunk(data: bytes) -> pb.UploadRequest:
    return pb.UploadRequest(chunk=data)


WRONG_UPLOADS: dict[str, tuple[list[pb.UploadRequest], str]] = {
    "nothing": ([], "header"),
    "chunk first": ([chunk(b"abcd")], "header"),
    "empty chunk first": ([chunk(b"")], "header"),
    "no part": ([header(4), pb.UploadRequest()], "part"),
    "no part first": ([pb.UploadRequest()], "part"),
    "two headers": ([header(4), header(4)], "header"),
    "header after the bytes": ([header(4), chunk(b"abcd"), header(4)], "header"),
    "header alone": ([header(4)], "chunk"),
    "short by one": ([header(4), chunk(b"abc")], "chunk"),
    "long by one": ([header(4), chunk(b"abcde")], "chunk"),
    "long by a chunk": ([header(4), chunk(b"abcd"), chunk(b"e")], "chunk"),
    "dtype unspecified": ([header(4, dtype=0)], "header.dtype"),
    "dtype unknown": ([header(4, dtype=99)], "header.dtype"),
    "dtype negative": ([header(4, dtype=-1)], "header.dtype"),
    "extent zero": ([header(4, shape=[4, 0])], "header.shape[1]"),
    "extent negative": ([header(4, shape=[-4])], "header.shape[0]"),
    "extent minimal": ([header(4, shape=[1, 1, -(2**63)])], "header.shape[2]"),
    "nine dimensions": ([header(4, shape=[1] * 9)], "header.shape"),
    "a thousand dimensions": ([header(4, shape=[1] * 1000)], "header.shape"),
    "larger than the store": ([header(2**40)], "header.shape"),
    "overflow to zero": ([header(4, shape=[2**32, 2**32])], "header.shape"),
    "overflow by the item": (
        [header(4, dtype=tensor_pb2.FLOAT64, shape=[2**61])],
        "header.shape",
    ),
    "overflow many times": ([header(4, shape=[HUGE] * 8)], "header.shape"),
    "largest extent": ([header(2**63 - 1)], "header.shape"),
    "ttl negative": ([header(4, ttl_ms=-1)], "header.ttl_ms"),
    "ttl minimal": ([header(4, ttl_ms=-(2**63))], "header.ttl_ms"),
    "ttl too long": ([header(4, ttl_ms=24 * 3600 * 1000 + 1)], "header.ttl_ms"),
    "ttl maximal": ([header(4, ttl_ms=2**63 - 1)], "header.ttl_ms"),
    "pin negative": ([header(4, pin_ms=-1)], "header.pin_ms"),
    "pin too long": ([header(4, pin_ms=3600 * 1000 + 1)], "header.pin_ms"),
    "pin maximal": ([header(4, pin_ms=2**63 - 1)], "header.pin_ms"),
    "digest short": ([header(4, sha256=b"x" * 31)], "header.sha256"),
    "digest long": ([header(4, sha256=b"x" * 33)], "header.sha256"),
    "digest wrong": ([header(4, sha256=b"x" * 32), chunk(b"abcd")], "header.sha256"),
    "digest and ttl negative": ([header(4, sha256=b"x" * 32, ttl_ms=-1)], "header.ttl_ms"),
}

WRONG_CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "page negative": ("List", {"page_size": -1}, "page_size"),
    "page minimal": ("List", {"page_size": -(2**31)}, "page_size"),
    "token nonsense": ("List", {"page_token": "nonsense"}, "page_token"),
    "token not given yet": ("List", {"page_token": "00000000ffffffff"}, "page_token"),
    "token long": ("List", {"page_token": "0" * 10_000}, "page_token"),
    "renew negative": ("Renew", {"handle": UNKNOWN_HANDLE, "ttl_ms": -1}, "ttl_ms"),
    "renew too long": ("Renew", {"handle": UNKNOWN_HANDLE, "ttl_ms": 2**63 - 1}, "ttl_ms"),
    "pin negative": ("Pin", {"handle": UNKNOWN_HANDLE, "pin_ms": -1}, "pin_ms"),
    "pin too long": ("Pin", {"handle": UNKNOWN_HANDLE, "pin_ms": 3600 * 1000 + 1}, "pin_ms"),
}

MISSING_HANDLES = ["", "x", UNKNOWN_HANDLE, UNKNOWN_HANDLE.upper(), "0" * 47, "é" * 24]


def failure(store: WireStore, messages: Iterable[pb.UploadRequest]) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        store.upload_messages(messages)
    return failure_of(caught.value)


@pytest.mark.parametrize("name", WRONG_UPLOADS)
def test_wrong_uploads(store: WireStore, name: str) -> None:
    messages, field = WRONG_UPLOADS[name]
    failed = failure(store, messages)
    assert (failed.code, failed.fields) == (INVALID, (field,)), failed
    assert field in failed.message
    store.wait_until_used(0)
    assert store.list_all() == []


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_calls(store: WireStore, name: str) -> None:
    method, fields, field = WRONG_CALLS[name]
    with pytest.raises(grpc.RpcError) as caught:
        store.call(method, **fields)
    failed = failure_of(caught.value)
    assert (failed.code, failed.fields) == (INVALID, (field,)), failed


@pytest.mark.parametrize("handle", MISSING_HANDLES)
@pytest.mark.parametrize("method", ["Stat", "Renew", "Pin", "Unpin", "Delete"])
def test_missing_tensors(store: WireStore, method: str, handle: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        store.call(method, handle=handle)
    failed = failure_of(caught.value)
    assert (failed.code, failed.missing) == (grpc.StatusCode.FAILED_PRECONDITION, (handle,))


@pytest.mark.parametrize("handle", MISSING_HANDLES)
def test_missing_downloads(store: WireStore, handle: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(store.download_stream(handle))
    failed = failure_of(caught.value)
    assert (failed.code, failed.missing) == (grpc.StatusCode.FAILED_PRECONDITION, (handle,))


@pytest.mark.parametrize("length", [2_000, 1_000_000])
def test_handles_longer_than_any_status_are_missing(store: WireStore, length: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        store.call("Stat", handle="a" * length)
    failed = failure_of(caught.value)
    assert failed.code == grpc.StatusCode.FAILED_PRECONDITION
    assert len(failed.missing) == 1
    assert len(failed.message) <= 4096


def test_a_deleted_tensor_is_missing(store: WireStore) -> None:
    handle = store.upload(b"x").info.handle
    store.call("Delete", handle=handle)
    for method in ("Stat", "Renew", "Pin", "Unpin", "Delete"):
        with pytest.raises(grpc.RpcError) as caught:
            store.call(method, handle=handle)
        assert failure_of(caught.value).missing == (handle,)


@pytest.mark.parametrize("garbage", [b"\xff" * 12, b"\x0a\x05ab", b"\x0a\x02\xc3\x28"])
def test_messages_that_are_none(store: WireStore, garbage: bytes) -> None:
    download: grpc.UnaryStreamMultiCallable[bytes, bytes] = store.channel.unary_stream(
        SERVICE + "Download"
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(download(garbage, timeout=10))
    assert caught.value.code() == INVALID
    upload: grpc.StreamUnaryMultiCallable[bytes, bytes] = store.channel.stream_unary(
        SERVICE + "Upload"
    )
    with pytest.raises(grpc.RpcError) as caught:
        upload(iter([garbage]), timeout=10)
    assert caught.value.code() == INVALID


def test_the_server_still_works(store: WireStore) -> None:
    data = b"still here"
    handle = store.upload_messages([header(len(data)), *chunks(data, 3)]).info.handle
    assert store.download(handle) == data
