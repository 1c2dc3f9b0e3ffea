"""Runs compute-sanitizer over the small problems of smoke.cc and writes what it found as JSON.

    python3 tests/cuda/sanitize.py build/cuda/bin/theria_cuda_smoke --json FILE
        [--dtypes float64 float32] [--tools racecheck] [--operations hvp,vjp] [--jobs 4]

Names are separated by spaces or commas; the tool that takes longest runs first. FILE is brought up
to date: a result replaces that of the same tool, operation and dtype, others stay. The exit status
is 0 if every run of this call is clean: all its cases computed what the unfused implementation
computes, and the tool found nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from environment import environment
from tqdm import tqdm

# The tools in the order in which they run, and the seconds that one run may take.
TOOLS = {"racecheck": 420.0, "initcheck": 120.0, "synccheck": 90.0, "memcheck": 60.0}
OPERATIONS = ("hvp", "vjp", "jvp", "forward")
DTYPES = ("bfloat16", "float16", "float32", "float64")
SUMMARY = re.compile(
    r"ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: (\d+) hazards? displayed \((\d+) errors?"
)
CASES = re.compile(r"^(\d+) cases, (\d+) failed$", re.MULTILINE)
# A report's first line, without the tool's "========= " and what differs from thread to thread.
FINDING = re.compile(
    r"^========= ((?:Error|Warning|Invalid|Uninitialized|Barrier).*)$", re.MULTILINE
)
KERNEL = re.compile(r"(\w+Kernel)<")


def run(program: str, tool: str, operation: str, dtype: str, limit: float) -> dict[str, Any]:
    """One run of the tool: cases, failures of their comparison, findings, kernels they name."""
    begin = time.monotonic()
    command = ["compute-sanitizer", "--tool", tool, program, operation, dtype]
    result: dict[str, Any] = {"tool": tool, "operation": operation, "dtype": dtype}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return result | {"clean": False, "problem": f"over its limit of {limit:.0f} s"}
    result["seconds"] = round(time.monotonic() - begin, 1)
    cases = CASES.search(done.stdout)
    summary = SUMMARY.search(done.stdout)
    if cases is None or summary is None:
        tail = done.stdout.strip().splitlines()[-3:]
        return result | {"clean": False, "problem": f"exit status {done.returncode}: {tail}"}
    found = int(summary[1] or summary[2] or 0)
    result |= {"cases": int(cases[1]), "failed_cases": int(cases[2]), "found": found}
    result["clean"] = found == 0 and int(cases[2]) == 0 and done.returncode == 0
    if found:
        result["kernels"] = sorted(set(KERNEL.findall(done.stdout)))
        result["first"] = FINDING.findall(done.stdout)[:3]
    return result


def update(path: Path, results: list[dict[str, Any]], commit: str, header: dict[str, Any]) -> None:
    """Puts `results` into the JSON at `path`."""
    kept = json.loads(path.read_text())["results"] if path.exists() else []
    by_key = {(r["dtype"], r["tool"], r["operation"]): r for r in kept}
    for result in results:
        key = (result["dtype"], result["tool"], result["operation"])
        by_key[key] = result | {"commit": commit}
    order = [(d, t, o) for d in DTYPES for t in TOOLS for o in OPERATIONS]
    listed = [by_key[key] for key in order if key in by_key]
    lines = ",\n".join("  " + json.dumps(result) for result in listed)
    text = json.dumps(header)
    path.write_text(f'{{\n "environment": {text},\n "results": [\n{lines}\n ]\n}}\n')


def main() -> int:
    """Runs all that is asked for, several at a time; 0 if all is clean."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program")
    parser.add_argument("--json", type=Path, required=True)
    for option, names in (("tools", TOOLS), ("operations", OPERATIONS), ("dtypes", DTYPES)):
        parser.add_argument(f"--{option}", nargs="+", default=[*names], help=", ".join(names))
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--limit", type=float, help="seconds for one run, instead of its tool's")
    arguments = parser.parse_args()

    def chosen(option: str, names: Iterable[str]) -> list[str]:
        given = " ".join(getattr(arguments, option)).replace(",", " ").split()
        if unknown := set(given) - set(names):
            parser.error(f"--{option}: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
        return [name for name in names if name in given]

    header = environment()
    commit = header.pop("commit")
    asked = list(
        itertools.product(
            chosen("tools", TOOLS), chosen("operations", OPERATIONS), chosen("dtypes", DTYPES)
        )
    )
    results: list[dict[str, Any]] = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [
            pool.submit(run, arguments.program, *key, arguments.limit or TOOLS[key[0]])
            for key in asked
        ]
        for future in tqdm(
            concurrent.futures.as_completed(futures), total=len(futures), disable=None
        ):
            result = future.result()
            results.append(result)
            update(arguments.json, results, commit, header)
            tqdm.write(json.dumps(result))
    unclean = [result for result in results if not result["clean"]]
    cases = sum(result.get("cases", 0) for result in results)
    print(f"{len(results)} runs, {cases} cases, {len(unclean)} runs not clean")
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
