"""Derivatives of `sdpa` in every mode, against central differences and PyTorch's own attention."""

from typing import Any

import pytest
import torch
from reference_client import ReferenceClient
from sdpa_cases import (
    ALL,
    DETERMINISTIC,
    PLAIN,
    TRANSFORMS,
    Case,
    assert_agrees,
    gradcheck_all_modes,
    identifier,
    scalar,
)
from torch.autograd.functional import hessian, jacobian


@pytest.mark.parametrize("case", ALL, ids=identifier)
def test_gradcheck_in_all_modes(case: Case, client: ReferenceClient) -> None:
    gradcheck_all_modes(case, client)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=identifier)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_func_transform(name: str, case: Case, client: ReferenceClient) -> None:
    assert_agrees(name, case, client)


@pytest.mark.parametrize("case", ALL, ids=identifier)
@pytest.mark.parametrize("options", [{}, {"outer_jacobian_strategy": "forward-mode"}])
def test_gradients_batched_by_the_older_vmap(
    options: dict[str, Any], case: Case, client: ReferenceClient
) -> None:
    inputs, attention = case.inputs(), case.service(client)
    loss = scalar(attention, torch.ones((), dtype=torch.float64))
    row_by_row = jacobian(attention, inputs)
    torch.testing.assert_close(jacobian(attention, inputs, vectorize=True), row_by_row)
    assert client.calls["vjp"] > 1
    torch.testing.assert_close(
        hessian(loss, inputs, vectorize=True, **options), hessian(loss, inputs)
    )


def test_a_graph_of_batched_gradients(client: ReferenceClient) -> None:
    q, k, v = (x.requires_grad_() for x in PLAIN.inputs())
    rows = torch.stack([torch.ones(2, 2, 4, 2), torch.arange(32.0).reshape(2, 2, 4, 2)]).double()

    def second(batched: bool) -> tuple[torch.Tensor, ...]:
        o = PLAIN.service(client)(q, k, v).sin()
        if batched:
            (first,) = torch.autograd.grad(o, q, rows, create_graph=True, is_grads_batched=True)
        else:
            each = [torch.autograd.grad(o, q, row, create_graph=True)[0] for row in rows]
            first = torch.stack(each)
        return torch.autograd.grad(first.square().sum(), (q, k, v))

    torch.testing.assert_close(second(batched=True), second(batched=False))
