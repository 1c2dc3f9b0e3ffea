"""Tests of a server on a GPU: run with THERIA_SERVER_FLAGS=--backend=cuda, else skipped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/integration/python"))

from draining_servers import start_server  # noqa: E402, F401


@pytest.fixture
def needs_a_gpu() -> None:
    if "--backend=cuda" not in os.environ.get("THERIA_SERVER_FLAGS", ""):
        pytest.skip("needs a GPU and THERIA_SERVER_FLAGS=--backend=cuda")
