"""Everything that a dashboard shows.

Each operation, good and bad calls, a store that evicts, misses and expires, and benchmarks.
"""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np

import theria

PAUSE_SECONDS = 0.4


def put_load_on(target: str, token: str, is_over: threading.Event) -> None:
    """Goes on for as long as anyone watches: rates and their ratios need counters that grow."""
    rng = np.random.default_rng(5)
    with theria.connect(target, timeout=60.0, token=token) as client:
        client.put(np.ones(8), pin=600.0)
        while not is_over.wait(PAUSE_SECONDS):
            _one_round(client, rng)


def _one_round(client: theria.Client, rng: np.random.Generator) -> None:
    q, k, v, x = (rng.standard_normal((1, 2, 16, 8)) for _ in range(4))
    client.forward(q, k, v)
    client.vjp(q, k, v, x)
    client.jvp(q, k, v, q, k, v)
    client.hvp(q, k, v, x, q, k, v)
    for operation in ("forward", "vjp", "jvp", "hvp"):
        client.benchmark(operation, batch=1, heads_q=2, seq_q=16, head_dim=8, repetitions=2)

    with contextlib.suppress(theria.InvalidArgument):
        client.forward(q, k, v, scale=float("nan"))
    with contextlib.suppress(theria.DeadlineExceeded):
        client.forward(q, k, v, timeout=1e-4)
    with contextlib.suppress(theria.ResourceExhausted):  # 3 MiB of 4 are pinned
        pinned = client.put(np.ones(3 << 17), pin=60.0)
        try:
            client.put(np.ones(3 << 17))
        finally:
            client.delete(pinned)

    kept = client.put(rng.standard_normal(1 << 16))  # half a MiB: the ninth pushes out the first
    client.get(kept)
    brief = client.put(np.ones(8), ttl=0.01, retain="none")
    client.delete(client.put(np.ones(8)))
    time.sleep(0.02)
    with contextlib.suppress(theria.TensorMissing):
        client.get(brief)
