"""The images: built as the Dockerfile says, on a Debian made here, and run as they are meant to."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buildah import Container, buildah

import theria

pytestmark = pytest.mark.deploy


# The most that an image may add to its base.
MOST_BYTES = {"cpu": 100e6, "cuda": 150e6}


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def target(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(scope="module")
def image(target: str, request: pytest.FixtureRequest) -> str:
    name = request.getfixturevalue(f"{target}_image")
    assert isinstance(name, str)
    return name


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    container = Container.of(image)
    yield container
    container.remove()


def descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from descendants(child)


def server_of(process: subprocess.Popen[bytes]) -> int:
    """The server among the processes that run the container."""
    (pid,) = [
        pid
        for pid in descendants(process.pid)
        if Path(f"/proc/{pid}/comm").read_text() == "theria-server\n"
    ]
    return pid


def test_it_holds_the_server_and_no_compiler(container: Container) -> None:
    root = container.root()
    assert not [
        tool
        for tool in ("cc", "g++", "cmake", "git", "pip", "nvcc")
        if shutil.which(tool, path=f"{root}/usr/bin")
    ]
    assert not (root / "usr/local/cuda").exists()
    assert not (root / "src").exists()
    installed = container.run("dpkg-query", "-W", "-f=${Package}\\n").stdout.split()
    assert {"theria", "theria-server"} <= set(installed)
    assert not [name for name in installed if name.endswith("-dev")]


def test_it_is_small(target: str, image: str, base: str) -> None:
    units = {"KB": 1e3, "MB": 1e6, "GB": 1e9}

    def size(name: str) -> float:
        (listed,) = json.loads(buildah("images", "--json", name).stdout)
        number, unit = listed["size"].split()
        return float(number) * units[unit]

    assert 1e6 < size(image) - size(base) < MOST_BYTES[target]


def test_its_configuration(container: Container) -> None:
    configuration = container.configuration
    assert configuration["User"] == "10001:10001"
    assert set(configuration["ExposedPorts"]) == {"50051/tcp", "9464/tcp"}
    assert configuration["StopSignal"] == "SIGTERM"
    assert configuration["Healthcheck"]["Interval"] > 0


def test_every_library_that_it_needs_is_there(container: Container) -> None:
    for program in ("theria-server", "theria"):
        linked = container.run("ldd", f"/usr/bin/{program}")
        assert linked.returncode == 0, linked.stderr
        assert "libgrpc++" in linked.stdout
        assert "not found" not in linked.stdout
        # The driver and cuBLAS are looked for when a GPU is used.
        assert not re.search("lib(cuda|cublas|nv)", linked.stdout), linked.stdout


def test_it_serves_as_nobody_in_particular_and_drains(container: Container, tmp_path: Path) -> None:
    ports = container.root() / "run/theria/ports"
    log = tmp_path / "log"
    assert not container.is_healthy()
    process = container.start(
        log,
        "--backend=cpu",
        "--listen=127.0.0.1:0,unix:/run/theria/server.sock",
        "--port-file=/run/theria/ports",
        "--metrics-listen=127.0.0.1:0",
    )
    try:
        deadline = time.monotonic() + 60
        while not ports.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        target, _ = ports.read_text().split()
        assert container.is_healthy()

        status = Path(f"/proc/{server_of(process)}/status").read_text()
        assert "Uid:\t10001\t10001\t10001\t10001\n" in status

        q = np.random.default_rng(0).standard_normal((1, 2, 5, 4))
        k, v = np.zeros_like(q), np.random.default_rng(1).standard_normal(q.shape)
        with theria.connect(target) as client:
            # Keys that are all alike weigh all values alike.
            mean = np.broadcast_to(v.mean(axis=2, keepdims=True), v.shape)
            np.testing.assert_allclose(client.forward(q, k, v).o, mean, rtol=1e-12)

        socket = "unix:/run/theria/server.sock"
        info = container.run("theria", "info", socket)
        assert info.returncode == 0 and "cpu" in info.stdout, info.stdout + info.stderr
        parity = container.run("theria", "parity", socket)
        assert parity.returncode == 0, parity.stdout + parity.stderr

        os.kill(server_of(process), signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
        assert '"drained":"true"' in log.read_text()
        assert not container.is_healthy()
    finally:
        process.kill()
        process.wait()
