"""Files that are read again: what cannot be one is refused, and the last good one stays in use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from authority import Authority
from observe import await_that, gauge
from server_process import ServerProcess
from tenants_file import TenantsFile, digest

import theria

Connect = Callable[..., theria.Client]

MEMORY_BYTES = 64 << 20  # that reading may take, the file's own 4 MiB many times over


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 << 20)


def overflow(path: Path) -> None:
    path.write_text('{"tenants": {"one": {"certificates": ["a"], "weight": 1e400}}}')


def nested(path: Path) -> None:
    path.write_text('{"tenants": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "not a regular file"),
    "zero": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "large": (large, "more than 4194304 bytes"),
    "overflow": (overflow, "number overflow parsing '1e400'"),
    "nested": (nested, "nested more than 8 deep"),
}


def replace(path: Path, make: Callable[[Path], object]) -> None:
    partial = path.with_suffix(".spoiled")
    make(partial)
    os.replace(partial, path)


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_tenants_file_leaves_the_last_good_one(
    shared_server: ServerProcess, tenants: TenantsFile, connect: Connect, kind: str
) -> None:
    make, reason = SPOILED[kind]
    before = shared_server.resident_bytes()
    replace(tenants.path, make)
    await_that(lambda: "tenants refused" in shared_server.log(), seconds=20)
    assert reason in shared_server.log()
    assert gauge(shared_server, 'theria_refused_files_total{file="tenants"}') == 1
    assert shared_server.resident_bytes() < before + MEMORY_BYTES
    assert connect(shared_server.target, token="token-1").info() is not None
    tenants.path.unlink()
    tenants.write(one={"tokens": [{"sha256": digest("token-3")}]})
    await_that(lambda: "tenants read" in shared_server.log(), seconds=20)
    assert connect(shared_server.target, token="token-3").info() is not None
    stopped_at = time.monotonic()
    assert shared_server.stop() == 0
    assert time.monotonic() - stopped_at < 20


@pytest.mark.parametrize("kind", ["pipe", "zero", "large"])
def test_a_spoiled_certificate_leaves_the_last_good_one(
    start_server: Callable[..., ServerProcess], authority: Authority, tmp_path: Path, kind: str
) -> None:
    issued, key = authority.issue("server")
    certificate = tmp_path / "served.pem"
    certificate.write_bytes(issued.read_bytes())
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    server = start_server(f"--tls-cert={certificate}", f"--tls-key={key}", credentials=credentials)
    make, reason = SPOILED[kind]
    replace(certificate, make)
    await_that(lambda: "certificates refused" in server.log(), seconds=20)
    assert reason in server.log()
    assert gauge(server, 'theria_refused_files_total{file="certificates"}') == 1
    with grpc.secure_channel(server.target, credentials) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
