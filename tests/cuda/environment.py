"""What figures from a GPU depend on."""

from __future__ import annotations

import os
import subprocess

import torch


def environment() -> dict[str, str]:
    """GPU, driver, versions, and the commit that THERIA_COMMIT names.

    Not what a repository beside the files says: a copy's may be of another commit.
    """

    def output(*command: str) -> str:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "nvcc": output("nvcc", "--version").splitlines()[-1],
        "commit": os.environ.get("THERIA_COMMIT") or "unknown",
    }
