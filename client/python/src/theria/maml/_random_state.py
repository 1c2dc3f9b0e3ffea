"""The state of PyTorch's random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["RandomState"]


@dataclass(frozen=True)
class RandomState:
    """The state of the CPU and of each CUDA device, to repeat a step with the same draws."""

    cpu: torch.Tensor
    cuda: dict[int, torch.Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """The current state."""
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        return cls(torch.get_rng_state(), {i: torch.cuda.get_rng_state(i) for i in devices})

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restores this state temporarily."""
        with torch.random.fork_rng(devices=list(self.cuda)):
            torch.set_rng_state(self.cpu)
            for index, state in self.cuda.items():
                torch.cuda.set_rng_state(state, index)
            yield
