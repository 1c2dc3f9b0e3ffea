"""A theria-server of one's own, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import grpc

# Of glibc: one arena, and nothing above 64 KiB kept when freed.
EXACT_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

ROOT = Path(__file__).resolve().parents[3]


def server_binary() -> Path:
    """From the environment's THERIA_SERVER, or of the default build folder."""
    return Path(os.environ.get("THERIA_SERVER", ROOT / "build" / "bin" / "theria-server"))


def flags_of_all() -> list[str]:
    """Flags of every server, from the environment's THERIA_SERVER_FLAGS."""
    return os.environ.get("THERIA_SERVER_FLAGS", "").split()


class ServerProcess:
    """Started by the constructor; answers when that returns. Log and ports go to `directory`.

    With `exact_memory`, the server's allocator gives freed memory back to the system at once, so
    that its resident memory is what it holds. `credentials` are for a server with TLS. The
    environment's THERIA_SERVER_FLAGS (such as `--backend=cuda`) stand before `flags`, to run the
    same tests on another backend.
    """

    def __init__(
        self,
        directory: Path,
        *flags: str,
        listen: str = "127.0.0.1:0",
        exact_memory: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._credentials = credentials
        self._directory = directory
        self._environment = {
            **os.environ,
            **(EXACT_MEMORY if exact_memory else {}),
            **(environment or {}),
        }
        self._flags = (*flags_of_all(), *flags)
        self._listen = listen
        self._start()

    def _start(self) -> None:
        directory = self._directory
        directory.mkdir(parents=True, exist_ok=True)
        ports, metrics = directory / "ports", directory / "metrics"
        ports.unlink(missing_ok=True)
        metrics.unlink(missing_ok=True)
        command = [
            str(server_binary()),
            f"--listen={self._listen}",
            f"--port-file={ports}",
            "--metrics-listen=127.0.0.1:0",
            f"--metrics-port-file={metrics}",
            *self._flags,
        ]
        with (directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )
        deadline = time.monotonic() + 60
        while not ports.exists() or not ports.read_text().endswith("\n"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{command} did not start:\n{self.log()}")
            time.sleep(0.01)
        self.target = ports.read_text().split()[0]
        self.metrics_target = metrics.read_text().strip()
        channel = (
            grpc.insecure_channel(self.target)
            if self._credentials is None
            else grpc.secure_channel(self.target, self._credentials)
        )
        with channel:
            grpc.channel_ready_future(channel).result(timeout=60)

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        """Drains and ends the process; its exit status."""
        if self.is_running():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)  # over the server's own drain timeout
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self, *flags: str | None) -> None:
        """Kills the process and starts another at the same address.

        Args:
            flags: Of the new one, None for no flag; as before if none are given.
        """
        self.kill()
        self._listen = self.target
        if flags:
            self._flags = (*flags_of_all(), *filter(None, flags))
        self._start()
