"""Fixtures of the tensor store's tests: servers of their own and a bare client."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from server_process import ServerProcess
from wire_store import WireStore


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a store of 256 MiB. Must come through all tests of the module and drain."""
    process = ServerProcess(tmp_path_factory.mktemp("server"), "--cache-bytes=268435456")
    try:
        yield process
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()


@pytest.fixture
def server_target(server: ServerProcess) -> str:
    return server.target


@pytest.fixture
def store(server: ServerProcess) -> Iterator[WireStore]:
    """A client of `server`, whose store is empty before the test and after it."""
    with WireStore(server.target) as store:
        assert store.used_bytes() == 0
        yield store
        for info in store.list_all():
            store.call("Delete", handle=info.handle)
        store.wait_until_used(0)


@pytest.fixture
def connect_to_new_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., WireStore]]:
    """Starts servers with flags of their own; they must drain at the end."""
    started: list[tuple[ServerProcess, WireStore]] = []

    def start(*flags: str) -> WireStore:
        process = ServerProcess(tmp_path_factory.mktemp("server"), *flags)
        started.append((process, WireStore(process.target)))
        return started[-1][1]

    try:
        yield start
        for process, store in started:
            store.close()
            assert process.stop() == 0, process.log()[-4000:]
    finally:
        for process, _ in started:
            process.kill()
