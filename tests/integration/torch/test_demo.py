"""The demonstration, whole and interrupted: its report, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from observe import await_that
from server_process import server_binary

# The demonstration loads PyTorch before it starts or refuses anything.
PATIENCE_SECONDS = 240.0


def start(out: Path, theria_command: str, server: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "theria.demo", "--seeds=1", f"--out={out}"]
    command += [f"--server={server or server_binary()}", f"--cli={theria_command}"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def servers(out: Path) -> list[int]:
    """The processes whose command line names a file under `out`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"--port-file={out}" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:  # it has just ended
            continue
    return found


def wait_for_servers(out: Path, number: int) -> None:
    await_that(lambda: len(servers(out)) == number, PATIENCE_SECONDS)


def test_report(tmp_path: Path, theria_command: str) -> None:
    process = start(tmp_path, theria_command)
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    report = (tmp_path / "report.md").read_text()
    assert report.count("- held: ") == 4
    assert "FAILED" not in report
    assert " with explicit float64 attention, suite quick" in report
    for name in ("rel_diff", "training", "cost", "parity"):
        assert (tmp_path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (tmp_path / f"figures/{name}.svg").read_text()
        assert f"figures/{name}.png" in report
    rows = (tmp_path / "data/maml.tsv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 * 3
    calls = rows[0].split("\t").index("calls")
    by_mode = {row.split("\t")[3]: int(row.split("\t")[calls]) for row in rows[1:4]}
    assert by_mode == {"full": 2 + 4 + 2, "fo": 4, "fo_strict": 4}
    assert not servers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number: signal.Signals, tmp_path: Path, theria_command: str) -> None:
    process = start(tmp_path, theria_command)
    wait_for_servers(tmp_path, 1)
    time.sleep(0.5)
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number
    assert not servers(tmp_path)


def test_killed(tmp_path: Path, theria_command: str) -> None:
    process = start(tmp_path, theria_command)
    wait_for_servers(tmp_path, 1)
    process.kill()
    process.communicate()
    wait_for_servers(tmp_path, 0)


def test_missing_program(tmp_path: Path, theria_command: str) -> None:
    process = start(tmp_path, theria_command, server=tmp_path / "absent")
    _, messages = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert "No such file" in messages
    process = start(tmp_path, os.devnull)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert not servers(tmp_path)
