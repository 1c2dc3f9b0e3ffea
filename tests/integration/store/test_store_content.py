"""Content addressing: the same bytes are sent and kept once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc
import pytest
from wire_store import WireStore, chunks, failure_of, header

from theria.v1 import tensor_pb2
from theria.v1 import tensor_store_pb2 as pb


def test_the_second_upload_is_answered_at_once(store: WireStore) -> None:
    data = bytes(range(256)) * 1000
    first = store.upload(data, with_sha256=True)
    assert not first.already_resident
    assert first.info.sha256 == hashlib.sha256(data).digest()
    # The header is enough: not one byte is sent, nor the end of the stream needed.
    second = store.upload_messages([header(len(data), sha256=hashlib.sha256(data).digest())])
    assert second.already_resident
    assert second.info.handle == first.info.handle
    assert store.used_bytes() == len(data)
    third = store.upload(data, with_sha256=True)
    assert third.already_resident


def test_an_early_answer_discards_a_long_rest(store: WireStore) -> None:
    data = bytes(64 << 20)
    handle = store.upload(data, with_sha256=True).info.handle
    sent = 0

    def messages() -> Iterator[pb.UploadRequest]:
        nonlocal sent
        yield header(len(data), sha256=hashlib.sha256(data).digest())
        for message in chunks(data):
            sent += 1
            yield message

    response = store.upload_messages(messages())
    assert response.already_resident
    assert response.info.handle == handle
    assert sent < 64


def test_dtype_and_shape_are_part_of_the_content(store: WireStore) -> None:
    data = bytes(64)
    a = store.upload(data, with_sha256=True)
    b = store.upload(data, with_sha256=True, shape=[8, 8])
    c = store.upload(data, with_sha256=True, dtype=tensor_pb2.FLOAT32, shape=[16])
    assert len({a.info.handle, b.info.handle, c.info.handle}) == 3


def test_without_a_digest_nothing_is_shared(store: WireStore) -> None:
    a = store.upload(b"same")
    b = store.upload(b"same", with_sha256=True)
    c = store.upload(b"same")
    assert len({a.info.handle, b.info.handle, c.info.handle}) == 3
    assert a.info.sha256 == b""
    assert store.used_bytes() == 12


def test_a_find_renews_and_pins_but_never_shortens(store: WireStore) -> None:
    store.upload(b"data", with_sha256=True, ttl_ms=60_000)
    shorter = store.upload(b"data", with_sha256=True, ttl_ms=1_000)
    assert 50_000 < shorter.info.expires_in_ms <= 60_000
    longer = store.upload(b"data", with_sha256=True, ttl_ms=120_000, pin_ms=30_000)
    assert 110_000 < longer.info.expires_in_ms <= 120_000
    assert 20_000 < longer.info.pinned_for_ms <= 30_000


def test_a_wrong_digest_leaves_nothing(store: WireStore) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        store.upload(b"data", sha256=hashlib.sha256(b"other").digest())
    failure = failure_of(caught.value)
    assert failure.code == grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields == ("header.sha256",)
    store.wait_until_used(0)
    assert not store.upload(b"other", with_sha256=True).already_resident


def test_deleted_content_must_be_sent_again(store: WireStore) -> None:
    first = store.upload(b"data", with_sha256=True)
    store.call("Delete", handle=first.info.handle)
    again = store.upload(b"data", with_sha256=True)
    assert not again.already_resident
    assert again.info.handle != first.info.handle
