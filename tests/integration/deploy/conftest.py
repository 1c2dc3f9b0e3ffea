"""What the tests of deploy/ share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from buildah import build_image, make_base, make_cuda_base

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/integration/python"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deploy: takes minutes and the network; `make deploy-test`")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "THERIA_DEPLOY_TEST" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("deploy"):
            item.add_marker(pytest.mark.skip(reason="heavy; `make deploy-test` runs it"))


@pytest.fixture(scope="session")
def build() -> Path:
    """The CMake build folder that the server under test comes from."""
    server = Path(os.environ.get("THERIA_SERVER", ROOT / "build/bin/theria-server"))
    return server.resolve().parents[1]


@pytest.fixture(scope="session")
def packages(build: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Debian packages of that build, by name."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb not found: not a Debian system")
    folder = tmp_path_factory.mktemp("packages")
    done = subprocess.run(
        ["cpack", "-G", "DEB", "-B", str(folder)],
        cwd=build,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name.partition("_")[0]: path for path in folder.glob("*.deb")}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    for tool in ("buildah", "debootstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} not found; scripts/install_packages.sh --deploy")
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def cpu_image(base: str) -> str:
    return build_image("cpu", f"--build-arg=CPU_BASE={base}")


@pytest.fixture(scope="session")
def cuda_image(base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """For one kind of GPU, to save time, and on a base without any of CUDA's libraries."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc not found: no CUDA image")
    toolkit = Path(nvcc).resolve().parents[1]
    if not (toolkit / "nvvm").is_dir():
        pytest.skip(f"{nvcc} is not of a CUDA toolkit in a folder of its own: no CUDA image")
    build_base = make_cuda_base(base, toolkit, tmp_path_factory.mktemp("cuda-base"))
    return build_image(
        "cuda",
        f"--build-arg=CUDA_BUILD_BASE={build_base}",
        f"--build-arg=CUDA_BASE={base}",
        "--build-arg=THERIA_CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES=90",
    )
