"""Tiny tensors gain nothing from threads; the in-process client is that of the torch tests."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "torch"))
torch.set_num_threads(1)
