"""What a server says of itself."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

from server_process import ServerProcess


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
