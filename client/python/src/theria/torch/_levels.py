"""One level of functorch, or autograd itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled

__all__ = ["Level", "below_autograd"]


@contextmanager
def below_autograd() -> Iterator[None]:
    """Calls go to the next level of functorch, which differentiates by itself, or to the kernel."""
    with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), _set_fwd_grad_enabled(True):
        yield


class Level(torch.autograd.function._SingleLevelFunction):
    """A function at one level of functorch; `Function` would pass through all of them at once."""

    @classmethod
    def of(cls, *arguments: Any) -> Any:
        """Applies it."""
        with enable_single_level_autograd_function():
            return cls.apply(*arguments)  # type: ignore[attr-defined]  # of the C++ base
