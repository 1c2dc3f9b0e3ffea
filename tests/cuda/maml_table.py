"""rel_diff of MAML by implementation and dtype, on a device server, against float64 on the CPU.

    python3 tests/cuda/maml_table.py TARGET --reference TARGET --command THERIA [--json FILE]

rel_diff says how far the exact meta-gradient (full) is from the first-order one (fo), so that an
implementation that loses curvature shows. Passes if every float32 and float64 figure agrees with
the reference's to 1%; the deviation of half precisions is stated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOOPS = [(5, 0.1), (1, 0.4), (5, 0.4), (10, 0.4), (20, 0.4)]
IMPLEMENTATIONS = ("fused", "unfused")
DTYPES = ("float64", "float32", "float16", "bfloat16")
EXACT = ("float64", "float32")


def rel_diff(command: str, target: str, steps: int, rate: float, *flags: str) -> dict[str, Any]:
    """What `theria maml` finds on `target`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "maml.json"
        arguments = [command, "maml", target, "--mode=full", "--outer-steps=1", "--meta-batch=1"]
        arguments += [f"--inner-steps={steps}", f"--inner-lr={rate}", f"--json={report}", *flags]
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
        if not report.exists():
            return {"error": run.stderr.strip()[-300:]}
        server = json.loads(report.read_text())["check"]["server"]
    return {"rel_diff": server["rel_diff"], "second_order_path": server["second_order_path"]}


def main() -> int:
    """Runs every combination and prints the table; the return value is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--reference", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for steps, rate in LOOPS:
        expected = rel_diff(arguments.command, arguments.reference, steps, rate, "--dtype=float64")
        if "error" in expected:
            sys.exit(f"the reference failed: {expected['error']}")
        print(f"k={steps} lr={rate} reference {expected['rel_diff']:.6g}")
        for implementation in IMPLEMENTATIONS:
            for dtype in DTYPES:
                flags = (f"--dtype={dtype}", f"--implementation={implementation}")
                row = rel_diff(arguments.command, arguments.target, steps, rate, *flags)
                row |= {"steps": steps, "rate": rate, "reference": expected["rel_diff"]}
                row |= {"implementation": implementation, "dtype": dtype}
                if "rel_diff" in row:
                    row["deviation"] = abs(row["rel_diff"] / expected["rel_diff"] - 1)
                    text = f"{row['rel_diff']:.6g}, off by {row['deviation']:.2e}"
                else:
                    text = row["error"]
                print(f"  {implementation:8s} {dtype:9s} {text}", flush=True)
                rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    wrong = [r for r in rows if r["dtype"] in EXACT and not r.get("deviation", 1) <= 0.01]
    print(f"{len(rows)} combinations, {len(wrong)} exact ones off by more than 1%")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
