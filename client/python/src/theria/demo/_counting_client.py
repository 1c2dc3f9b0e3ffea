"""A client that counts its calls to the server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import theria

__all__ = ["Cost", "CountingClient"]


@dataclass
class Cost:
    """The number of calls, their seconds in this process, and their seconds of computation."""

    calls: int = 0
    seconds: float = 0.0
    compute_seconds: float = 0.0


class CountingClient:
    """Counts the four operations of a `theria.Client`. Not thread-safe."""

    def __init__(self, client: theria.Client):
        self._client = client
        self._cost = Cost()

    def take_cost(self) -> Cost:
        """The cost since the last call of this method."""
        cost, self._cost = self._cost, Cost()
        return cost

    def forward(self, *tensors: Any, **options: Any) -> Any:
        """See `theria.Client.forward`."""
        return self._count(self._client.forward, tensors, options)

    def vjp(self, *tensors: Any, **options: Any) -> Any:
        """See `theria.Client.vjp`."""
        return self._count(self._client.vjp, tensors, options)

    def jvp(self, *tensors: Any, **options: Any) -> Any:
        """See `theria.Client.jvp`."""
        return self._count(self._client.jvp, tensors, options)

    def hvp(self, *tensors: Any, **options: Any) -> Any:
        """See `theria.Client.hvp`."""
        return self._count(self._client.hvp, tensors, options)

    def _count(self, call: Any, tensors: tuple[Any, ...], options: dict[str, Any]) -> Any:
        began = time.perf_counter()
        result = call(*tensors, **options)
        self._cost.seconds += time.perf_counter() - began
        self._cost.compute_seconds += result.execution.compute_seconds
        self._cost.calls += 1
        return result
