"""docs/operations.md, from nothing to a watched server with TLS and two tenants."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_process import free_port
from server_process import ROOT, server_binary

SECTION = "### A server with TLS and two tenants\n"
# Each ends by a signal; the manual has them in terminals of their own.
SERVERS = ("build/bin/theria-server", "prometheus")


def commands() -> list[str]:
    """The indented blocks of the section, each command with its continuations and here-document."""
    text = (ROOT / "docs/operations.md").read_text().partition(SECTION)[2].partition("\n### ")[0]
    found: list[str] = []
    here_document = False
    for line in text.splitlines():
        if not line.startswith("    "):
            continue
        if here_document or (found and found[-1].endswith("\\")):
            found[-1] += "\n" + line[4:]
        else:
            found.append(line[4:])
        here_document = "<<END" in found[-1] and line != "    END"
    return [c for c in found if not c.startswith(("theria.connect", "Client client"))]


@dataclass
class Terminal:
    """Runs commands where the manual does, with ports of their own."""

    folder: Path
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    functions: str = ""

    def type(self, command: str) -> str:
        if command.startswith("digest()"):
            self.functions += command + "\n"
        program = command.split()[0]
        if program == SERVERS[0]:
            command += (
                f" --listen localhost:{self.port} --metrics-listen 127.0.0.1:{self.metrics_port}"
            )
        for there, here in (("50051", self.port), ("9091", self.prometheus_port)):
            command = command.replace(f":{there}", f":{here}")
        shell = ["bash", "-euc", self.functions + ("exec " if program in SERVERS else "") + command]
        if program in SERVERS:
            with (self.folder / f"{Path(program).name}.log").open("w") as log:
                self.running.append(
                    subprocess.Popen(shell, cwd=self.folder, stdout=log, stderr=log, text=True)
                )
            return ""
        deadline = time.monotonic() + 240
        while True:  # who types waits for the server to be up, and for two scrapes
            done = subprocess.run(
                shell, cwd=self.folder, capture_output=True, text=True, check=False
            )
            is_answered = '"result":[]' not in done.stdout
            if done.returncode == 0 and is_answered:
                return done.stdout
            assert time.monotonic() < deadline, (command, done.stdout, done.stderr)
            time.sleep(1)


@pytest.fixture
def terminal(prometheus_binary: str, tmp_path: Path) -> Iterator[Terminal]:
    """In a tree that `make build` has built."""
    assert prometheus_binary
    (tmp_path / "build").mkdir()
    (tmp_path / "build/bin").symlink_to(server_binary().resolve().parent)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    shutil.copytree(ROOT / "deploy/prometheus", tmp_path / "deploy/prometheus")
    terminal = Terminal(tmp_path)
    targets = tmp_path / "deploy/prometheus/targets/local.yml"
    targets.write_text(targets.read_text().replace("9464", str(terminal.metrics_port)))
    yield terminal
    for process in terminal.running:
        process.kill()
        process.wait()


def test_a_newcomer_gets_there(terminal: Terminal) -> None:
    answers = {command: terminal.type(command) for command in commands()}
    assert len(answers) > 10
    server, prometheus = terminal.running
    assert (server.poll(), prometheus.poll()) == (None, None)

    (info,) = [text for command, text in answers.items() if "theria info" in command]
    assert "backend cpu" in info
    (counted,) = [text for command, text in answers.items() if command.startswith("curl")]
    tenants = {
        series["metric"]["tenant"]: float(series["value"][1])
        for series in json.loads(counted)["data"]["result"]
    }
    assert set(tenants) == {"physics", "maths"}
    assert tenants["maths"] > tenants["physics"] >= 1
