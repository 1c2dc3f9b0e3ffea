"""libtheria-dev on a bare Debian: what it depends on is enough to build a program with it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from buildah import Container

ROOT = Path(__file__).resolve().parents[3]
PROJECT = ROOT / "tests/integration/consumer/project"

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def package(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one package of that build, for which the server need not be there."""
    folder = tmp_path_factory.mktemp("package")
    components = ("-D", "CPACK_COMPONENTS_ALL=client;client_system")
    done = subprocess.run(
        ["cpack", "-G", "DEB", "-B", str(folder), *components],
        cwd=build,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (package,) = folder.glob("libtheria-dev_*.deb")
    return package


@pytest.fixture(scope="module")
def container(base: str, package: Path) -> Iterator[Container]:
    """With the package, what it depends on, a compiler and CMake; nothing else."""
    container = Container.of(base)
    container.copy(package, "/libtheria-dev.deb")
    container.copy(PROJECT, "/project")
    install = "apt-get install -y --no-install-recommends /libtheria-dev.deb cmake g++ make"
    done = container.run("sh", "-c", f"apt-get update && DEBIAN_FRONTEND=noninteractive {install}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    yield container
    container.remove()


def test_a_program_is_configured_and_built(container: Container) -> None:
    configured = container.run("cmake", "-S", "/project", "-B", "/build")
    assert configured.returncode == 0, configured.stdout + configured.stderr
    built = container.run("cmake", "--build", "/build")
    assert built.returncode == 0, built.stdout[-8000:] + built.stderr[-8000:]
    ran = container.run("/build/maml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert container.run("/build/consumer").returncode == 2  # it wants a target
