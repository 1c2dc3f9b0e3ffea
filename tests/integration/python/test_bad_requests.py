"""No request, however malformed, crashes the server, grows it, or changes another's result."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import bad_requests
import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from server_process import ServerProcess
from spoiled_requests import Bad, valid_requests

import theria

# Measured: 0.2 MiB up and down over 160 rounds on an idle machine, 2.2 MiB on one with ten times
# more threads than cores. A leak of 1000 bytes a request would fail.
MEMORY_BOUND_BYTES = 6 << 20
WARM_UP_ROUNDS = 5
ROUNDS = 40


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(
        tmp_path_factory.mktemp("strict"), *bad_requests.SERVER_FLAGS, exact_memory=True
    )
    try:
        yield process
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()


@pytest.fixture(scope="module")
def handles(strict_server: ServerProcess) -> dict[str, str]:
    with theria.connect(strict_server.target) as client:
        k = client.put(np.ones((1, 2, 3, 4), np.float32), ttl=3000.0)
        rank5 = client.put(np.ones((1, 1, 1, 1, 1), np.float32), ttl=3000.0)
    return {bad_requests.HANDLE_K: k.handle, bad_requests.HANDLE_RANK5: rank5.handle}


@pytest.fixture(scope="module")
def channel(strict_server: ServerProcess) -> Iterator[grpc.Channel]:
    with raw_channel(strict_server) as channel:
        yield channel


def raw_channel(server: ServerProcess) -> grpc.Channel:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.insecure_channel(server.target, options=options)


def to_bytes(part: Any, handles: dict[str, str]) -> bytes:
    data: bytes = part if isinstance(part, bytes) else part.SerializeToString()
    if any(name.encode() in data for name in handles):
        data = resolved(part, handles).SerializeToString()
    return data


def resolved(message: Any, handles: dict[str, str]) -> Any:
    """A copy with the placeholders of resident tensors replaced."""
    copy = type(message)()
    copy.CopyFrom(message)
    for descriptor, value in copy.ListFields():
        if descriptor.name == "handle":
            for name, handle in handles.items():
                value = value.replace(name, handle)
            copy.handle = value
        elif descriptor.message_type is not None and not descriptor.is_repeated:
            getattr(copy, descriptor.name).CopyFrom(resolved(value, handles))
    return copy


def payload(bad: Bad, handles: dict[str, str]) -> Any:
    """What goes over the wire: bytes, or a list of them for a stream."""
    if isinstance(bad.request, list):
        return [to_bytes(part, handles) for part in bad.request]
    return to_bytes(bad.request, handles)


def send(channel: grpc.Channel, bad: Bad, data: Any) -> grpc.RpcError | None:
    """The failure that the request met; None if it was answered."""
    try:
        if isinstance(data, list):
            channel.stream_unary(bad.path)(iter(data), timeout=bad.timeout)
        elif bad.path.endswith("/Download"):
            list(channel.unary_stream(bad.path)(data, timeout=bad.timeout))
        else:
            channel.unary_unary(bad.path)(data, timeout=bad.timeout)
    except grpc.RpcError as error:
        return error
    return None


def settled_bytes(server: ServerProcess, goal: int = 0) -> int:
    """Least resident memory until it meets `goal`, within ten seconds.

    Computations that ran into their deadline end, and free what they hold, after their calls.
    """
    least = server.resident_bytes()
    for _ in range(40):
        if least <= goal:
            break
        time.sleep(0.25)
        least = min(least, server.resident_bytes())
    return least


def assert_answer(bad: Bad, error: Any) -> None:
    assert error is not None, "the request was accepted"
    assert error.code().name == bad.code, error.details()
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status()
    status.ParseFromString(metadata.get("grpc-status-details-bin", b""))
    fields: list[str] = []
    missing: list[str] = []
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        precondition = error_details_pb2.PreconditionFailure()
        if detail.Unpack(request):
            fields += [violation.field for violation in request.field_violations]
            assert all(violation.description for violation in request.field_violations)
        elif detail.Unpack(precondition):
            assert all(v.type == "TENSOR_MISSING" for v in precondition.violations)
            missing += [violation.subject for violation in precondition.violations]
    assert fields == ([] if bad.field is None else [bad.field]), error.details()
    if bad.missing:
        assert tuple(missing) == bad.missing
    if bad.field is not None:
        assert bad.field in error.details()


def test_the_table_is_large_and_its_names_are_distinct() -> None:
    assert len(bad_requests.REQUESTS) >= 60
    assert len({bad.name for bad in bad_requests.REQUESTS}) == len(bad_requests.REQUESTS)


def test_the_requests_that_the_table_spoils_are_valid(channel: grpc.Channel) -> None:
    for path, request in valid_requests():
        assert send(channel, Bad("", path, request), request.SerializeToString()) is None


@pytest.mark.parametrize("bad", bad_requests.REQUESTS, ids=lambda bad: bad.name)
def test_bad_request(
    strict_server: ServerProcess, channel: grpc.Channel, handles: dict[str, str], bad: Bad
) -> None:
    assert_answer(bad, send(channel, bad, payload(bad, handles)))
    assert strict_server.is_running()


def test_the_server_is_what_it_was_and_others_saw_nothing(
    strict_server: ServerProcess, handles: dict[str, str]
) -> None:
    """Rounds of the whole table beside a client whose results must stay bit for bit the same."""
    rng = np.random.default_rng(8)
    q, k, v = (rng.standard_normal((1, 2, 9, 4)).astype(np.float32) for _ in range(3))
    table = [(bad, payload(bad, handles)) for bad in bad_requests.REQUESTS]
    stop = threading.Event()
    failures: list[BaseException] = []
    calls = 0

    def well_behaved() -> None:
        nonlocal calls
        try:
            with theria.connect(strict_server.target, timeout=60.0) as client:
                first = client.hvp(q, k, v, v, q, k, v)
                while not stop.is_set():
                    again = client.hvp(q, k, v, v, q, k, v)
                    np.testing.assert_array_equal(again.q_bar_dot, first.q_bar_dot)
                    np.testing.assert_array_equal(again.v_bar, first.v_bar)
                    calls += 1
        except BaseException as error:
            failures.append(error)

    other = threading.Thread(target=well_behaved)
    other.start()
    before = 0
    try:
        with raw_channel(strict_server) as channel:
            for round_number in range(WARM_UP_ROUNDS + ROUNDS):
                if round_number == WARM_UP_ROUNDS:
                    before = settled_bytes(strict_server)
                for bad, data in table:
                    assert send(channel, bad, data) is not None, bad.name
    finally:
        stop.set()
        other.join()
    assert failures == []
    assert calls > ROUNDS
    settled = settled_bytes(strict_server, goal=before + MEMORY_BOUND_BYTES)
    assert settled <= before + MEMORY_BOUND_BYTES, f"{settled - before} bytes more than before"

    with theria.connect(strict_server.target) as client:
        store = client.info().store
        assert store.entries == len(handles)
        assert store.used_bytes == 4 * 24 + 4
        o = client.forward(q, q, v, is_causal=True).o
        np.testing.assert_allclose(o[:, :, 0], v[:, :, 0], rtol=1e-6)
