"""What a server says of itself, and waiting until it says so."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

from server_process import ServerProcess

# For what takes a moment: a machine ten times slower than ours, and busy, still has its time.
PATIENCE_SECONDS = 60.0


def metrics(server: ServerProcess) -> str:
    """All metrics, in Prometheus's text format."""
    url = f"http://{server.metrics_target}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        text: str = answer.read().decode()
        return text


def gauge(server: ServerProcess, name: str) -> float:
    """The value of a metric, which may be one of several by its labels: `name{tenant="one"}`."""
    text = metrics(server)
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not among the metrics:\n{text}"
    return float(found[1])


def computations(server: ServerProcess, operation: str) -> int:
    """How many calls of an operation ("hvp") were computed to their end."""
    counts = re.findall(
        rf'^theria_compute_seconds_count{{.*op="{operation}".*}} (\S+)$',
        metrics(server),
        re.MULTILINE,
    )
    return sum(int(count) for count in counts)


def await_that(
    condition: Callable[[], bool],
    seconds: float = PATIENCE_SECONDS,
    *,
    otherwise: Callable[[], object] = lambda: "it did not come to hold",
) -> None:
    """Waits until it holds; if it does not within so many seconds, fails with what is otherwise."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)


def await_gauge(server: ServerProcess, name: str, value: float) -> None:
    """Waits until a metric has the value."""
    await_that(
        lambda: gauge(server, name) == value,
        otherwise=lambda: f"{name} is {gauge(server, name)}, not {value}",
    )


def await_idle(server: ServerProcess) -> None:
    """Waits until no request is accepted and no tensor half written."""
    for name in ("theria_accepted_bytes", "theria_running_requests", "theria_queue_depth"):
        await_gauge(server, name, 0)
    await_gauge(server, "theria_store_pending_bytes", 0)
