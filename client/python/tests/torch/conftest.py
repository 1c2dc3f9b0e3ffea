"""The unit tests' client."""

import pytest
import torch
from reference_client import ReferenceClient

torch.set_num_threads(1)  # tiny tensors gain nothing from threads


@pytest.fixture
def client() -> ReferenceClient:
    return ReferenceClient()
