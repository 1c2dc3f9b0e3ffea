"""Small requests that are computed together: their answers are those of lone calls, to the bit."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from server_process import ServerProcess

import theria

FIELDS = ("q_bar", "k_bar", "v_bar", "q_bar_dot", "k_bar_dot", "v_bar_dot")


def started_together(server: ServerProcess) -> tuple[float, float]:
    """How many starts there were, and how many requests they started."""
    with urllib.request.urlopen(f"http://{server.metrics_target}/metrics", timeout=10) as answer:
        text = answer.read().decode()

    def value(name: str) -> float:
        found = re.search(rf"^theria_coalesced_requests_{name} (\S+)$", text, re.MULTILINE)
        assert found
        return float(found[1])

    return value("count"), value("sum")


def test_coalesced_calls_get_the_bytes_of_lone_ones(
    start_server: Callable[..., ServerProcess], rng: np.random.Generator
) -> None:
    server = start_server("--compute-slots=1", "--coalesce-delay=20ms")
    problems = [[rng.standard_normal((1, 2, 40, 8)) for _ in range(7)] for _ in range(24)]
    options: list[dict[str, Any]] = [
        {"is_causal": True},
        {"dropout_p": 0.3, "dropout_seed": 9},
        {"attn_mask": rng.random((40, 40)) < 0.8},
    ]

    with theria.connect(server.target, timeout=60.0) as client:

        def hvp(index: int) -> theria.HvpResult:
            q, k, v, o_bar, *tangents = problems[index]
            return client.hvp(q, k, v, o_bar, *tangents, **options[index % len(options)])

        alone = [hvp(index) for index in range(len(problems))]
        starts, requests = started_together(server)
        assert starts == requests == len(problems)
        with ThreadPoolExecutor(len(problems)) as threads:
            together = list(threads.map(hvp, range(len(problems))))
        starts, requests = started_together(server)
        assert requests == 2 * len(problems)
        assert starts < requests
    for lone, companion in zip(alone, together, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(lone, field), getattr(companion, field))
