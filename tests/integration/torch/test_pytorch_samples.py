"""The samples with which PyTorch tests its own attention, put to ours.

Left out, and why:

* Samples with dropout, by value: PyTorch's generator draws other numbers. Their derivatives are
  checked, with a seed.
* `enable_gqa`: PyTorch lists the option, and its samples do not pass it; they come twice.
* `nn.MultiheadAttention` with `need_weights=True`, PyTorch's default: the module then writes
  attention out. The samples are called with `need_weights=False`.
* `nn.TransformerEncoderLayer`'s samples for nested tensors and the fused inference path, which have
  no derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import theria
from theria.torch import patch, sdpa

Tensor = torch.Tensor

[ATTENTION] = [op for op in op_db if op.name == "nn.functional.scaled_dot_product_attention"]
MODULES = {
    module: info
    for info in module_db
    for module in (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer)
    if info.module_cls is module
}


def samples(dtype: torch.dtype, requires_grad: bool = False) -> Iterator[Any]:
    """Each once."""
    torch.manual_seed(0)
    seen = set()
    for sample in ATTENTION.sample_inputs("cpu", dtype, requires_grad=requires_grad):
        shapes = tuple(tuple(x.shape) for x in (sample.input, *sample.args))
        mask = sample.kwargs.pop("attn_mask", None)
        key = (shapes, mask is not None, *sorted(sample.kwargs.items()))
        if key not in seen:
            seen.add(key)
            if mask is not None:
                sample.kwargs["attn_mask"] = mask.detach()
            yield sample
    assert len(seen) == 13


def error(actual: Tensor, exact: Tensor) -> float:
    return float((actual.double() - exact).norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values(dtype: torch.dtype, client: theria.Client) -> None:
    for sample in samples(dtype):
        if sample.kwargs["dropout_p"] > 0.0:
            continue
        tensors = (sample.input, *sample.args)
        doubles = [x.double() for x in tensors]
        exact_options = {
            name: value.double() if isinstance(value, Tensor) else value
            for name, value in sample.kwargs.items()
        }
        with sdpa_kernel(SDPBackend.MATH):
            exact = scaled_dot_product_attention(*doubles, **exact_options)
            theirs = scaled_dot_product_attention(*tensors, **sample.kwargs)
        ours = sdpa(*tensors, client=client, **sample.kwargs)
        assert ours.dtype == dtype
        rounding = 4 * torch.finfo(dtype).eps * float(exact.norm())
        assert error(ours, exact) <= 2 * error(theirs, exact) + rounding


def test_derivatives(client: theria.Client) -> None:
    for sample in samples(torch.float64, requires_grad=True):
        options = {**sample.kwargs, "client": client}
        if options["dropout_p"] > 0.0:
            options["dropout_seed"] = 5
        attention = partial(sdpa, **options)
        inputs = (sample.input, *sample.args)
        assert gradcheck(attention, inputs, check_forward_ad=True, fast_mode=True)
        assert gradgradcheck(
            attention, inputs, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True
        )


def module_samples(kind: type[torch.nn.Module]) -> Iterator[Any]:
    torch.manual_seed(0)
    info = MODULES[kind]
    for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training=False):
        forward = sample.forward_input
        if any(isinstance(x, Tensor) and x.is_nested for x in forward.args):
            continue
        yield sample


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_modules(kind: type[torch.nn.Module], client: theria.Client) -> None:
    """Value, gradients and the gradients of their squared norm."""
    count = 0
    for sample in module_samples(kind):
        constructor, forward = sample.constructor_input, sample.forward_input
        torch.manual_seed(1)
        module = kind(*constructor.args, **constructor.kwargs).double().eval()
        options = dict(forward.kwargs)
        if kind is torch.nn.MultiheadAttention:
            options["need_weights"] = False
        inputs = [x for x in forward.args if isinstance(x, Tensor)]
        wanted = [*inputs, *module.parameters()]

        def derivatives(
            module: torch.nn.Module = module,
            options: dict[str, Any] = options,
            args: tuple[Any, ...] = forward.args,
            wanted: list[Tensor] = wanted,
        ) -> list[Tensor]:
            output = module(*args, **options)
            output = output[0] if isinstance(output, tuple) else output
            first = torch.autograd.grad(output.sin().sum(), wanted, create_graph=True)
            norm = torch.stack([gradient.square().sum() for gradient in first]).sum()
            return [output, *first, *torch.autograd.grad(norm, wanted, materialize_grads=True)]

        with sdpa_kernel(SDPBackend.MATH):
            fastpath = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            expected = derivatives()
            torch.backends.mha.set_fastpath_enabled(fastpath)
        with patch(client=client):
            actual = derivatives()
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
        count += 1
    assert count >= 19
