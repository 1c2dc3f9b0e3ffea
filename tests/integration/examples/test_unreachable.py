"""Programs whose server is not there: one line that says so, and an exit status."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "client/python/examples"


@pytest.fixture
def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("program", "name", "status"),
    [
        ([str(EXAMPLES / "maml_backends.py")], "maml_backends.py", 3),
        (["-m", "theria.safety"], "theria.safety", 2),
    ],
)
def test_a_server_that_is_not_there(
    nobody: str, tmp_path: Path, program: list[str], name: str, status: int
) -> None:
    ended = subprocess.run(
        [sys.executable, *program, f"--target={nobody}", f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    lines = ended.stderr.splitlines()
    assert lines[-1].startswith(f"{name}: no server listens at {nobody}")
    assert "Traceback" not in ended.stderr
