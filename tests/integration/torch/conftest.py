"""Real clients for PyTorch; cases and checks are those of the client's unit tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import theria

ROOT = Path(__file__).resolve().parents[3]
sys.path += [
    str(ROOT / "tests/integration/python"),
    str(ROOT / "client/python/tests/torch"),
]

from server_process import ServerProcess  # noqa: E402

torch.set_num_threads(1)  # the server computes; tiny tensors here gain nothing from threads


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that must come through all tests and drain."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        yield process.target
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()


@pytest.fixture(scope="session", params=["server", "local"])
def client(request: pytest.FixtureRequest) -> Iterator[theria.Client]:
    """Of that server, then one that computes in this process."""
    if request.param == "local":
        yield theria.local("cpu")
        return
    with theria.connect(request.getfixturevalue("target"), timeout=60.0) as client:
        yield client


@pytest.fixture(scope="session")
def theria_command() -> str:
    """The path of the `theria` command."""
    return os.environ.get("THERIA_CLI", str(ROOT / "build/bin/theria"))
