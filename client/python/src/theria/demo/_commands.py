"""Runs `theria parity` and `theria maml`, and reads their results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theria.demo._processes import run_command

__all__ = ["MamlCommand", "ParityCase", "ParityRun", "run_maml", "run_parity"]

MAML_STEPS, MAML_RATE, MAML_SEED = 5, 0.4, 0


@dataclass(frozen=True)
class ParityCase:
    """One comparison; `ratio` is the worst error in units of its tolerance."""

    name: str
    check: str
    operation: str
    dtype: str
    options: str
    outcome: str
    ratio: float | None


@dataclass(frozen=True)
class ParityRun:
    """The results of `theria parity`: its printed table, its counts and every case."""

    printed: str
    held: int
    failed: int
    skipped: int
    cases: tuple[ParityCase, ...]


@dataclass(frozen=True)
class MamlCommand:
    """The results of `theria maml --mode full` at the initial parameters."""

    command: str
    held: bool
    rel_diff: float
    probe_norm: float
    loss: float
    error: float
    calls: int
    seconds: float


def run_parity(cli: Path, target: str, report: Path) -> ParityRun:
    """Runs `theria parity` and keeps its JSON. Raises ProcessError if it cannot compare."""
    command = [str(cli), "parity", target, "--json", str(report)]
    printed = run_command(command, good=(0, 1))
    document = json.loads(report.read_text())
    fields = ("name", "check", "operation", "dtype", "options", "outcome")
    cases = tuple(
        ParityCase(**{field: case[field] for field in fields}, ratio=case.get("ratio"))
        for case in document["cases"]
    )
    counts = (document["held"], document["failed"], document["skipped"])
    return ParityRun(printed, *counts, cases)


def run_maml(cli: Path, target: str, report: Path) -> MamlCommand:
    """Runs `theria maml` once and keeps its JSON. Raises ProcessError if it fails."""
    options = ["--mode=full", f"--inner-steps={MAML_STEPS}", f"--inner-lr={MAML_RATE}"]
    options += [f"--seed={MAML_SEED}", f"--json={report}"]
    run_command([str(cli), "maml", target, *options], good=(0, 1))
    document: dict[str, Any] = json.loads(report.read_text())
    server = document["check"]["server"]
    return MamlCommand(
        command=f"theria maml {target} {' '.join(options[:-1])}",
        held=document["held"],
        rel_diff=server["rel_diff"],
        probe_norm=server["probe_norm"],
        loss=document["steps"][0]["after"]["loss"],
        error=document["check"]["error"],
        calls=document["calls"]["all"]["calls"],
        seconds=document["wall_seconds"],
    )
