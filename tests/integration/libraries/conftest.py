"""A real server under the libraries, and the comparison that all of them are put to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import theria
from theria.torch import patch

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/integration/python"))

from few_shot import Compare, Gradients  # noqa: E402
from server_process import ServerProcess  # noqa: E402

torch.set_num_threads(1)  # the server computes; tiny tensors here gain nothing from threads


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[theria.Client]:
    """Of a server that must come through all tests and drain."""
    process = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        with theria.connect(process.target, timeout=60.0) as client:
            yield client
        assert process.stop() == 0, process.log()[-4000:]
    finally:
        process.kill()


class CountingClient:
    """Passes calls on, and counts them by operation."""

    def __init__(self, client: theria.Client) -> None:
        self._client = client
        self.calls: Counter[str] = Counter()

    def __getattr__(self, operation: str) -> Any:
        self.calls[operation] += 1
        return getattr(self._client, operation)


@pytest.fixture
def compare(client: theria.Client) -> Compare:
    """Gradients through the service are those through PyTorch's explicit attention in float64.

    By norm over all parameters: to 1e-9 in float64, to 1e-6 in float32.
    """

    def check(gradients: Callable[[torch.dtype], Gradients]) -> None:
        with sdpa_kernel(SDPBackend.MATH):
            expected = flat(gradients(torch.float64))
        assert expected.norm() > 1e-3
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
            counting = CountingClient(client)
            with patch(client=counting):
                actual = gradients(dtype)
            assert counting.calls["hvp"] > 0
            assert all(gradient.dtype == dtype for gradient in actual)
            assert (flat(actual) - expected).norm() < tolerance * expected.norm()

    return check


def flat(gradients: Gradients) -> torch.Tensor:
    return torch.cat([gradient.detach().double().ravel() for gradient in gradients])
