"""The Debian packages: what they hold, what they need, and that what they hold runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from server_process import ServerProcess

import theria

ROOT = Path(__file__).resolve().parents[3]


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def field(package: Path, name: str) -> str:
    return run("dpkg-deb", "-f", package, name).strip()


@pytest.fixture(scope="module")
def installed(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the files of all packages."""
    root = tmp_path_factory.mktemp("root")
    for package in packages.values():
        run("dpkg-deb", "-x", package, root)
    return root


def test_there_are_three(packages: dict[str, Path]) -> None:
    assert set(packages) == {"theria-server", "theria", "libtheria-dev"}
    for package in packages.values():
        assert field(package, "Version") == "0.1.0"
    for name, words in (
        ("theria-server", "The gRPC server."),
        ("theria", "The theria command."),
        ("libtheria-dev", "The C++ client."),
    ):
        synopsis, _, text = field(packages[name], "Description").partition("\n")
        assert synopsis == "Attention and its exact first and second derivatives"
        assert text.lstrip().startswith(words)


@pytest.mark.parametrize("name", ["theria-server", "theria"])
def test_what_a_package_needs_is_read_from_its_binary(packages: dict[str, Path], name: str) -> None:
    """That it is enough shows test_image.py, which installs them on a bare system."""
    needed = field(packages[name], "Depends").split(", ")
    for library in ("libc6", "libgrpc++", "libabsl", "libssl"):
        assert any(package.startswith(library) for package in needed), library


def test_the_library_needs_what_its_configuration_looks_for(packages: dict[str, Path]) -> None:
    """That it is enough shows test_library_package.py, on a bare system."""
    needed = field(packages["libtheria-dev"], "Depends").split(", ")
    assert {"libeigen3-dev", "libgrpc++-dev", "protobuf-compiler-grpc"} <= set(needed)


def test_an_operators_files_are_where_they_belong(
    packages: dict[str, Path], installed: Path
) -> None:
    control = run("dpkg-deb", "-I", packages["theria-server"], "conffiles")
    assert control.split() == ["/etc/theria/server.toml"]
    shipped = (installed / "etc/theria/server.toml").read_text()
    assert shipped == (ROOT / "deploy/server.toml").read_text()
    for file in (
        "usr/lib/systemd/system/theria-server.service",
        "usr/share/doc/theria-server/operations.md",
        "usr/share/doc/theria-server/deployment.md",
        "usr/share/doc/theria-server/gpu.conf",
        "usr/share/doc/theria-server/deploy/prometheus/prometheus.yml",
        "usr/share/doc/theria-server/deploy/prometheus/rules/alerts.yml",
        "usr/share/doc/theria-server/deploy/grafana/dashboards/service.json",
        "usr/share/doc/theria-server/copyright",
    ):
        assert (installed / file).is_file(), file


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_a_maintainer_script_does_nothing_without_systemd(
    packages: dict[str, Path], tmp_path: Path, script: str
) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("this system runs systemd")
    path = tmp_path / script
    path.write_text(run("dpkg-deb", "-I", packages["theria-server"], script))
    run("sh", "-e", path, "configure", "")
    run("sh", "-e", path, "remove")


def test_the_packaged_server_and_command_run(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THERIA_SERVER", str(installed / "usr/bin/theria-server"))
    configuration = tmp_path / "server.toml"
    text = (installed / "etc/theria/server.toml").read_text()
    configuration.write_text(text.replace("/run/theria", str(tmp_path)))
    process = ServerProcess(tmp_path / "server", f"--config={configuration}")
    try:
        q = np.ones((1, 1, 2, 4))
        with theria.connect(process.target) as client:
            np.testing.assert_allclose(client.forward(q, q, q).o, q)
        assert "cpu" in run(installed / "usr/bin/theria", "info", process.target)
        assert process.log().startswith('{"time"')
        assert process.stop() == 0
    finally:
        process.kill()


def test_install_stays_within_its_prefix(build: Path, tmp_path: Path) -> None:
    run("cmake", "--install", build, "--prefix", tmp_path, "--component", "server")
    run("cmake", "--install", build, "--prefix", tmp_path, "--component", "command")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"bin/theria-server", "bin/theria"}
    run(tmp_path / "bin/theria-server", "--version")


@pytest.fixture(scope="module")
def systemd_root(installed: Path) -> Path:
    """`installed` with the system's own units, which ours order themselves after."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze not found; scripts/install_packages.sh --deploy")
    units = Path(os.path.realpath("/lib/systemd/system"))
    shutil.copytree(units, installed / "usr/lib/systemd/system", symlinks=True, dirs_exist_ok=True)
    return installed


def test_systemd_accepts_the_unit(systemd_root: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", f"--root={systemd_root}", "verify", "theria-server.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "theria" in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize(("drop_in", "most"), [(False, 15), (True, 40)])
def test_the_unit_is_hardened(systemd_root: Path, tmp_path: Path, drop_in: bool, most: int) -> None:
    """`most`: tenths of systemd's exposure level, of which an unhardened service has 96."""
    unit = systemd_root / "usr/lib/systemd/system/theria-server.service"
    folder = tmp_path / "etc/systemd/system"
    folder.mkdir(parents=True)
    shutil.copy(unit, folder)
    if drop_in:
        (folder / "theria-server.service.d").mkdir()
        shutil.copy(ROOT / "deploy/systemd/gpu.conf", folder / "theria-server.service.d")
    run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--root={tmp_path}",
        f"--threshold={most}",
        "theria-server.service",
    )
