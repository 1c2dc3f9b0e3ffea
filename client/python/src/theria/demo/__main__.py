"""`python -m theria.demo`: see the package's docstring.

Exit status 0: success; 1: a comparison failed; 2: a program could not be run; 130, 143: stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

import theria
from theria.demo._commands import run_maml, run_parity
from theria.demo._counting_client import CountingClient
from theria.demo._experiment import compare_modes, meta_training
from theria.demo._figures import draw_all
from theria.demo._processes import ProcessError, start_server
from theria.demo._report import write_data, write_report
from theria.demo._results import Results

__all__ = ["main"]


def main() -> int:
    """Runs the demonstration and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m theria.demo",
        description="Starts a server, checks parity, compares MAML modes, writes OUT/report.md.",
    )
    parser.add_argument("--server", type=Path, required=True, help="the theria-server program")
    parser.add_argument("--cli", type=Path, required=True, help="the theria command")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--seeds", type=int, default=3, help="tasks and initial parameters")
    arguments = parser.parse_args()
    # SIGINT too: a process that a shell starts in the background inherits it as ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    console = Console(stderr=True)
    torch.set_num_threads(1)  # idle threads would spin on the cores that the server computes on
    try:
        results = _demonstrate(arguments, console)
    except (ProcessError, theria.Error) as error:
        print(f"theria.demo: {error}", file=sys.stderr)
        return 2
    verdict = "all held" if results.held else "FAILED, see the report"
    print(f"{verdict}: {arguments.out / 'report.md'} ({results.seconds:.0f} s)", file=sys.stderr)
    return 0 if results.held else 1


def _demonstrate(arguments: argparse.Namespace, console: Console) -> Results:
    began = time.monotonic()
    out: Path = arguments.out
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    with start_server(arguments.server, out / "logs" / "server.log") as target:
        console.print(f"server at {target}", highlight=False)
        parity = run_parity(arguments.cli, target, data / "parity.json")
        command = run_maml(arguments.cli, target, data / "maml_command.json")
        with theria.connect(target, timeout=60.0) as connection:
            client = CountingClient(connection)
            info = connection.info()
            rows = compare_modes(client, seeds, console)
            training = meta_training(client, console)
    results = Results(info, parity, command, rows, training, time.monotonic() - began)
    write_data(results, data)
    draw_all(results, out / "figures")
    results = Results(info, parity, command, rows, training, time.monotonic() - began)
    write_report(results, out / "report.md")
    return results


def _stop(number: int, _frame: FrameType | None) -> None:
    print("stopped", file=sys.stderr)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
