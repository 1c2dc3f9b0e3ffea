"""What goes up comes back: sizes, dtypes, chunks, and a tensor larger than any message."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from wire_store import CHUNK_BYTES, WireStore, chunks, header

from theria.v1 import tensor_pb2
from theria.v1 import tensor_store_pb2 as pb

GIB = 1 << 30


@pytest.mark.parametrize("size", [1, 7, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5_000_000])
def test_bytes_come_back(store: WireStore, size: int) -> None:
    data = random.Random(size).randbytes(size)
    response = store.upload(data)
    assert not response.already_resident
    assert response.info.size_bytes == size
    assert store.used_bytes() == size
    assert store.download(response.info.handle) == data


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 3 << 20])
def test_upload_chunks_of_any_size(store: WireStore, chunk_bytes: int) -> None:
    data = random.Random(1).randbytes(min(4_000_000, 2000 * chunk_bytes))
    messages = [header(len(data)), *chunks(data, chunk_bytes)]
    assert store.download(store.upload_messages(messages).info.handle) == data


def test_empty_chunks_are_harmless(store: WireStore) -> None:
    empty = pb.UploadRequest(chunk=b"")
    response = store.upload_messages([header(4), empty, *chunks(b"abcd", 2), empty])
    assert store.download(response.info.handle) == b"abcd"


def test_download_says_what_it_brings_in_the_first_message_only(store: WireStore) -> None:
    data = bytes(range(240)) * 100
    handle = store.upload(data, dtype=tensor_pb2.FLOAT64, shape=[2, 30, 50]).info.handle
    first, *others = store.download_stream(handle, chunk_bytes=5000)
    assert first.info.handle == handle
    assert first.info.dtype == tensor_pb2.FLOAT64
    assert list(first.info.shape) == [2, 30, 50]
    assert first.info.size_bytes == len(data)
    assert first.info.readers == 1
    assert not any(message.HasField("info") for message in others)
    assert [len(message.chunk) for message in (first, *others)] == [5000] * 4 + [4000]


@pytest.mark.parametrize(
    ("wished", "largest"), [(0, 1 << 20), (1, 4 << 10), (10_000, 10_000), (2**32 - 1, 2 << 20)]
)
def test_download_chunks_are_bounded(store: WireStore, wished: int, largest: int) -> None:
    handle = store.upload(bytes(3 << 20)).info.handle
    sizes = [len(message.chunk) for message in store.download_stream(handle, wished)]
    assert max(sizes) == largest
    assert sum(sizes) == 3 << 20


@pytest.mark.parametrize(
    ("dtype", "item_bytes"),
    [
        (tensor_pb2.FLOAT64, 8),
        (tensor_pb2.FLOAT32, 4),
        (tensor_pb2.FLOAT16, 2),
        (tensor_pb2.BFLOAT16, 2),
        (tensor_pb2.BOOL, 1),
    ],
)
@pytest.mark.parametrize("shape", [[], [3], [2, 1, 2, 1, 2, 1, 2, 1]])
def test_dtypes_and_ranks(
    store: WireStore, dtype: tensor_pb2.DType, item_bytes: int, shape: list[int]
) -> None:
    count = 3 if shape == [3] else 1 << (len(shape) // 2)
    data = random.Random(0).randbytes(count * item_bytes)
    info = store.upload(data, dtype=dtype, shape=shape).info
    assert (info.dtype, list(info.shape), info.size_bytes) == (dtype, shape, len(data))
    assert store.download(info.handle) == data


def test_handles_are_unlike_each_other(store: WireStore) -> None:
    handles = {store.upload(b"x").info.handle for _ in range(50)}
    assert len(handles) == 50
    assert all(len(handle) >= 32 for handle in handles)
    prefixes = {handle[:8] for handle in handles}
    assert len(prefixes) == 50


class Pseudorandom:
    """Endless chunks that neither repeat nor cost much, and the digest of those given out."""

    def __init__(self) -> None:
        self._block = bytearray(random.Random(3).randbytes(CHUNK_BYTES))
        self.sha256 = hashlib.sha256()

    def chunks(self, count: int) -> Iterator[bytes]:
        for index in range(count):
            self._block[:8] = index.to_bytes(8, "little")
            chunk = bytes(self._block)
            self.sha256.update(chunk)
            yield chunk


@pytest.mark.slow
def test_three_gibibytes(connect_to_new_server: Callable[..., WireStore]) -> None:
    store = connect_to_new_server(f"--cache-bytes={4 * GIB}")
    source = Pseudorandom()
    count = 3 * GIB // CHUNK_BYTES
    sent = (pb.UploadRequest(chunk=chunk) for chunk in source.chunks(count))
    big = header(0, dtype=tensor_pb2.FLOAT32, shape=[3, GIB // 4])
    info = store.upload_messages(itertools.chain([big], sent)).info
    assert info.size_bytes == 3 * GIB
    assert store.used_bytes() == 3 * GIB

    received = hashlib.sha256()
    for message in store.download_stream(info.handle, chunk_bytes=2 << 20):
        received.update(message.chunk)
    assert received.digest() == source.sha256.digest()
    store.call("Delete", handle=info.handle)
    store.wait_until_used(0)
