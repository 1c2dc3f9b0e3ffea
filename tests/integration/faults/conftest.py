"""Servers that faults are done to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from server_process import ServerProcess


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers with flags of their own, which must drain at the end."""
    started: list[ServerProcess] = []

    def start(*flags: str, environment: dict[str, str] | None = None) -> ServerProcess:
        directory = tmp_path / f"server{len(started)}"
        started.append(ServerProcess(directory, *flags, environment=environment))
        return started[-1]

    yield start
    try:
        for process in started:
            assert process.stop() == 0, process.log()[-4000:]
    finally:
        for process in started:
            process.kill()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)
