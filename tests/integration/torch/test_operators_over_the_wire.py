"""What tracers record of `sdpa` calls a real server whenever it runs."""

from __future__ import annotations

import torch
from sdpa_cases import PLAIN
from torch.fx.experimental.proxy_tensor import make_fx

import theria


def test_traced_gradient_on_new_inputs(client: theria.Client) -> None:
    def gradient(attention: object) -> object:
        return torch.func.grad(lambda q, k, v: attention(q, k, v).sin().sum(), (0, 1, 2))  # type: ignore[operator]

    traced = make_fx(gradient(PLAIN.service(client)))(*PLAIN.inputs())
    new = PLAIN.inputs(seed=5)
    torch.testing.assert_close(traced(*new), gradient(PLAIN.math())(*new))  # type: ignore[operator]


def test_compiled_forward_and_backward(client: theria.Client) -> None:
    compiled = torch.compile(PLAIN.service(client), backend="aot_eager", fullgraph=True)
    inputs = [x.requires_grad_() for x in PLAIN.inputs()]
    actual = torch.autograd.grad(compiled(*inputs).sin().sum(), inputs)
    expected = torch.autograd.grad(PLAIN.math()(*inputs).sin().sum(), inputs)
    torch.testing.assert_close(actual, expected)
