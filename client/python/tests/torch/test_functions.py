"""Second order by other ways than gradient and Jacobian: `torch.autograd.functional`, dual tensors,
and derivatives of Hessian products by what they are linear in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fw
from reference_client import ReferenceClient
from sdpa_cases import DETERMINISTIC, DROPOUT, PLAIN, Attention, Case, identifier
from torch import func
from torch.autograd import functional

from theria.torch import DerivativeOrderError

Tensor = torch.Tensor
CASES = [*DETERMINISTIC[:6], DROPOUT]


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of operations whose derivatives of every order and mode PyTorch has."""
    p = (q @ k.mT / q.size(-1) ** 0.5).exp()
    return p / p.sum(-1, keepdim=True) @ v


def loss_of(attention: Attention) -> Attention:
    return lambda *x: attention(*x).sin().sum()


def gradient_of(attention: Attention) -> Attention:
    return func.grad(loss_of(attention), (0, 1, 2))  # type: ignore[no-any-return]


OPERATIONS: dict[str, Callable[[Attention, Any, Any], Any]] = {
    "vjp": lambda f, x, _: functional.vjp(f, x, explicit(*x).cos()),
    "jvp": lambda f, x, t: functional.jvp(f, x, t),
    "vhp": lambda f, x, t: functional.vhp(loss_of(f), x, t),
    "hvp": lambda f, x, t: functional.hvp(loss_of(f), x, t),
    "hvp, strict": lambda f, x, t: functional.hvp(loss_of(f), x, t, strict=True),
    "hessian": lambda f, x, _: functional.hessian(loss_of(f), x),
    "jacobian": lambda f, x, _: functional.jacobian(f, x),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_autograd_functional(name: str, client: ReferenceClient) -> None:
    x, t = PLAIN.inputs(), PLAIN.inputs(seed=5)
    operation = OPERATIONS[name]
    torch.testing.assert_close(operation(PLAIN.service(client), x, t), operation(explicit, x, t))


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_hvp_is_symmetric_and_agrees_with_vhp(case: Case, client: ReferenceClient) -> None:
    x, t = case.inputs(), case.inputs(seed=5)
    loss = loss_of(case.service(client))
    torch.testing.assert_close(functional.hvp(loss, x, t), functional.vhp(loss, x, t))


def through_duals(attention: Attention, x: Any, t: Any, create_graph: bool) -> list[Any]:
    """Value and gradient with their tangents."""
    with fw.dual_level():
        leaves = [y.clone().requires_grad_() for y in x]
        duals = [fw.make_dual(y, dot) for y, dot in zip(leaves, t, strict=True)]
        loss = loss_of(attention)(*duals)
        gradients = torch.autograd.grad(loss, leaves, create_graph=create_graph)
        return [tuple(fw.unpack_dual(y)) for y in (loss, *gradients)]


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradient_within_a_dual_level(create_graph: bool, client: ReferenceClient) -> None:
    x, t = PLAIN.inputs(), PLAIN.inputs(seed=5)
    actual = through_duals(PLAIN.service(client), x, t, create_graph)
    torch.testing.assert_close(actual, through_duals(explicit, x, t, create_graph))
    assert all(tangent is not None for _, tangent in actual)


def test_gradient_of_a_tangent_within_a_dual_level(client: ReferenceClient) -> None:
    def through(attention: Attention) -> Any:
        with fw.dual_level():
            leaves = [y.requires_grad_() for y in (*PLAIN.inputs(), *PLAIN.inputs(seed=5))]
            duals = [fw.make_dual(y, dot) for y, dot in zip(leaves[:3], leaves[3:], strict=True)]
            tangent = fw.unpack_dual(attention(*duals)).tangent
            return torch.autograd.grad(tangent.sin().sum(), leaves)

    torch.testing.assert_close(through(PLAIN.service(client)), through(explicit))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_hessian_product_by_its_direction(mode: str, client: ReferenceClient) -> None:
    jacobian = func.jacrev if mode == "reverse" else func.jacfwd

    def through(attention: Attention) -> Any:
        x = PLAIN.inputs()

        def product(*t: Tensor) -> Any:
            return func.jvp(gradient_of(attention), x, t)[1]

        return jacobian(product, (0, 1, 2))(*PLAIN.inputs(seed=5))

    torch.testing.assert_close(through(PLAIN.service(client)), through(explicit))


@pytest.mark.parametrize("name", ["o_bar_dot", "gradient alone", "tangent alone"])
def test_parts_of_a_hessian_product_that_are_of_lower_order(
    name: str, client: ReferenceClient
) -> None:
    """(J^T o_bar, H(o_bar)[t] + J^T o_bar_dot) by o_bar_dot; J^T o_bar alone by x and o_bar."""
    t = PLAIN.inputs(seed=5)

    def through(attention: Attention) -> Any:
        x = [y.requires_grad_() for y in PLAIN.inputs()]
        o_bar = explicit(*t).cos().detach().requires_grad_()
        o_bar_dot = explicit(*t).exp().detach().requires_grad_()

        def backward(q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> Any:
            return func.vjp(attention, q, k, v)[1](u)

        if name == "tangent alone":
            bars = func.vjp(lambda *d: func.jvp(attention, tuple(x), d)[1], *t)[1](o_bar)
            return torch.autograd.grad(sum(y.sin().sum() for y in bars), [*x, o_bar])
        bars, dots = func.jvp(backward, (*x, o_bar), (*t, o_bar_dot))
        if name == "gradient alone":
            return torch.autograd.grad(sum(y.sin().sum() for y in bars), [*x, o_bar])
        return torch.autograd.grad(sum(y.sin().sum() for y in dots), o_bar_dot)

    torch.testing.assert_close(through(PLAIN.service(client)), through(explicit))


def test_third_order_is_refused_where_it_is_asked_for(client: ReferenceClient) -> None:
    x, t = PLAIN.inputs(), PLAIN.inputs(seed=5)
    leaves = tuple(y.requires_grad_() for y in x)
    product = functional.hvp(loss_of(PLAIN.service(client)), leaves, t, create_graph=True)[1]
    with pytest.raises(DerivativeOrderError, match="third-order derivative of attention"):
        torch.autograd.grad(product[0].sum(), leaves[1], retain_graph=True)
    with pytest.raises(NotImplementedError):
        product[0].sum().backward()


def test_operator_hvp_by_its_bars(client: ReferenceClient) -> None:
    """An HVP that also returns the bars and o_dot: their derivatives are of second order."""
    from theria._client_registry import client_name

    t = PLAIN.inputs(seed=5)
    x = [y.requires_grad_() for y in PLAIN.inputs()]
    o_bar = explicit(*t).cos().detach().requires_grad_()
    outputs = ["o_dot", "q_bar", "k_bar", "v_bar", "q_bar_dot"]
    found = torch.ops.theria.hvp(*x, o_bar, *t, None, client=client_name(client), outputs=outputs)
    actual = torch.autograd.grad(sum(y.sin().sum() for y in found[:4]), [*x, o_bar])

    o_dot = func.jvp(explicit, tuple(x), t)[1]
    bars = func.vjp(explicit, *x)[1](o_bar)
    expected = torch.autograd.grad(sum(y.sin().sum() for y in (o_dot, *bars)), [*x, o_bar])
    torch.testing.assert_close(actual, expected)
