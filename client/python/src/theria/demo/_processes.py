"""Child processes that never outlive this one.

Each child leads its own process group, which is terminated when its `with` block ends. If this
process is killed, the kernel terminates the child.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["ProcessError", "run_command", "start_server"]

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class ProcessError(Exception):
    """A program is missing, did not start, or failed."""


@contextmanager
def start_server(program: Path, log: Path) -> Iterator[str]:
    """Runs a CPU server on a free port, yields its address when it listens, and drains it.

    Raises:
        ProcessError: It did not listen within `START_SECONDS`; the message ends with its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    port_file = log.with_suffix(".port")
    port_file.unlink(missing_ok=True)
    command = [str(program), "--backend=cpu", "--listen=127.0.0.1:0", f"--port-file={port_file}"]
    command += ["--metrics-listen=127.0.0.1:0"]
    with log.open("w") as output, _child(command, output, subprocess.STDOUT) as process:
        deadline = time.monotonic() + START_SECONDS
        while not (port_file.exists() and port_file.read_text().endswith("\n")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"{program} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.01)
        try:
            yield port_file.read_text().split()[0]
        finally:
            port_file.unlink(missing_ok=True)


def run_command(command: Sequence[str], good: Sequence[int] = (0,)) -> str:
    """The output of a command. Its messages and progress bar go to this process's standard error.

    Raises:
        ProcessError: It could not be started, or its exit status is not in `good`.
    """
    with _child(command, subprocess.PIPE, None) as process:
        output, _ = process.communicate()
    if process.returncode not in good:
        raise ProcessError(f"{' '.join(command)}: exit status {process.returncode}\n{output}")
    return output


@contextmanager
def _child(
    command: Sequence[str], stdout: IO[str] | int, stderr: int | None
) -> Iterator[subprocess.Popen[str]]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    except OSError as error:
        raise ProcessError(f"{command[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


_libc = ctypes.CDLL(None)  # loaded before any fork


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
