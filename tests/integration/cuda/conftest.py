"""Tests of a server on a GPU: run with THERIA_SERVER_FLAGS=--backend=cuda, else skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/integration/python"))

from server_process import ServerProcess  # noqa: E402


@pytest.fixture
def needs_a_gpu() -> None:
    if "--backend=cuda" not in os.environ.get("THERIA_SERVER_FLAGS", ""):
        pytest.skip("needs a GPU and THERIA_SERVER_FLAGS=--backend=cuda")


@pytest.fixture
def start_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers with flags of their own; they must drain at the end."""
    started: list[ServerProcess] = []

    def start(*flags: str) -> ServerProcess:
        started.append(ServerProcess(tmp_path_factory.mktemp("server"), *flags))
        return started[-1]

    yield start
    try:
        for process in started:
            assert process.stop() == 0, process.log()[-4000:]
    finally:
        for process in started:
            process.kill()
