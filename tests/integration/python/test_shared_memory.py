"""Shared memory: the same values as by messages, and nothing that a client does to its region, or
to the socket that gives it, harms the server or another tenant."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import endless
import numpy as np
import pytest
from observe import await_gauge, await_idle, await_that, gauge
from server_process import ServerProcess

import theria
from theria._operations import FORWARD
from theria._shared_memory import CREATE, DELETE, _receive_descriptor
from theria._steps import Call
from theria.v1 import attention_pb2, shared_memory_pb2, tensor_pb2

FIELDS = ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot")
MIB = 1 << 20


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("sharing")
    process = ServerProcess(
        directory, f"--shared-memory={directory / 'memory'}", "--shared-memory-bytes=8MiB"
    )
    try:
        yield process
        assert process.stop() == 0, process.log()[-4000:]
        assert not (directory / "memory").exists()
    finally:
        process.kill()


@pytest.fixture
def client(sharing: ServerProcess) -> Iterator[theria.Client]:
    with theria.connect(sharing.target, timeout=60.0) as client:
        yield client


def shared_copy(region: theria.SharedRegion, array: np.ndarray) -> np.ndarray:
    copy = region.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def test_values_are_those_of_messages(client: theria.Client, rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal((2, 3, 17, 8)) for _ in range(7)]
    mask = rng.random((17, 17)) < 0.7
    region = client.share(MIB)
    by_message = client.hvp(*arrays, attn_mask=mask)
    shared = [shared_copy(region, array) for array in arrays]
    in_place = client.hvp(*shared, attn_mask=shared_copy(region, mask), region=region)
    for field in FIELDS:
        output = getattr(in_place, field)
        np.testing.assert_array_equal(output, getattr(by_message, field))
        assert region.part(output.reshape(-1)) is not None, field
    # What is strided in shared memory is read there as well; outputs are inputs of the next call.
    transposed = shared[0].swapaxes(1, 2)
    forward = client.forward(transposed, shared[1].swapaxes(1, 2), shared[2].swapaxes(1, 2))
    expected = client.forward(*(a.swapaxes(1, 2).copy() for a in arrays[:3]))
    np.testing.assert_array_equal(forward.o, expected.o)
    again = client.forward(in_place.q_bar, in_place.k_bar, in_place.v_bar, region=region)
    expected = client.forward(by_message.q_bar, by_message.k_bar, by_message.v_bar)
    np.testing.assert_array_equal(again.o, expected.o)
    np.testing.assert_array_equal(again.lse, expected.lse)
    client.unshare(region)


def test_put_and_get(client: theria.Client, rng: np.random.Generator) -> None:
    values = rng.standard_normal((300, 1000)).astype(np.float32)
    region = client.share(4 * MIB)
    resident = client.put(shared_copy(region, values))
    np.testing.assert_array_equal(client.get(resident), values)
    fetched = client.get(resident, region=region)
    np.testing.assert_array_equal(fetched, values)
    np.testing.assert_array_equal(client.get(resident.handle, region=region), values)
    fetched[:] = 0  # the resident tensor is another's memory
    np.testing.assert_array_equal(client.get(resident), values)
    client.delete(resident)
    client.unshare(region)


def test_room_comes_back_with_the_arrays(client: theria.Client) -> None:
    region = client.share(MIB)
    for _ in range(8):
        arrays = [region.empty((1000, 64)) for _ in range(4)]
        view = arrays[0][5:]
        del arrays
        with pytest.raises(MemoryError):
            region.empty(MIB, np.uint8)
        del view
        gc.collect()
        whole = region.empty(MIB, np.uint8)
        del whole
    client.unshare(region)


def test_a_region_that_is_gone_costs_speed_alone(
    sharing: ServerProcess, client: theria.Client, rng: np.random.Generator
) -> None:
    values = rng.standard_normal((1, 1, 9, 4))
    others = gauge(sharing, "theria_shared_memory_bytes")
    region = client.share(MIB, ttl=2.0)
    q = shared_copy(region, values)
    expected = client.forward(values, values, values).o
    await_gauge(sharing, "theria_shared_memory_bytes", others)
    result = client.forward(q, q, q, region=region)
    np.testing.assert_array_equal(result.o, expected)
    resident = client.put(q)
    np.testing.assert_array_equal(client.get(resident, region=region), values)


def test_the_room_of_an_unanswered_call_is_not_used_again(
    sharing: ServerProcess, client: theria.Client, rng: np.random.Generator
) -> None:
    """The server may still be writing there."""
    region = client.share(endless.OUTPUT_BYTES + MIB)
    with pytest.raises(theria.DeadlineExceeded):
        client.hvp(*endless.OPERANDS, **endless.OPTIONS, region=region, timeout=1.0)
    with pytest.raises(MemoryError):
        region.empty(endless.OUTPUT_BYTES, np.uint8)
    # An answer, be it an error, frees it.
    q = rng.standard_normal((1, 8, 1024, 8))
    with pytest.raises(theria.InvalidArgument):
        client.forward(q, q, q[:, :, :9], region=region)
    region.empty(MIB, np.uint8)  # all but the first call's
    client.unshare(region)
    await_idle(sharing)


def test_a_use_begins_the_lease_anew(client: theria.Client, rng: np.random.Generator) -> None:
    region = client.share(MIB, ttl=4.0)
    q = shared_copy(region, rng.standard_normal((1, 1, 9, 4)))
    for _ in range(5):
        time.sleep(1.0)
        result = client.forward(q, q, q, region=region)
        assert region.part(result.o.reshape(-1)) is not None
        assert region in client._session.regions
    client.unshare(region)


def region_descriptor(client: theria.Client) -> tuple[str, int]:
    """Name and descriptor of a new region of a MiB."""
    request = shared_memory_pb2.CreateRegionRequest(size_bytes=MIB)
    info = client._transport.call(Call(CREATE, request, 10.0))
    return info.name, _receive_descriptor(info.socket, info.name)


def test_the_client_cannot_take_pages_away(client: theria.Client) -> None:
    _, descriptor = region_descriptor(client)
    try:
        for size in (0, 2 * MIB):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        assert os.fstat(descriptor).st_size == MIB
    finally:
        os.close(descriptor)


def test_references_are_checked(sharing: ServerProcess, client: theria.Client) -> None:
    name, descriptor = region_descriptor(client)
    os.close(descriptor)

    def call(request: attention_pb2.ForwardRequest) -> None:
        client._transport.call(Call(FORWARD.method, request, 10.0))

    def request(offset: int, size: int, region: str = name) -> attention_pb2.ForwardRequest:
        tensor = tensor_pb2.Tensor(
            dtype=tensor_pb2.FLOAT32,
            shape=(1, 1, 16, 4),
            shared_memory=tensor_pb2.SharedMemoryRef(
                region=region, offset_bytes=offset, size_bytes=size
            ),
        )
        return attention_pb2.ForwardRequest(q=tensor, k=tensor, v=tensor)

    call(request(0, 256))
    call(request(MIB - 256, 256))
    for offset, size in (
        (4, 256),
        (MIB, 256),
        (MIB - 256, 512),
        (2**64 - 256, 256),
        (256, 2**64 - 1),
        (0, 255),
        (0, 0),
    ):
        with pytest.raises(theria.InvalidArgument) as refused:
            call(request(offset, size))
        assert refused.value.field.startswith("q.shared_memory")
        assert name not in str(refused.value)
    for other in ("", name[:-1], name[:-1] + ("0" if name[-1] != "0" else "1"), "x" * 10_000):
        with pytest.raises(theria.RegionMissing):
            call(request(0, 256, other))
    # Outputs: too little room, and room that overlaps an input.
    overlapping = request(0, 256)
    overlapping.outputs.o = attention_pb2.SHARED
    overlapping.outputs.shared_memory.region = name
    overlapping.outputs.shared_memory.size_bytes = 255
    for offset in (0, 512):
        overlapping.outputs.shared_memory.offset_bytes = offset
        with pytest.raises(theria.InvalidArgument) as refused:
            call(overlapping)
        assert refused.value.field.startswith("outputs.shared_memory")
    overlapping.outputs.shared_memory.size_bytes = 256
    call(overlapping)
    log = sharing.log()
    assert name not in log


def test_capacity_is_bounded_and_comes_back(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server(f"--shared-memory={tmp_path / 'memory'}", "--shared-memory-bytes=8MiB")
    with theria.connect(server.target, timeout=30.0) as client:
        regions = [client.share(4 * MIB), client.share(4 * MIB)]
        with pytest.raises(theria.ResourceExhausted):
            client.share(MIB)
        for region in regions:
            client.unshare(region)
        client.unshare(client.share(8 * MIB))
        with pytest.raises(theria.InvalidArgument):
            client.share(9 * MIB)


def test_the_socket_survives_whoever_connects(
    sharing: ServerProcess, client: theria.Client
) -> None:
    name, descriptor = region_descriptor(client)
    os.close(descriptor)
    path = next(
        flag.split("=")[1] for flag in sharing._flags if flag.startswith("--shared-memory=")
    )
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o660
    for text in (b"", b"x", b"x" * 48, name[:-1].encode() + b"g", name.encode()[:47]):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            data, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(4))
            assert not data
            assert not ancillary
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(80)]
    for connection in silent:
        connection.connect(path)
    # More than the server looks at together: they are cut after a second, and ours is answered.
    os.close(_receive_descriptor(path, name))
    for connection in silent:
        connection.close()


def test_off_by_default(start_server: Callable[..., ServerProcess]) -> None:
    with theria.connect(start_server().target, timeout=30.0) as client:
        assert not client.info().shared_memory
        with pytest.raises(theria.Unimplemented):
            client.share(MIB)


def test_tenants_do_not_see_each_others(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    tenants = {
        name: {"tokens": [{"sha256": hashlib.sha256(f"token-{name}".encode()).hexdigest()}]}
        for name in ("one", "two")
    }
    (tmp_path / "tenants.json").write_text(json.dumps({"tenants": tenants}))
    server = start_server(
        f"--tenants={tmp_path / 'tenants.json'}", f"--shared-memory={tmp_path / 'memory'}"
    )
    with (
        theria.connect(server.target, token="token-one", timeout=30.0) as one,
        theria.connect(server.target, token="token-two", timeout=30.0) as two,
        theria.connect(server.target, timeout=30.0) as nobody,
    ):
        region = one.share(MIB)
        q = shared_copy(region, np.ones((1, 1, 4, 4)))
        one.forward(q, q, q, region=region)
        stolen = shared_memory_pb2.DeleteRegionRequest(name=region._name)
        with pytest.raises(theria.RegionMissing):
            two._transport.call(Call(DELETE, stolen, 10.0))
        with pytest.raises(theria.AccessDenied):
            nobody.share(MIB)
        one.forward(q, q, q, region=region)
        assert region in one._session.regions


def test_a_killed_client_leaves_nothing_beyond_its_lease(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server(f"--shared-memory={tmp_path / 'memory'}", "--shared-memory-bytes=4MiB")
    with theria.connect(server.target, timeout=30.0) as client:
        client.share(4 * MIB, ttl=3.0)
        with pytest.raises(theria.ResourceExhausted):
            client.share(MIB)
    with theria.connect(server.target, timeout=30.0) as other:

        def has_room() -> bool:
            try:
                other.unshare(other.share(4 * MIB))
            except theria.ResourceExhausted:
                return False
            return True

        await_that(has_room)
