from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from server_process import ServerProcess

import theria


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One for all tests that leave it as it was. Must come through all of them and drain."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        yield process
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[theria.Client]:
    with theria.connect(server.target, timeout=60.0) as client:
        yield client


@pytest.fixture
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers with flags of their own; they are killed at the end."""
    started: list[ServerProcess] = []

    def start(*flags: str, listen: str = "127.0.0.1:0") -> ServerProcess:
        directory = tmp_path_factory.mktemp("server")
        started.append(ServerProcess(directory, *flags, listen=listen))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(31)
