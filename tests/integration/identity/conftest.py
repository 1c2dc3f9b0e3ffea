"""Servers with TLS and tenants, and what their clients need."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from authority import Authority
from draining_servers import start_server  # noqa: F401
from server_process import ROOT, ServerProcess
from tenants_file import TenantsFile, digest
from wall_clock import wall_clock  # noqa: F401

import theria


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One that the server does not trust, nor the clients."""
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture
def tenants(tmp_path: Path) -> TenantsFile:
    """Two tenants: "one" with the token "token-1", "two" with "token-2"."""
    file = TenantsFile(tmp_path / "tenants.json")
    file.write(
        one={"tokens": [{"sha256": digest("token-1")}]},
        two={"tokens": [{"sha256": digest("token-2")}]},
    )
    return file


@pytest.fixture
def shared_server(
    start_server: Callable[..., ServerProcess],  # noqa: F811
    tenants: TenantsFile,
) -> ServerProcess:
    """A server in plain text with the two tenants."""
    return start_server(f"--tenants={tenants.path}")


@pytest.fixture
def theria_command() -> str:
    return os.environ.get("THERIA_CLI", str(ROOT / "build/bin/theria"))


@pytest.fixture
def tensor() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((1, 2, 8, 4), dtype=np.float32)


@pytest.fixture
def connect() -> Iterator[Callable[..., theria.Client]]:
    """As theria.connect, without retries unless asked for, closed at the end."""
    clients: list[theria.Client] = []

    def open_client(target: str, **options: Any) -> theria.Client:
        options.setdefault("timeout", 30.0)
        options.setdefault("retry", theria.RetryPolicy(max_attempts=1))
        clients.append(theria.connect(target, **options))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()
