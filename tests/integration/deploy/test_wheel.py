"""The Python wheel: built, installed into a fresh environment, imported, used against a server."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from server_process import ServerProcess

PROJECT = Path(__file__).resolve().parents[3] / "client" / "python"

USE = """
import sys
import numpy as np
import theria

assert theria.__file__.startswith(sys.prefix), theria.__file__
q = np.random.default_rng(0).standard_normal((1, 2, 5, 4))
with theria.connect(sys.argv[1]) as client:
    r = client.hvp(q, q, q, q, q, q, q)
assert r.q_bar_dot.shape == q.shape
print(client.__class__.__name__)
"""


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the tools of this environment, so that nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--no-index", "--wheel-dir", folder, PROJECT)
    (path,) = folder.glob("theria-*.whl")
    return path


def test_it_is_pure_typed_and_whole(wheel: Path) -> None:
    assert wheel.name == "theria-0.1.0-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(PROJECT / "src"))
        for path in (PROJECT / "src" / "theria").rglob("*.py")
    }
    assert sources <= names
    assert "theria/py.typed" in names
    assert {name for name in names if name.endswith("_pb2.pyi")}


def test_it_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment, whose own `theria` stays out of sight."""
    venv.create(tmp_path, with_pip=False)
    python = tmp_path / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(
        sys.executable,
        *("-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"),
        wheel,
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    process = ServerProcess(tmp_path / "server")
    try:
        assert run(python, "-c", USE, process.target).strip() == "RemoteClient"
        assert process.stop() == 0
    finally:
        process.kill()
