"""A server that fails during the survey is no finding about attention."""

from __future__ import annotations

import pytest
import torch

import theria
from theria.safety import Problem, classify, meta_loss


def gone(*_: torch.Tensor) -> torch.Tensor:
    raise theria.Unavailable("gone")


def test_it_ends_the_survey() -> None:
    with pytest.raises(theria.Unavailable, match="gone"):
        classify(gone, Problem(batch=1, seq_q=4, seq_kv=4, head_dim=4), name="gone")
    with pytest.raises(theria.Unavailable, match="gone"):
        meta_loss(gone, torch.float64, "cpu")


def test_what_a_server_refuses_is_a_finding() -> None:
    def without_kernels(*_: torch.Tensor) -> torch.Tensor:
        raise theria.Unimplemented("no kernel")

    found = classify(without_kernels, Problem(batch=1, seq_q=4, seq_kv=4, head_dim=4), name="x")
    assert {finding.verdict for finding in found.findings.values()} == {"missing"}
