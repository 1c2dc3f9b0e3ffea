from __future__ import annotations

import numpy as np
import pytest
from fake_server import FakeServer

from theria import Client
from theria._remote_client import RemoteClient


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def client(server: FakeServer) -> Client:
    return RemoteClient(server)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between retries, which are recorded instead of waited."""
    recorded: list[float] = []
    monkeypatch.setattr("theria._remote_client.time.sleep", recorded.append)
    return recorded
