"""A real server for JAX; cases and checks are those of the client's unit tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import theria

ROOT = Path(__file__).resolve().parents[3]
sys.path += [
    str(ROOT / "tests/integration/python"),
    str(ROOT / "client/python/tests/jax"),
]

from server_process import ServerProcess  # noqa: E402

jax.config.update("jax_enable_x64", True)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[theria.Client]:
    """Of a server that must come through all tests and drain."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        with theria.connect(process.target, timeout=60.0) as client:
            yield client
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()
