"""Bearer tokens and tenants: who gets in, what each of them sees, and how much he may use."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import endless
import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from observe import await_gauge, await_that, gauge, metrics
from server_process import ServerProcess
from tenants_file import TenantsFile, digest
from wall_clock import WallClock

import theria
from theria.v1 import attention_pb2, server_pb2, tensor_store_pb2

Connect = Callable[..., theria.Client]

SERVICES: list[ServiceDescriptor] = [
    service
    for module in (attention_pb2, server_pb2, tensor_store_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = [(service.full_name, method.name) for service in SERVICES for method in service.methods]


def is_admitted(client: theria.Client) -> bool:
    try:
        client.info()
    except theria.AccessDenied:
        return False
    return True


class TestWhoGetsIn:
    @pytest.mark.parametrize(("service", "method"), METHODS)
    def test_no_method_answers_without_a_token(
        self, shared_server: ServerProcess, service: str, method: str
    ) -> None:
        with grpc.insecure_channel(shared_server.target) as channel:
            stub = channel.stream_stream(f"/{service}/{method}")
            with pytest.raises(grpc.RpcError) as caught:
                list(stub(iter([b""]), timeout=20))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize(
        "header",
        ["Bearer wrong", "Bearer ", "Bearer", "token-1", "Basic token-1", "Bearer " + "x" * 5000],
    )
    def test_what_is_no_token_is_refused(
        self, shared_server: ServerProcess, connect: Connect, header: str
    ) -> None:
        client = connect(shared_server.target, metadata=(("authorization", header),))
        with pytest.raises(theria.AccessDenied) as caught:
            client.info()
        assert caught.value.code == "UNAUTHENTICATED"
        assert "token-" not in caught.value.message

    def test_two_tokens_are_refused(self, shared_server: ServerProcess, connect: Connect) -> None:
        twice = (("authorization", "Bearer token-1"), ("authorization", "Bearer token-2"))
        with pytest.raises(theria.AccessDenied):
            connect(shared_server.target, metadata=twice).info()

    def test_health_needs_no_token(self, shared_server: ServerProcess, connect: Connect) -> None:
        assert connect(shared_server.target).health() == "serving"

    def test_tokens_expire(
        self,
        start_server: Callable[..., ServerProcess],
        tenants: TenantsFile,
        connect: Connect,
        wall_clock: WallClock,
    ) -> None:
        tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
        tenants.write(
            one={"tokens": [{"sha256": digest("brief"), "expires": tomorrow.isoformat()}]},
            two={"tokens": [{"sha256": digest("past"), "expires": "2020-01-01T00:00:00Z"}]},
        )
        server = start_server(f"--tenants={tenants.path}", environment=wall_clock.environment)
        assert not is_admitted(connect(server.target, token="past"))
        brief = connect(server.target, token="brief")
        assert is_admitted(brief)
        wall_clock.jump(24 * 60 * 60)
        await_that(lambda: not is_admitted(brief))

    def test_a_replaced_file_counts_at_once_and_a_bad_one_does_not(
        self, shared_server: ServerProcess, tenants: TenantsFile, connect: Connect, tmp_path: Path
    ) -> None:
        token_file = tmp_path / "token"
        token_file.write_text("token-1\n")
        follower = connect(shared_server.target, token_file=token_file)
        old = connect(shared_server.target, token="token-1")
        assert is_admitted(old) and is_admitted(follower)
        tenants.write_text('{"tenants": {"one": {}}}')
        await_that(lambda: "tenants refused" in shared_server.log())
        assert is_admitted(old)
        tenants.write(one={"tokens": [{"sha256": digest("token-3")}]})
        await_that(lambda: not is_admitted(old))
        assert not is_admitted(follower)
        token_file.write_text("token-3\n")
        assert is_admitted(follower)


class TestRefusedLogins:
    """What the operator is told of them."""

    def lines(self, server: ServerProcess) -> list[str]:
        return [line for line in server.log().splitlines() if "level=warning" in line]

    def test_a_client_that_tries_again_and_again_is_told_once(
        self, shared_server: ServerProcess, connect: Connect
    ) -> None:
        for attempt in range(20):  # each on a connection of its own, from another port
            assert not is_admitted(connect(shared_server.target, token=f"wrong-{attempt}"))
        (line,) = self.lines(shared_server)
        assert line.endswith('event="login refused" host=ipv4:127.0.0.1 reason=unknown_token')
        name = 'theria_refused_logins_total{reason="unknown_token"}'
        assert gauge(shared_server, name) == 20
        assert "wrong-" not in shared_server.log()

    def test_each_reason_has_its_count(
        self, shared_server: ServerProcess, connect: Connect
    ) -> None:
        assert is_admitted(connect(shared_server.target, token="token-1"))
        assert not is_admitted(connect(shared_server.target))
        basic = (("authorization", "Basic token-1"),)
        assert not is_admitted(connect(shared_server.target, metadata=basic))
        counts = {"no_credentials": 1, "malformed": 1, "unknown_token": 0, "expired_token": 0}
        for reason, count in counts.items():
            name = f'theria_refused_logins_total{{reason="{reason}"}}'
            assert gauge(shared_server, name) == count

    def test_an_expired_token_is_told_with_its_tenant(
        self, shared_server: ServerProcess, tenants: TenantsFile, connect: Connect
    ) -> None:
        past = {"sha256": digest("token-3"), "expires": "2020-01-01T00:00:00Z"}
        tenants.write(one={"tokens": [past]})
        await_that(lambda: "tenants read" in shared_server.log())
        assert not is_admitted(connect(shared_server.target, token="token-3"))
        (line,) = self.lines(shared_server)
        assert line.endswith("host=ipv4:127.0.0.1 reason=expired_token whose=one")


class TestWhatIsSeen:
    @pytest.fixture
    def one(self, shared_server: ServerProcess, connect: Connect) -> theria.Client:
        return connect(shared_server.target, token="token-1")

    @pytest.fixture
    def two(self, shared_server: ServerProcess, connect: Connect) -> theria.Client:
        return connect(shared_server.target, token="token-2")

    def test_handles_are_the_tenants_own(
        self, one: theria.Client, two: theria.Client, tensor: np.ndarray
    ) -> None:
        handle = one.put(tensor).handle
        unknown = "0" * len(handle)
        uses: list[Callable[[str], Any]] = [
            two.get,
            two.stat,
            two.renew,
            two.pin,
            two.unpin,
            two.delete,
            two.attach,
            lambda name: two._run(_forward_by_handle(name)),
        ]
        for use in uses:
            with pytest.raises(theria.TensorMissing) as foreign:
                use(handle)
            with pytest.raises(theria.TensorMissing) as missing:
                use(unknown)
            assert foreign.value.message == missing.value.message
        np.testing.assert_array_equal(one.get(handle), tensor)

    def test_lists_and_figures_are_the_tenants_own(
        self, one: theria.Client, two: theria.Client, tensor: np.ndarray
    ) -> None:
        kept = one.put(tensor)
        assert [info.handle for info in one.list()] == [kept.handle]
        assert two.list() == ()
        assert one.info().store.used_bytes == tensor.nbytes
        assert two.info().store.used_bytes == 0
        assert two.info().store.entries == 0

    def test_content_is_not_found_across_tenants(
        self, one: theria.Client, two: theria.Client, tensor: np.ndarray
    ) -> None:
        first = one.put(tensor, content_address=True)
        second = two.put(tensor, content_address=True)
        assert first.handle != second.handle
        assert two.info().store.used_bytes == tensor.nbytes
        assert one.put(tensor, content_address=True).handle == first.handle

    def test_metrics_name_tenants_and_never_tokens_or_handles(
        self, shared_server: ServerProcess, one: theria.Client, tensor: np.ndarray
    ) -> None:
        handle = one.put(tensor).handle
        text = metrics(shared_server)
        assert f'theria_tenant_store_bytes{{tenant="one"}} {tensor.nbytes}' in text
        assert 'theria_tenant_store_bytes{tenant="two"} 0' in text
        assert handle not in text
        assert "token-" not in text
        assert "token-1" not in shared_server.log()


def _forward_by_handle(handle: str) -> Any:
    from theria._steps import Call, Method

    tensor = {"handle": handle}
    request = attention_pb2.ForwardRequest(q=tensor, k=tensor, v=tensor)
    path = "/theria.v1.AttentionService/Forward"
    yield Call(
        Method(path, attention_pb2.ForwardRequest, attention_pb2.ForwardResponse), request, 20.0
    )


class TestHowMuch:
    def start(
        self,
        start_server: Callable[..., ServerProcess],
        tenants: TenantsFile,
        *flags: str,
        **limits: Any,
    ) -> ServerProcess:
        """A server whose tenant "one" has `limits`, and whose "two" has none."""
        tenants.write(
            one={"tokens": [{"sha256": digest("token-1")}], **limits},
            two={"tokens": [{"sha256": digest("token-2")}]},
        )
        return start_server(f"--tenants={tenants.path}", *flags)

    def test_a_quota_of_bytes(
        self,
        start_server: Callable[..., ServerProcess],
        tenants: TenantsFile,
        connect: Connect,
    ) -> None:
        server = self.start(start_server, tenants, store_bytes="1MiB")
        one, two = (connect(server.target, token=f"token-{i}") for i in (1, 2))
        assert one.info().store.capacity_bytes == 1 << 20
        large = np.zeros((1, 1, 1024, 512), np.float32)  # 2 MiB
        # More than the whole quota: refused for good, resident outputs too.
        small = np.zeros((1, 1, 2048, 16), np.float32)
        for use in (
            lambda: one.put(large),
            lambda: one.forward(
                small, small, np.zeros((1, 1, 2048, 256), np.float32), outputs={"o": "resident"}
            ),
        ):
            with pytest.raises(theria.ResourceExhausted) as caught:
                use()
            assert "larger than the tenant's quota of 1048576 bytes" in caught.value.message
            assert caught.value.retry_delay is None
        kept = two.put(large)
        # A tenant's own tensors make way, nobody else's.
        halves = [one.put(large[:, :, :256]) for _ in range(5)]
        assert one.info().store.used_bytes <= 1 << 20
        with pytest.raises(theria.TensorMissing):
            one.get(halves[0].handle)
        np.testing.assert_array_equal(two.get(kept.handle), large)

    def test_a_rate(
        self, start_server: Callable[..., ServerProcess], tenants: TenantsFile, connect: Connect
    ) -> None:
        server = self.start(start_server, tenants, requests_per_second=0.2, burst_requests=3)
        one, two = (connect(server.target, token=f"token-{i}") for i in (1, 2))
        for _ in range(3):
            one.info()
        with pytest.raises(theria.ResourceExhausted) as caught:
            one.info()
        assert caught.value.retry_delay is not None
        assert 0 < caught.value.retry_delay <= 5
        for _ in range(20):
            two.info()
        time.sleep(caught.value.retry_delay + 0.05)
        one.info()
        assert 'theria_tenant_refusals_total{tenant="one",reason="rate"} 1' in metrics(server)

    def test_a_greedy_tenant_leaves_room_for_another(
        self, start_server: Callable[..., ServerProcess], tenants: TenantsFile
    ) -> None:
        """Who comes late is served before all that the other had queued."""
        server = self.start(
            start_server,
            tenants,
            "--compute-slots=1",
            "--max-queued-requests=10",
            queued_requests=9,
        )
        small = np.ones((1, 1, 2, 4))

        async def run() -> None:
            once = theria.RetryPolicy(max_attempts=1)
            async with (
                theria.aio.connect(server.target, token="token-1", retry=once) as one,
                theria.aio.connect(server.target, token="token-2", retry=once) as two,
            ):

                def flood(calls: int) -> list[asyncio.Task[theria.HvpResult]]:
                    call = lambda: one.hvp(*endless.OPERANDS, **endless.OPTIONS)  # noqa: E731
                    return [asyncio.create_task(call()) for _ in range(calls)]

                (first,) = flood(1)
                await asyncio.to_thread(await_gauge, server, "theria_running_requests", 1)
                rest = flood(31)
                for refused in itertools.islice(asyncio.as_completed(rest, timeout=60.0), 31 - 7):
                    with pytest.raises(theria.ResourceExhausted):
                        await refused
                late = asyncio.create_task(two.forward(small, small, small))
                accepted = 'theria_tenant_accepted_requests{tenant="two"}'
                await asyncio.to_thread(await_gauge, server, accepted, 1)
                first.cancel()
                np.testing.assert_allclose((await late).o, small)
                waiting = [call for call in rest if not call.done()]
                assert len(waiting) == 7
                for call in waiting:
                    call.cancel()

        asyncio.run(run())
