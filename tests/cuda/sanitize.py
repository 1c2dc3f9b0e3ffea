"""Runs compute-sanitizer over the small problems of smoke.cc and writes what it found as JSON.

    python3 tests/cuda/sanitize.py build/cuda/bin/theria_cuda_smoke --json FILE
        [--dtypes float64 float32] [--tools racecheck] [--operations hvp,vjp] [--jobs 4] [--parts 5]

Names are separated by spaces or commas; the tool that takes longest runs first. The cases of an
operation and dtype are dealt to several processes, so that none is long. FILE is brought up to
date: a result replaces that of the same tool, operation and dtype, others stay. The exit status is
0 if every run of this call is clean: all its cases computed what the unfused implementation
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
from typing import Any, NamedTuple

from environment import environment
from tqdm import tqdm

# The tools in the order in which they run, and the seconds that one process may take.
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


class Key(NamedTuple):
    """What one result is of."""

    tool: str
    operation: str
    dtype: str


def run(program: str, key: Key, part: int, parts: int, limit: float) -> dict[str, Any]:
    """One process under the tool: cases, failures of their comparison, findings, their kernels."""
    begin = time.monotonic()
    cases_of = [key.operation, key.dtype, str(part), str(parts)]
    command = ["compute-sanitizer", "--tool", key.tool, program, *cases_of]
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
        return {"clean": False, "problem": f"part {part}: over its limit of {limit:.0f} s"}
    seconds = round(time.monotonic() - begin, 1)
    cases = CASES.search(done.stdout)
    summary = SUMMARY.search(done.stdout)
    if cases is None or summary is None:
        tail = done.stdout.strip().splitlines()[-3:]
        problem = f"part {part}: exit status {done.returncode}: {tail}"
        return {"clean": False, "problem": problem, "seconds": seconds}
    found = int(summary[1] or summary[2] or 0)
    return {
        "seconds": seconds,
        "cases": int(cases[1]),
        "failed_cases": int(cases[2]),
        "found": found,
        "clean": found == 0 and int(cases[2]) == 0 and done.returncode == 0,
        "kernels": sorted(set(KERNEL.findall(done.stdout))) if found else [],
        "first": FINDING.findall(done.stdout)[:3],
    }


def join(key: Key, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts' result as one: their sums, the kernels of all, the first findings and problem."""
    result: dict[str, Any] = key._asdict()
    for name in ("seconds", "cases", "failed_cases", "found"):
        result[name] = round(sum(part.get(name, 0) for part in parts), 1)
    result["clean"] = all(part["clean"] for part in parts)
    problems = [part["problem"] for part in parts if "problem" in part]
    if problems:
        result["problem"] = problems[0]
    if result["found"]:
        result["kernels"] = sorted({name for part in parts for name in part.get("kernels", [])})
        result["first"] = [line for part in parts for line in part.get("first", [])][:3]
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
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--parts", type=int, default=5, help="processes for an operation and dtype")
    parser.add_argument("--limit", type=float, help="seconds for a process, not its tool's")
    arguments = parser.parse_args()

    def chosen(option: str, names: Iterable[str]) -> list[str]:
        given = " ".join(getattr(arguments, option)).replace(",", " ").split()
        if unknown := set(given) - set(names):
            parser.error(f"--{option}: {', '.join(sorted(unknown))} is none of {', '.join(names)}")
        return [name for name in names if name in given]

    header = environment()
    commit = header.pop("commit")
    asked = [
        Key(*names)
        for names in itertools.product(
            chosen("tools", TOOLS), chosen("operations", OPERATIONS), chosen("dtypes", DTYPES)
        )
    ]
    done: dict[Key, list[dict[str, Any]]] = {key: [] for key in asked}
    results: list[dict[str, Any]] = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {
            pool.submit(
                run,
                arguments.program,
                key,
                part,
                arguments.parts,
                arguments.limit or TOOLS[key.tool],
            ): key
            for key in asked
            for part in range(arguments.parts)
        }
        for future in tqdm(
            concurrent.futures.as_completed(futures), total=len(futures), disable=None
        ):
            key = futures[future]
            done[key].append(future.result())
            if len(done[key]) < arguments.parts:
                continue
            results.append(join(key, done[key]))
            update(arguments.json, results, commit, header)
            tqdm.write(json.dumps(results[-1]))
    unclean = [result for result in results if not result["clean"]]
    cases = sum(result.get("cases", 0) for result in results)
    print(f"{len(results)} runs, {cases} cases, {len(unclean)} runs not clean")
    return 1 if unclean else 0


if __name__ == "__main__":
    sys.exit(main())
