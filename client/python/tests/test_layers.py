"""gRPC stays in the transports, and torch out of `import theria`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import theria

PACKAGE = Path(theria.__file__).parent
TRANSPORTS = {"_grpc.py", "_grpc_aio.py", "_grpc_channel.py", "_identity.py"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_only_transports_import_grpc() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if "grpc" in imported(path)}
    assert users == TRANSPORTS


def test_import_needs_no_torch() -> None:
    code = "import sys, theria; sys.exit('torch' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
