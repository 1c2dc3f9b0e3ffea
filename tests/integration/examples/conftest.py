"""A real server for the experiments, which are imported from the examples' folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "tests/integration/python"), str(ROOT / "client/python/examples")]

from server_process import ServerProcess  # noqa: E402


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that must come through all experiments and drain."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        yield process.target
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()
