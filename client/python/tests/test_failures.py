"""The exception tree, retries on UNAVAILABLE, and the repair of lost tensors."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

import theria
from theria import Client, RetryPolicy
from theria._remote_client import RemoteClient
from theria._session import Session
from theria._status import error_from_status

Q = np.ones((1, 1, 2, 4))


def details(*messages: Any) -> bytes:
    status = status_pb2.Status()
    for message in messages:
        status.details.add().Pack(message)
    data: bytes = status.SerializeToString()
    return data


@pytest.mark.parametrize("code", code_pb2.Code.keys()[1:])
def test_every_code_has_its_class(code: str) -> None:
    error = error_from_status(code, "so it is", None, "r9")
    expected = {
        "INVALID_ARGUMENT": theria.InvalidArgument,
        "OUT_OF_RANGE": theria.InvalidArgument,
        "UNIMPLEMENTED": theria.Unimplemented,
        "RESOURCE_EXHAUSTED": theria.ResourceExhausted,
        "DEADLINE_EXCEEDED": theria.DeadlineExceeded,
        "CANCELLED": theria.Cancelled,
        "UNAVAILABLE": theria.Unavailable,
        "PERMISSION_DENIED": theria.AccessDenied,
        "UNAUTHENTICATED": theria.AccessDenied,
        "FAILED_PRECONDITION": theria.FailedPrecondition,
        "ABORTED": theria.FailedPrecondition,
        "NOT_FOUND": theria.FailedPrecondition,
        "ALREADY_EXISTS": theria.FailedPrecondition,
    }.get(code, theria.Internal)
    assert type(error) is expected
    assert (error.code, str(error), error.request_id) == (code, "so it is", "r9")


def test_standard_bases() -> None:
    assert issubclass(theria.InvalidArgument, ValueError)
    assert issubclass(theria.DeadlineExceeded, TimeoutError)
    assert issubclass(theria.Unavailable, ConnectionError)
    assert issubclass(theria.TensorMissing, (theria.FailedPrecondition, LookupError))


def test_details_become_attributes() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="k.shape[3]", description="48, must be 64")
    bad.field_violations.add(field="v.shape[2]", description="1, must be 2")
    error = error_from_status("INVALID_ARGUMENT", "m", details(bad))
    assert isinstance(error, theria.InvalidArgument)
    assert error.field == "k.shape[3]"
    assert [v.description for v in error.violations] == ["48, must be 64", "1, must be 2"]

    failure = error_details_pb2.PreconditionFailure()
    failure.violations.add(type="TENSOR_MISSING", subject="h1")
    failure.violations.add(type="SOMETHING_ELSE", subject="h2")
    error = error_from_status("FAILED_PRECONDITION", "m", details(failure))
    assert isinstance(error, theria.TensorMissing)
    assert error.handles == ("h1",)

    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000))
    error = error_from_status("RESOURCE_EXHAUSTED", "m", details(bad, retry))
    assert isinstance(error, theria.ResourceExhausted)
    assert error.retry_delay == 0.25


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"", None])
def test_unreadable_details_are_none(garbage: bytes | None) -> None:
    error = error_from_status("INVALID_ARGUMENT", "", garbage)
    assert isinstance(error, theria.InvalidArgument)
    assert (error.violations, error.field, str(error)) == ((), "", "INVALID_ARGUMENT")


class TestRetries:
    def fail(self, server: FakeServer, times: int, error: theria.Error) -> None:
        count = itertools.count()
        server.faults.append(lambda _: error if next(count) < times else None)

    def test_unavailable_is_retried_with_growing_waits(
        self, client: Client, server: FakeServer, sleeps: list[float]
    ) -> None:
        self.fail(server, 6, theria.Unavailable("starting"))
        client.forward(Q, Q, Q)
        assert server.names() == ["Forward"] * 7
        nominal = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
        for wait, longest in zip(sleeps, nominal, strict=True):
            assert 0.8 * longest <= wait <= longest

    def test_waits_have_a_ceiling_and_attempts_an_end(
        self, server: FakeServer, sleeps: list[float]
    ) -> None:
        policy = RetryPolicy(max_attempts=5, initial_backoff=1, max_backoff=3, jitter=0)
        self.fail(server, 99, theria.Unavailable("gone"))
        with pytest.raises(theria.Unavailable, match="gone"):
            RemoteClient(server, Session(retry=policy)).info()
        assert sleeps == [1, 2, 3, 3]

    def test_no_wait_reaches_past_the_timeout(
        self, server: FakeServer, sleeps: list[float]
    ) -> None:
        policy = RetryPolicy(initial_backoff=100, max_backoff=9999, jitter=0)
        self.fail(server, 99, theria.Unavailable("gone"))
        with pytest.raises(theria.Unavailable, match="gone"):
            RemoteClient(server, Session(retry=policy)).forward(Q, Q, Q, timeout=600)
        assert sleeps == [100, 200, 400]

    def test_the_clients_timeout_holds_for_calls_without_one(self, server: FakeServer) -> None:
        client = RemoteClient(server, Session(timeout=5.0))
        client.forward(Q, Q, Q)
        client.info()
        client.info(timeout=2.0)
        assert [round(t or 0) for t in server.timeouts] == [5, 5, 2]
        with pytest.raises(theria.DeadlineExceeded):
            client.forward(Q, Q, Q, timeout=0.0)
        assert len(server.requests) == 3

    @pytest.mark.parametrize(
        "error",
        [
            theria.InvalidArgument("x"),
            theria.Unimplemented("x"),
            theria.FailedPrecondition("x"),
            theria.ResourceExhausted("x", retry_delay=0.001),
            theria.DeadlineExceeded("x"),
            theria.Cancelled("x"),
            theria.AccessDenied("x"),
            theria.Internal("x"),
        ],
    )
    def test_nothing_else_is_retried(
        self, client: Client, server: FakeServer, sleeps: list[float], error: theria.Error
    ) -> None:
        self.fail(server, 1, error)
        with pytest.raises(type(error)):
            client.forward(Q, Q, Q)
        assert len(server.requests) == 1
        assert sleeps == []

    def test_health_is_not_retried(
        self, client: Client, server: FakeServer, sleeps: list[float]
    ) -> None:
        self.fail(server, 1, theria.Unavailable("x"))
        with pytest.raises(theria.Unavailable):
            client.health()
        assert sleeps == []

    def test_a_repeated_upload_and_download_start_anew(
        self, client: Client, server: FakeServer, sleeps: list[float]
    ) -> None:
        self.fail(server, 1, theria.Unavailable("x"))
        tensor = client.put(np.arange(6.0))
        server.faults.clear()
        self.fail(server, 1, theria.Unavailable("x"))
        np.testing.assert_array_equal(client.get(tensor), np.arange(6.0))
        assert len(sleeps) == 2


class TestRepair:
    def test_lost_tensors_go_up_again_and_the_call_is_repeated(
        self, client: Client, server: FakeServer
    ) -> None:
        k, v = client.put(Q), client.put(Q * 2, ttl=4.0, pin=2.0)
        before = (k.handle, v.handle)
        server.lose_all()
        r = client.forward(Q, k, v)
        np.testing.assert_allclose(r.o, Q * 2)
        assert server.names() == ["Upload", "Upload", "Forward", "Upload", "Upload", "Forward"]
        assert {k.handle, v.handle}.isdisjoint(before)
        header = server.last("Upload")
        assert (header.ttl_ms, header.pin_ms) == (4000, 2000)

    @pytest.mark.parametrize("call", ["get", "renew", "pin"])
    def test_calls_on_one_tensor_repair_it_too(
        self, client: Client, server: FakeServer, call: str
    ) -> None:
        tensor = client.put(Q)
        server.lose_all()
        getattr(client, call)(tensor)
        assert list(server.tensors) == [tensor.handle]

    @pytest.mark.parametrize("call", ["stat", "unpin", "delete"])
    def test_calls_that_ask_or_end_do_not(
        self, client: Client, server: FakeServer, call: str
    ) -> None:
        tensor = client.put(Q)
        server.lose_all()
        with pytest.raises(theria.TensorMissing) as caught:
            getattr(client, call)(tensor)
        assert caught.value.handles == (tensor.handle,)

    def test_once_only(self, client: Client, server: FakeServer) -> None:
        tensor = client.put(Q)
        server.faults.append(
            lambda name: (
                theria.TensorMissing("x", handles=(tensor.handle,)) if name == "Forward" else None
            )
        )
        with pytest.raises(theria.TensorMissing):
            client.forward(tensor, Q, Q)
        assert server.names() == ["Upload", "Forward", "Upload", "Forward"]

    def test_a_source_that_was_changed_is_not_sent(
        self, client: Client, server: FakeServer
    ) -> None:
        source = Q.copy()
        tensor = client.put(source)
        server.lose_all()
        source[0, 0, 1, 3] = 7
        with pytest.raises(theria.TensorMissing):
            client.forward(tensor, Q, Q)
        assert server.tensors == {}

    def test_retention(self, client: Client, server: FakeServer) -> None:
        kept = Q.copy()
        weak, strong = client.put(kept, retain="weak"), client.put(Q.copy())
        none = client.put(Q, retain="none")
        server.lose_all()
        client.forward(weak, strong, Q)
        with pytest.raises(theria.TensorMissing):
            client.get(none)
        server.lose_all()
        del kept
        gc.collect()
        client.get(strong)
        with pytest.raises(theria.TensorMissing):
            client.get(weak)

    def test_only_the_client_that_put_it_uploads_a_tensor_again(
        self, client: Client, server: FakeServer
    ) -> None:
        tensor = client.put(Q)
        handle = tensor.handle
        other_server = FakeServer()
        other, colleague = RemoteClient(other_server), RemoteClient(server)
        np.testing.assert_array_equal(colleague.get(tensor), Q)
        calls: list[Callable[[], Any]] = [
            lambda: other.forward(tensor, Q, Q),
            lambda: other.get(tensor),
            lambda: other.pin(tensor),
        ]
        for call in calls:
            with pytest.raises(theria.TensorMissing) as caught:
                call()
            assert caught.value.handles == (handle,)
        assert (tensor.handle, other_server.tensors) == (handle, {})
        server.lose_all()
        with pytest.raises(theria.TensorMissing):
            colleague.get(tensor)
        np.testing.assert_array_equal(client.get(tensor), Q)
        assert tensor.handle != handle

    def test_a_deleted_tensor_does_not_come_back(self, client: Client, server: FakeServer) -> None:
        deleted, lost = client.put(Q), client.put(Q)
        client.delete(deleted)
        server.lose_all()
        with pytest.raises(theria.TensorMissing):
            client.delete(lost)
        for tensor in (deleted, lost):
            with pytest.raises(theria.TensorMissing):
                client.get(tensor)
        assert server.tensors == {}

    def test_deleting_what_is_anothers_keeps_the_source(
        self, client: Client, server: FakeServer
    ) -> None:
        tensor = client.put(Q)
        with pytest.raises(theria.TensorMissing):
            RemoteClient(FakeServer()).delete(tensor)
        server.lose_all()
        np.testing.assert_array_equal(client.get(tensor), Q)

    def test_outputs_and_foreign_handles_have_no_source(
        self, client: Client, server: FakeServer
    ) -> None:
        tensor = client.put(Q)
        attached = client.attach(tensor.handle)
        output = client.forward(Q, Q, Q, outputs={"o": "resident"}).o
        server.lose_all()
        for lost in (attached, output):
            with pytest.raises(theria.TensorMissing):
                client.forward(lost, Q, Q)
        with pytest.raises(theria.TensorMissing):
            client.get(tensor.handle)

    def test_a_repair_that_came_second_deletes_its_own(
        self, client: Client, server: FakeServer
    ) -> None:
        tensor = client.put(Q)
        server.lose_all()

        def other_thread_repairs(name: str) -> None:
            if name == "Upload":
                server.faults.clear()
                client.get(tensor)

        server.faults.append(other_thread_repairs)
        client.get(tensor)
        assert list(server.tensors) == [tensor.handle]


class TestStore:
    def test_put_and_get_in_chunks(self, server: FakeServer) -> None:
        client = RemoteClient(server, Session(chunk_bytes=16))
        array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
        tensor = client.put(array)
        assert tensor.dtype == np.float64
        assert (tensor.shape, tensor.nbytes) == ((4, 2, 3), 192)
        np.testing.assert_array_equal(client.get(tensor), array)
        np.testing.assert_array_equal(client.get(tensor.handle), array)

    def test_content_addressing_sends_the_digest(self, client: Client, server: FakeServer) -> None:
        first = client.put(Q, content_address=True)
        again = client.put(Q.copy(), content_address=True)
        assert first.handle == again.handle
        server.lose_all()
        np.testing.assert_array_equal(client.get(again), Q)

    def test_list_reads_all_pages(self, client: Client) -> None:
        tensors = [client.put(Q) for _ in range(3)]
        listed = client.list()
        assert [t.handle for t in listed] == [t.handle for t in tensors]
        assert listed[0].expires_in == 1.5

    def test_a_download_of_the_wrong_size_is_internal(
        self, client: Client, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tensor = client.put(Q)

        def download(factor: int) -> Any:
            def run(step: Any) -> None:
                from theria.v1 import tensor_store_pb2

                response = tensor_store_pb2.DownloadResponse(chunk=bytes(Q.nbytes * factor // 2))
                server._describe(tensor.handle, response.info)
                step.receive(response)

            return run

        for factor in (1, 3):
            monkeypatch.setattr(server, "download", download(factor))
            with pytest.raises(theria.Internal):
                client.get(tensor)
