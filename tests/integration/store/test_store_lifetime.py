"""How tensors come to an end: leases, pins, eviction, deletion, cut streams."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from wire_store import CHUNK_BYTES, WireStore, chunks, failure_of, header

from theria.v1 import tensor_store_pb2 as pb

MIB = 1 << 20


def test_a_lease_ends(store: WireStore) -> None:
    handle = store.upload(b"data", ttl_ms=3000).info.handle
    assert 0 < store.stat(handle).expires_in_ms <= 3000
    time.sleep(3.1)
    assert not store.exists(handle)
    # Nobody asks for it any more: the server's own collection gives the memory back.
    store.upload(b"data", ttl_ms=300)
    store.wait_until_used(0)


def test_renewal_sets_the_lease(store: WireStore) -> None:
    handle = store.upload(b"data", ttl_ms=3000).info.handle
    renewed = store.call("Renew", handle=handle, ttl_ms=60_000).info
    assert 59_000 < renewed.expires_in_ms <= 60_000
    time.sleep(3.1)
    assert store.exists(handle)
    default = store.call("Renew", handle=handle).info
    assert default.expires_in_ms == pytest.approx(store.info().limits.default_ttl_ms, abs=1000)
    store.call("Renew", handle=handle, ttl_ms=1)
    time.sleep(0.05)
    assert not store.exists(handle)


def test_a_pin_outlasts_the_lease_and_ends_by_itself(store: WireStore) -> None:
    handle = store.upload(b"data", ttl_ms=200, pin_ms=4000).info.handle
    time.sleep(0.5)
    info = store.stat(handle)
    assert info.expires_in_ms == 0
    assert 0 < info.pinned_for_ms <= 3500
    time.sleep(3.6)
    assert not store.exists(handle)


def test_pin_and_unpin(store: WireStore) -> None:
    handle = store.upload(b"data").info.handle
    assert store.stat(handle).pinned_for_ms == 0
    assert 4_000 < store.call("Pin", handle=handle, pin_ms=5_000).info.pinned_for_ms <= 5_000
    assert store.call("Pin", handle=handle).info.pinned_for_ms > 5_000
    assert store.call("Unpin", handle=handle).info.pinned_for_ms == 0
    assert store.call("Unpin", handle=handle).info.pinned_for_ms == 0


def test_eviction_takes_the_least_recently_used_and_spares_pins(
    connect_to_new_server: Callable[..., WireStore],
) -> None:
    # Without room to spill, for the servers that could.
    store = connect_to_new_server(f"--cache-bytes={20 * MIB}", "--spill-bytes=0")
    pinned = store.upload(bytes(4 * MIB), pin_ms=60_000).info.handle
    old = store.upload(bytes(4 * MIB)).info.handle
    read = store.upload(bytes(4 * MIB)).info.handle
    late = store.upload(bytes(4 * MIB)).info.handle
    store.download(read)
    store.upload(bytes(3 * MIB))  # 19 of 20 MiB would be over the mark of 90%
    assert [store.exists(handle) for handle in (pinned, old, read, late)] == [
        True,
        False,
        True,
        True,
    ]


def test_no_room_says_when_to_retry(connect_to_new_server: Callable[..., WireStore]) -> None:
    store = connect_to_new_server(f"--cache-bytes={8 * MIB}", f"--tenant-quota-bytes={4 * MIB}")
    handle = store.upload(bytes(3 * MIB), pin_ms=60_000).info.handle
    with pytest.raises(grpc.RpcError) as caught:
        store.upload(bytes(2 * MIB))
    failure = failure_of(caught.value)
    assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.retry_seconds is not None
    assert failure.retry_seconds > 0
    assert "quota" in failure.message
    store.call("Unpin", handle=handle)
    store.upload(bytes(2 * MIB))
    assert not store.exists(handle)


def test_a_download_of_a_deleted_tensor_finishes(store: WireStore) -> None:
    data = bytes(range(256)) * (48 * MIB // 256)
    handle = store.upload(data).info.handle
    stream = store.download_stream(handle)
    received = hashlib.sha256(next(stream).chunk)
    store.call("Delete", handle=handle)
    assert not store.exists(handle)
    assert store.used_bytes() == len(data)
    for message in stream:
        received.update(message.chunk)
    assert received.digest() == hashlib.sha256(data).digest()
    store.wait_until_used(0)


def test_a_cancelled_download_lets_go(store: WireStore) -> None:
    handle = store.upload(bytes(48 * MIB)).info.handle
    stream = store.download_stream(handle)
    next(stream)
    assert store.stat(handle).readers == 1
    stream.cancel()
    store.call("Delete", handle=handle)
    store.wait_until_used(0)


@pytest.mark.parametrize("sent_chunks", [0, 1, 5, 8])  # 8: every byte, but not the stream's end
def test_a_cut_upload_leaves_nothing(store: WireStore, sent_chunks: int) -> None:
    reached = threading.Event()
    release = threading.Event()

    def messages() -> Iterator[pb.UploadRequest]:
        yield header(8 * CHUNK_BYTES)
        yield from list(chunks(bytes(8 * CHUNK_BYTES)))[:sent_chunks]
        reached.set()
        release.wait()

    call = store.upload_method().future(messages())
    try:
        assert reached.wait(60)
        store.wait_until_used(8 * CHUNK_BYTES)  # reserved as a whole
        assert store.list_all() == []
        call.cancel()
        store.wait_until_used(0)
        assert store.list_all() == []
    finally:
        release.set()


def test_a_lost_connection_leaves_nothing(store: WireStore, server_target: str) -> None:
    release = threading.Event()

    def messages() -> Iterator[pb.UploadRequest]:
        yield header(8 * CHUNK_BYTES)
        yield from list(chunks(bytes(3 * CHUNK_BYTES)))
        release.wait()

    other = WireStore(server_target)
    call = other.upload_method().future(messages())
    try:
        store.wait_until_used(8 * CHUNK_BYTES)
        other.close()
        store.wait_until_used(0)
    finally:
        release.set()
        call.cancel()


def test_many_clients_at_once_leave_exact_accounts(store: WireStore, server_target: str) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with WireStore(server_target) as mine:
                for step in range(12):
                    data = bytes([seed, step]) * (100_000 + 1000 * seed)
                    handle = mine.upload(data, with_sha256=step % 2 == 0).info.handle
                    assert mine.download(handle) == data
                    if step % 3:
                        mine.call("Delete", handle=handle)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    listed = store.list_all(page_size=5)
    assert len(listed) == 8 * 4
    assert store.used_bytes() == sum(info.size_bytes for info in listed)
    assert all(info.readers == 0 for info in listed)
