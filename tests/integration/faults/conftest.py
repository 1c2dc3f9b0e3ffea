"""Servers that faults are done to."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from draining_servers import start_server  # noqa: F401
from wall_clock import wall_clock  # noqa: F401


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)
