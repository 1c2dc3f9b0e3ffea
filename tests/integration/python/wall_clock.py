"""The fixture `wall_clock`: servers whose date a test sets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


class WallClock:
    """Files go to `directory`. Time that passes, as the monotonic clock tells it, is as ever."""

    def __init__(self, directory: Path) -> None:
        library = directory / "wall_clock.so"
        source = Path(__file__).resolve().with_name("wall_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        self._offset = directory / "wall_clock_offset"
        self.jump(0)
        # Of the servers whose clock it is.
        self.environment = {
            "LD_PRELOAD": str(library),
            "WALL_CLOCK_OFFSET_FILE": str(self._offset),
        }

    def jump(self, seconds: int) -> None:
        """Sets the clock so far ahead of the true time."""
        partial = self._offset.with_suffix(".partial")
        partial.write_text(str(seconds))
        os.replace(partial, self._offset)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)
