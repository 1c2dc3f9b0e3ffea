"""Small requests that are computed together: their answers are those of lone calls, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import endless
import numpy as np
import pytest
from observe import await_gauge, gauge
from server_process import ServerProcess

import theria

FIELDS = ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot")


def started_together(server: ServerProcess) -> tuple[float, float]:
    """How many starts there were, and how many requests they started."""
    count, total = (gauge(server, f"theria_coalesced_requests_{name}") for name in ("count", "sum"))
    return count, total


def test_coalesced_calls_get_the_bytes_of_lone_ones(
    start_server: Callable[..., ServerProcess], rng: np.random.Generator
) -> None:
    """Together: while another call holds the only slot, until all of them wait."""
    server = start_server("--compute-slots=1")
    problems = [[rng.standard_normal((1, 2, 40, 8)) for _ in range(7)] for _ in range(24)]
    options: list[dict[str, Any]] = [
        {"is_causal": True},
        {"dropout_p": 0.3, "dropout_seed": 9},
        {"attn_mask": rng.random((40, 40)) < 0.8},
    ]

    with theria.connect(server.target) as client, theria.connect(server.target) as other:

        def hvp(index: int) -> theria.HvpResult:
            q, k, v, o_bar, *tangents = problems[index]
            return client.hvp(q, k, v, o_bar, *tangents, **options[index % len(options)])

        alone = [hvp(index) for index in range(len(problems))]
        starts, requests = started_together(server)
        assert starts == requests == len(problems)
        with ThreadPoolExecutor(len(problems) + 1) as threads:
            holder = threads.submit(other.hvp, *endless.OPERANDS, **endless.OPTIONS)
            await_gauge(server, "theria_running_requests", 1)
            calls = [threads.submit(hvp, index) for index in range(len(problems))]
            await_gauge(server, "theria_queue_depth", len(problems))
            other.close()
            together = [call.result() for call in calls]
            with pytest.raises(theria.Cancelled):
                holder.result()
        starts, requests = started_together(server)
        assert requests == 2 * len(problems) + 1
        assert starts < requests - len(problems) // 2
    for lone, companion in zip(alone, together, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(lone, field), getattr(companion, field))
