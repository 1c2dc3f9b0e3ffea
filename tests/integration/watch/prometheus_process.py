"""Debian's Prometheus on a free port, with the configuration of deploy/prometheus."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from observe import await_that

DEPLOYED = Path(__file__).resolve().parents[3] / "deploy" / "prometheus"
# Below those that the system gives away by itself: what is free stays so until a program binds it.
_PORTS = iter(random.sample(range(10_000, 30_000), 1000))


def free_port() -> int:
    """For programs that cannot choose one and tell which; another at each call."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free")


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
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=60):
                return True
        except OSError:
            return False

    def watch(self, targets: Sequence[str]) -> None:
        """From now on these metrics addresses, and no others."""
        partial = self._targets.with_suffix(".partial")
        # Labels as in Kubernetes, where the targets come from a ServiceMonitor.
        group = {"targets": [*targets], "labels": {"namespace": "theria", "pod": "theria-0"}}
        partial.write_text(yaml.safe_dump([group]))
        partial.replace(self._targets)

    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the HTTP API. A query that is wrong raises, with its error."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {json.load(error)['error']}") from error

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant vector."""
        result = self.get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def wait_for(self, expression: str, holds: Callable[[list[float]], bool] = bool) -> None:
        """Until `holds` is true of the values of the expression's series; by default: are there."""

        def values() -> list[float]:
            return [value for _, value in self.query(expression)]

        await_that(lambda: holds(values()), otherwise=lambda: f"{expression} is {values()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
