"""float64, and the in-process stand-in for `theria.Client` with numpy arrays."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch

import theria

sys.path.append(str(Path(__file__).resolve().parents[1] / "torch"))

from reference_client import ReferenceClient

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)
torch.set_num_threads(1)

_OPERATIONS = {
    "forward": ("q", "k", "v"),
    "vjp": ("q", "k", "v", "o_bar"),
    "jvp": ("q", "k", "v", "q_dot", "k_dot", "v_dot"),
    "hvp": ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot"),
}


class NumpyClient:
    """`ReferenceClient`, which computes with torch tensors."""

    def __init__(self) -> None:
        self._inner = ReferenceClient()
        self.calls = self._inner.calls

    def __getattr__(self, operation: str) -> Any:
        arguments = _OPERATIONS[operation]

        def call(**options: Any) -> SimpleNamespace:
            for name, value in options.items():
                if isinstance(value, np.ndarray):
                    options[name] = torch.from_numpy(np.array(value))
            tensors = [options.pop(name, None) for name in arguments]
            result = getattr(self._inner, operation)(*tensors, **options)
            return SimpleNamespace(**{name: x.numpy() for name, x in vars(result).items()})

        return call


@pytest.fixture(scope="session")
def local() -> theria.Client:
    """The kernels in this process."""
    return theria.local("cpu")


@pytest.fixture
def client() -> NumpyClient:
    return NumpyClient()
