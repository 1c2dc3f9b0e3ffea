"""The state of PyTorch's random generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

__all__ = ["RandomState"]


@dataclass(frozen=True)
class RandomState:
    """Of the CPU and of each CUDA device, so that a step can be run again with the same draws."""

    cpu: torch.Tensor
    cuda: dict[int, torch.Tensor]

    @classmethod
    def now(cls) -> RandomState:
        """The present state."""
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        return cls(torch.get_rng_state(), {i: torch.cuda.get_rng_state(i) for i in devices})

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Goes back to this state for a while; afterwards all is as it was before."""
        with torch.random.fork_rng(devices=list(self.cuda)):
            torch.set_rng_state(self.cpu)
            for index, state in self.cuda.items():
                torch.cuda.set_rng_state(state, index)
            yield
