"""Servers that faults are done to."""

from __future__ import annotations

import re
import sys
import time
import urllib.request
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


def gauge(server: ServerProcess, name: str) -> float:
    """The value of a metric without labels."""
    with urllib.request.urlopen(f"http://{server.metrics_target}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not among the metrics"
    return float(found[1])


def await_that(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until it holds; fails if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.05)


def await_idle(server: ServerProcess) -> None:
    """Waits until no request is accepted and no tensor half written."""
    for name in ("theria_accepted_bytes", "theria_running_requests", "theria_queue_depth"):
        await_that(lambda name=name: gauge(server, name) == 0)
    await_that(lambda: gauge(server, "theria_store_pending_bytes") == 0)
