"""Checks that includes point in the directions that design and docs/architecture.md allow.

Usage: architecture_test.py SOURCE_ROOT. Exit status 1 and one line for each include that is wrong.
A file is judged by the longest matching prefix of its path in `MAY_USE`; includes in quotes that
name a folder of the project must be its own or one of those listed; includes of gRPC, protobuf and
CUDA are allowed to the folders of `MAY_USE_LIBRARY` alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Folder -> the folders of the project that it may include, beside itself.
MAY_USE: dict[str, tuple[str, ...]] = {
    "proto": (),
    "kernels/api": (),
    "kernels/cpu": ("kernels/api",),
    "kernels/cuda": ("kernels/api",),
    "kernels/c": (
        "kernels/api",
        "kernels/cpu/backend.h",
        "kernels/cuda/backend.h",
        "theria/kernels.h",
    ),
    "kernels/c/jax": ("kernels/c/include/theria/kernels.h",),
    "server/telemetry": ("kernels/api",),
    "server/cache": ("kernels/api",),
    "server/engine": ("kernels/api", "server/cache", "server/telemetry"),
    "server/identity": ("kernels/api", "server/cache", "server/engine", "server/telemetry"),
    "server/rpc": (
        "kernels/api",
        "server/cache",
        "server/engine",
        "server/identity",
        "server/telemetry",
        "proto",
        "theria/v1",
    ),
    # Flags and wiring: the one place that sees every layer.
    "server": ("kernels", "theria/v1"),
    "client/cpp": ("proto", "theria", "theria/v1"),
    "client/cli": ("client/cpp", "theria", "theria/v1"),
}

# Library -> (what its includes look like, the folders that may have them).
MAY_USE_LIBRARY: dict[str, tuple[str, tuple[str, ...]]] = {
    "gRPC": (
        r"grpc\+\+/|grpcpp/|grpc/",
        ("server/rpc", "server/main.cc", "client/cpp", "client/cli"),
    ),
    "protobuf": (
        r"google/protobuf/|google/rpc/|.*\.pb\.h$",
        ("proto", "server/rpc", "client/cpp", "client/cli"),
    ),
    "CUDA": (r"cuda|cublas|cooperative_groups|cute/|cutlass/", ("kernels/cuda",)),
    "XLA": (r"xla/", ("kernels/c/jax",)),
    "PyTorch": (r"torch/|ATen/|c10/", ()),
    "spdlog": (r"spdlog/", ("server",)),
}

PROJECT_FOLDERS = ("kernels/", "proto/", "server/", "client/", "theria/")
SOURCE_SUFFIXES = (".h", ".cc", ".cu", ".cuh")
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder + "/")


def folder_of(path: str) -> str | None:
    """The most specific folder of `MAY_USE` that holds `path`."""
    holders = [folder for folder in MAY_USE if is_below(path, folder)]
    return max(holders, key=len, default=None)


def violations(path: str, text: str) -> list[str]:
    """What is wrong with the includes of the file at `path`, from the root, that holds `text`."""
    folder = folder_of(path)
    if folder is None:
        return []
    found = []
    for bracket, included in INCLUDE.findall(text):
        for library, (pattern, users) in MAY_USE_LIBRARY.items():
            if re.match(pattern, included) and not any(is_below(path, user) for user in users):
                found.append(f"{path}: {included}: {library} is for {users or 'nobody'}")
        if bracket == '"' and included.startswith(PROJECT_FOLDERS):
            allowed = (folder, *MAY_USE[folder])
            if not any(is_below(included, target) for target in allowed):
                found.append(f"{path}: {included}: {folder} may use {MAY_USE[folder]}")
    return found


def self_test() -> None:
    """The rules catch what they are for."""
    wrong = [
        ("kernels/api/x.h", '#include "kernels/cpu/y.h"'),
        ("kernels/cpu/x.cc", '#include "kernels/cuda/y.h"'),
        ("kernels/cpu/x.cc", '#include "theria/v1/tensor.pb.h"'),
        ("kernels/api/x.h", "#include <cuda_runtime.h>"),
        ("kernels/cuda/x.cu", "#include <torch/torch.h>"),
        ("server/cache/x.cc", '#include "server/engine/y.h"'),
        ("server/telemetry/x.cc", '#include "server/cache/y.h"'),
        ("server/engine/x.cc", "#include <grpcpp/grpcpp.h>"),
        ("server/engine/x.cc", '#include "server/rpc/y.h"'),
        ("server/rpc/x.cc", '#include "client/cpp/y.h"'),
        ("server/rpc/x.cc", '#include "kernels/cpu/backend.h"'),
        ("client/cpp/x.cc", '#include "kernels/api/dtype.h"'),
        ("client/cli/x.cc", '#include "server/config.h"'),
        ("kernels/cpu/x.cc", '#include "kernels/c/context.h"'),
        ("kernels/c/x.cc", '#include "kernels/cpu/run.h"'),
        ("kernels/c/x.cc", "#include <cuda_runtime.h>"),
    ]
    right = [
        ("server/main.cc", '#include "kernels/cpu/backend.h"'),
        ("server/main.cc", '#include "server/rpc/y.h"'),
        ("server/rpc/x.cc", '#include "google/rpc/status.pb.h"'),
        ("server/rpc/x.cc", '#include "server/engine/executor.h"'),
        ("kernels/cuda/attention/x.cuh", '#include "kernels/cuda/primitives/y.cuh"'),
        ("client/cli/x.cc", '#include "theria/client.h"'),
    ]
    for path, text in wrong:
        assert violations(path, text), (path, text)
    for path, text in right:
        assert not violations(path, text), violations(path, text)


def main() -> int:
    """Checks every source file below the root that the command line names."""
    self_test()
    root = Path(sys.argv[1])
    files = sorted(
        path
        for top in ("kernels", "server", "client")
        for path in (root / top).rglob("*")
        if path.suffix in SOURCE_SUFFIXES
    )
    found = [
        line
        for path in files
        for line in violations(path.relative_to(root).as_posix(), path.read_text("utf-8"))
    ]
    print("\n".join(found) or f"{len(files)} files include in the right directions")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
