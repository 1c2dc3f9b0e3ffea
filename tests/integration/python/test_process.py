"""The server as a process: how it starts, what it says when it cannot, and its signals."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from observe import await_that
from server_process import ServerProcess, flags_of_all, server_binary

import theria


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """A server that is to end by itself."""
    return subprocess.run(
        [str(server_binary()), *flags_of_all(), "--listen=127.0.0.1:0", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_sighup_leaves_a_line_and_the_server(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server()
    with theria.connect(server.target) as client:
        server.process.send_signal(signal.SIGHUP)
        await_that(lambda: "SIGHUP" in server.log())
        assert server.is_running()
        assert client.health() == "serving"
    assert server.stop() == 0
    assert "drained=true" in server.log()


@pytest.mark.parametrize(
    ("text", "named"),
    [("tls_cert = 'server.pem'\n", "'tls_cert'"), ("[security]\ntls-cert = 'a'\n", "'security'")],
)
def test_a_configuration_with_a_typo_does_not_serve(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    ended = run("--metrics-listen=none", f"--config={file}")
    assert ended.returncode == 2
    assert named in ended.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "which cannot be read: No such file or directory"),
        ("{\n]", "no JSON: parse error at line 2, column 1"),
        ('{"tenants": {"a": {"certificates": ["b"]}, "a": {}}}', "tenants.a stands there twice"),
    ],
)
def test_a_tenants_file_that_cannot_be_is_refused_by_its_flag(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "tenants.json"
    if content is not None:
        file.write_text(content)
    ended = run("--metrics-listen=none", f"--tenants={file}")
    assert ended.returncode == 2
    assert f"--tenants is '{file}', which" in ended.stderr
    assert reason in ended.stderr


def test_a_port_file_that_cannot_be_written_is_told_before_listening(tmp_path: Path) -> None:
    ended = run("--metrics-listen=none", f"--port-file={tmp_path / 'nowhere' / 'ports'}")
    assert ended.returncode == 1
    assert "--port-file is" in ended.stderr
    assert "No such file or directory" in ended.stderr
    assert "listening" not in ended.stderr


def test_a_taken_port_of_the_metrics_is_told(start_server: Callable[..., ServerProcess]) -> None:
    taken = start_server().metrics_target
    ended = run(f"--metrics-listen={taken}")
    assert ended.returncode == 1
    assert f"--metrics-listen is {taken}" in ended.stderr
    assert "Address already in use" in ended.stderr


@pytest.mark.parametrize("flag", ["--listen", "--shared-memory"])
def test_a_missing_folder_of_a_socket_is_told(tmp_path: Path, flag: str) -> None:
    folder = tmp_path / "nowhere"
    scheme = "unix:" if flag == "--listen" else ""
    ended = run("--metrics-listen=none", f"{flag}={scheme}{folder}/socket")
    assert ended.returncode == 1
    assert f"unix:{folder}/socket: the folder {folder} does not exist" in ended.stderr


def test_a_taken_port_is_told(start_server: Callable[..., ServerProcess]) -> None:
    taken = start_server().target
    ended = run(f"--listen={taken}", "--metrics-listen=none")
    assert ended.returncode == 1
    assert f"cannot listen on {taken}: Address already in use" in ended.stderr


def test_an_address_of_another_host_is_told() -> None:
    ended = run("--listen=192.0.2.1:0", "--metrics-listen=none")
    assert ended.returncode == 1
    assert "cannot listen on 192.0.2.1:0: Cannot assign requested address" in ended.stderr
