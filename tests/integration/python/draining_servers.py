"""The fixture `start_server` of tests whose servers must drain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers with flags and options of their own, which must drain at the end."""
    started: list[ServerProcess] = []

    def start(*flags: str, **options: Any) -> ServerProcess:
        directory = tmp_path / f"server{len(started)}"
        started.append(ServerProcess(directory, *flags, **options))
        return started[-1]

    yield start
    try:
        for process in started:
            assert process.stop() == 0, process.log()[-4000:]
    finally:
        for process in started:
            process.kill()
