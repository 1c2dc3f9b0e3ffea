"""Derivatives of `sdpa` in every mode, against central differences and PyTorch's own attention."""

import pytest
from reference_client import ReferenceClient
from sdpa_cases import (
    ALL,
    DETERMINISTIC,
    TRANSFORMS,
    Case,
    assert_agrees,
    gradcheck_all_modes,
    identifier,
)


@pytest.mark.parametrize("case", ALL, ids=identifier)
def test_gradcheck_in_all_modes(case: Case, client: ReferenceClient) -> None:
    gradcheck_all_modes(case, client)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=identifier)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_func_transform(name: str, case: Case, client: ReferenceClient) -> None:
    assert_agrees(name, case, client)
