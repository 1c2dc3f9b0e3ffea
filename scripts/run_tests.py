"""Runs every test of the project and prints one count over all runners.

    .venv/bin/python scripts/run_tests.py [--build build]

ctest runs the C++ programs, pytest the Python suites. Exit status 0 only if every test passed.
GPU tests have the label `gpu`. Without a GPU they are skipped and listed at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PYTHON_SUITES = ("client/python/tests", "tests/integration")


@dataclass
class Tally:
    """Counts over runners, and the names of what did not pass."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add_junit(self, path: Path) -> None:
        """Adds the test cases of a JUnit file, as ctest and pytest write them."""
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed.append(name)
            elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
                self.skipped.append(name)
            else:
                self.passed += 1


def run(name: str, command: list[str], junit: Path, tally: Tally) -> None:
    """Runs one test runner, and counts what its JUnit file says."""
    print(f"== {name}: {' '.join(command)}", flush=True)
    junit.unlink(missing_ok=True)
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    before = len(tally.failed)
    if junit.exists():
        tally.add_junit(junit)
    else:
        tally.failed.append(f"{name}: wrote no results (exit status {status})")
    if status != 0 and len(tally.failed) == before:
        tally.failed.append(f"{name}: exit status {status}")


def main() -> int:
    """Runs all suites; the return value is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="CMake build folder")
    arguments = parser.parse_args()
    build: Path = arguments.build.resolve()
    os.environ.setdefault("THERIA_SERVER", str(build / "bin" / "theria-server"))
    os.environ.setdefault("THERIA_CLI", str(build / "bin" / "theria"))
    os.environ.setdefault("THERIA_KERNELS_LIBRARY", str(build / "lib" / "libtheria_kernels.so"))

    tally = Tally()
    junit = build / "ctest.xml"
    ctest = ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error"]
    ctest += ["--parallel", str(os.cpu_count() or 1), "--output-junit", str(junit)]
    run("ctest", ctest, junit, tally)
    for suite in PYTHON_SUITES:
        junit = build / f"pytest-{suite.replace('/', '-')}.xml"
        pytest = [sys.executable, "-m", "pytest", "-q", "-ra", suite, f"--junitxml={junit}"]
        run(suite, pytest, junit, tally)

    for name in tally.skipped:
        print(f"skipped: {name}")
    for name in tally.failed:
        print(f"failed: {name}")
    print(f"{tally.passed} passed, {len(tally.failed)} failed, {len(tally.skipped)} skipped")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
