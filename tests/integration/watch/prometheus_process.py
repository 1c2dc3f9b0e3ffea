"""Debian's Prometheus on a free port, with the configuration of deploy/prometheus."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

DEPLOYED = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PrometheusProcess:
    """Ready when the constructor returns. Only targets and intervals differ from deploy/."""

    interval_seconds = 1

    def __init__(self, binary: str, directory: Path, targets: Sequence[str]) -> None:
        shutil.copytree(DEPLOYED, directory, dirs_exist_ok=True)
        self._targets = directory / "targets" / "local.yml"
        self.watch(targets)
        configuration = yaml.safe_load((directory / "prometheus.yml").read_text())
        configuration["global"] = {
            "scrape_interval": f"{self.interval_seconds}s",
            "evaluation_interval": f"{self.interval_seconds}s",
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = directory / "log"
        command = [
            binary,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{command} did not start:\n{self.log()}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def watch(self, targets: Sequence[str]) -> None:
        """From now on these metrics addresses, and no others."""
        partial = self._targets.with_suffix(".partial")
        partial.write_text(yaml.safe_dump([{"targets": [*targets]}]))
        partial.replace(self._targets)

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the HTTP API. A query that is wrong raises, with its error."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {json.load(error)['error']}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant vector."""
        result = self.get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def wait_for(self, expression: str, timeout: float = 60.0) -> None:
        """Until the expression has a series."""
        deadline = time.monotonic() + timeout
        while not self.query(expression):
            assert time.monotonic() < deadline, f"{expression} has no data"
            time.sleep(0.2)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
