"""Runs the CPU benchmarks one after the other and writes their JSON into one folder.

    .venv/bin/python tests/bench/run_all.py --build build/bench [--out docs/benchmarks]

Each compares with a peer in the same run; docs/benchmarks.md says what. The machine should be
otherwise idle. Exit status 1 if a benchmark missed its target or failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def commands(programs: Path, out: Path) -> dict[str, list[str]]:
    """The command line of each benchmark, by name."""
    return {
        "cpu_reference": [
            sys.executable,
            str(ROOT / "tests/bench/cpu_reference/bench_cpu_reference.py"),
            f"--program={programs / 'cpu_reference_bench'}",
            f"--json={out / 'cpu_reference.json'}",
        ],
        "overhead": [
            str(programs / "theria-overhead-bench"),
            f"--json={out / 'overhead.json'}",
        ],
        "coalescing": [
            str(programs / "theria-coalescing-bench"),
            f"--json={out / 'coalescing.json'}",
        ],
        "store": [str(programs / "store_bench"), "--json", str(out / "store.json")],
    }


def main() -> int:
    """Runs them all; the return value is the exit status."""
    parser = argparse.ArgumentParser(description="Runs the CPU benchmarks.")
    parser.add_argument("--build", type=Path, default=ROOT / "build/bench", help="CMake folder")
    parser.add_argument("--out", type=Path, help="folder of the JSON files; default: in --build")
    arguments = parser.parse_args()
    out: Path = arguments.out or arguments.build / "results"
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in commands(arguments.build.resolve() / "bin", out).items():
        print(f"== {name}: {' '.join(command)}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
    print(f"results in {out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
