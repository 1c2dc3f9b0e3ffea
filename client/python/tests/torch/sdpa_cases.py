"""Cases of `sdpa` and checks of its derivatives, shared by the unit and the integration tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import scaled_dot_product_attention

from theria.torch import sdpa

Tensor = torch.Tensor
Attention = Callable[..., Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """Shapes and options; `math` is PyTorch's own attention with the same options."""

    name: str
    q: tuple[int, ...] = (2, 2, 4, 3)
    k: tuple[int, ...] = (2, 2, 5, 3)
    v: tuple[int, ...] = (2, 2, 5, 2)
    mask: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def inputs(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype)

        return draw(self.q), draw(self.k), draw(self.v)

    def attn_mask(self) -> Tensor | None:
        if self.mask is None:
            return None
        generator = torch.Generator().manual_seed(7)
        bias = torch.randn(self.q[-2], self.k[-2], generator=generator, dtype=torch.float64)
        if self.mask == "float":
            return bias
        keep = bias > -0.5
        keep[:, 0] = True
        return keep

    def service(self, client: Any) -> Attention:
        mask = self.attn_mask()
        return lambda q, k, v: sdpa(q, k, v, mask, client=client, **self.options)

    def math(self) -> Attention:
        mask = self.attn_mask()
        return lambda q, k, v: scaled_dot_product_attention(q, k, v, mask, **self.options)


PLAIN = Case("plain")
DETERMINISTIC = [
    PLAIN,
    Case("causal", options={"is_causal": True}),
    Case("bool_mask", mask="bool"),
    Case("float_mask", mask="float"),
    Case("scale", options={"scale": 0.3}),
    Case("gqa", q=(1, 4, 4, 3), k=(1, 2, 5, 3), v=(1, 2, 5, 2), options={"enable_gqa": True}),
    Case("two_dimensions", q=(4, 3), k=(5, 3), v=(5, 2)),
    Case("three_dimensions", q=(2, 4, 3), k=(2, 5, 3), v=(2, 5, 2), mask="float"),
    Case("five_dimensions", q=(2, 1, 2, 3, 3), k=(2, 2, 2, 4, 3), v=(1, 2, 2, 4, 2), mask="bool"),
    Case("broadcast_heads", q=(2, 2, 4, 3), k=(2, 1, 5, 3), v=(1, 1, 5, 2)),
]
DROPOUT = Case("dropout", options={"dropout_p": 0.3, "dropout_seed": 11})
WINDOW = Case("window", options={"window": (1, 2)})
ALL = [*DETERMINISTIC, DROPOUT, WINDOW]


def identifier(case: Case) -> str:
    return case.name


def gradcheck_all_modes(case: Case, client: Any) -> None:
    """First and second order, each in both modes, against central differences."""
    inputs = tuple(x.requires_grad_() for x in case.inputs())
    attention = case.service(client)
    assert gradcheck(attention, inputs, check_forward_ad=True)
    assert gradgradcheck(
        attention,
        inputs,
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
    )


def scalar(attention: Attention, weight: Tensor) -> Attention:
    """A non-linear scalar function of attention, so that o_bar depends on the inputs."""
    return lambda q, k, v: (weight * torch.sin(attention(q, k, v))).sum()


def transforms(attention: Attention) -> dict[str, Callable[[Inputs], Any]]:
    """Every composition of two `torch.func` derivatives that is supported, and vmap of them."""
    from torch import func

    every = (0, 1, 2)

    def weight(x: Inputs) -> Tensor:
        shape = attention(*x).shape
        size = shape.numel()
        return torch.linspace(-1.0, 1.3, size, dtype=torch.float64).reshape(shape)

    def loss(x: Inputs) -> Attention:
        return scalar(attention, weight(x))

    def tangents(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.cos(3.0 * y + i) for i, y in enumerate(x))

    def jvp_of(f: Attention, x: tuple[Tensor, ...]) -> Any:
        return func.jvp(f, x, tangents(x))

    def grad_of_jvp(x: Inputs) -> Any:
        def directional(*y: Tensor) -> Tensor:
            return torch.sin(jvp_of(attention, y)[1]).sum()

        return func.grad(directional, every)(*x)

    def grad_of_grad(x: Inputs) -> Any:
        def norm(*y: Tensor) -> Tensor:
            return torch.stack([(g**2).sum() for g in func.grad(loss(x), every)(*y)]).sum()

        return func.grad(norm, every)(*x)

    def stacked(x: Inputs) -> tuple[Tensor, ...]:
        return tuple(torch.stack([y, 0.5 * y, torch.sin(y)]) for y in x)

    def nested(x: Inputs) -> Any:
        q, k, v = stacked(x)
        inner = func.vmap(attention, in_dims=(0, None, None))
        return func.vmap(inner, in_dims=(None, 0, 0))(q, k, v)

    def moved(x: Inputs) -> Any:
        q, k, _ = stacked(x)
        mapped = func.vmap(attention, in_dims=(-1, 1, None))
        return mapped(q.movedim(0, -1), k.movedim(0, 1), x[2])

    def vmap_of_jvp_of_grad(x: Inputs) -> Any:
        gradient = func.grad(loss(x), every)
        return func.vmap(lambda *y: jvp_of(gradient, y))(*stacked(x))

    return {
        "grad": lambda x: func.grad(loss(x), every)(*x),
        "vjp": lambda x: func.vjp(attention, *x)[1](weight(x)),
        "jvp": lambda x: jvp_of(attention, x),
        "jvp_of_grad": lambda x: jvp_of(func.grad(loss(x), every), x),
        "grad_of_jvp": grad_of_jvp,
        "grad_of_grad": grad_of_grad,
        "jacrev": lambda x: func.jacrev(attention, every)(*x),
        "jacfwd": lambda x: func.jacfwd(attention, every)(*x),
        "hessian": lambda x: func.hessian(loss(x), every)(*x),
        "jacrev_of_jacrev": lambda x: func.jacrev(func.jacrev(loss(x), every), every)(*x),
        "jacrev_of_jacfwd": lambda x: func.jacrev(func.jacfwd(loss(x), every), every)(*x),
        "vmap": lambda x: func.vmap(attention)(*stacked(x)),
        "vmap_in_dims": moved,
        "vmap_nested": nested,
        "vmap_of_grad": lambda x: func.vmap(func.grad(loss(x), every))(*stacked(x)),
        "vmap_of_jvp_of_grad": vmap_of_jvp_of_grad,
    }


TRANSFORMS = list(transforms(scaled_dot_product_attention))


def assert_agrees(name: str, case: Case, client: Any, tolerance: float = 1e-9) -> None:
    """The transform of that name gives what it gives through PyTorch's own attention."""
    inputs = case.inputs()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = transforms(case.math())[name](inputs)
    actual = transforms(case.service(client))[name](inputs)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
