"""Models for the meta-learner: a loss as a function of named parameters and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.func import functional_call, grad, grad_and_value, jvp, vjp

from theria._errors import Error
from theria.maml._random_state import RandomState

__all__ = ["Loss", "Params", "from_module", "hessian_vector", "value_and_gradient"]

Params: TypeAlias = dict[str, torch.Tensor]
Loss: TypeAlias = Callable[[Params, Any], torch.Tensor]


def from_module(
    module: torch.nn.Module, criterion: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> tuple[Loss, Params]:
    """The loss function of a module, and its current parameters.

    Args:
        module: Called with a batch's inputs. It is never changed. Its buffers, and parameters that
            do not require a gradient, are used with their current values at each call. Running
            statistics must not be updated (``module.eval()``, ``track_running_stats=False``).
        criterion: ``criterion(module(inputs), targets)`` is a scalar.

    Returns:
        ``loss(params, (inputs, targets))``, and the parameters that require a gradient, by their
        names in the module, detached but not copied.
    """

    def loss(params: Params, batch: tuple[Any, torch.Tensor]) -> torch.Tensor:
        inputs, targets = batch
        return criterion(functional_call(module, params, (inputs,)), targets)

    named = module.named_parameters()
    return loss, {name: value.detach() for name, value in named if value.requires_grad}


def value_and_gradient(loss: Loss, params: Params, batch: Any) -> tuple[torch.Tensor, Params]:
    """The loss, and its gradient by parameter name."""
    gradient, value = grad_and_value(loss)(params, batch)
    return value, gradient


def hessian_vector(loss: Loss, params: Params, batch: Any, vector: Params) -> Params:
    """The product of the loss's Hessian with `vector`, by forward over reverse.

    If PyTorch has no forward mode for an operation in the loss (its fused attention on the CPU,
    `mse_loss`), reverse over reverse is used. The value is the same; it needs the graph of one
    gradient.
    """

    def gradient(point: Params) -> Params:
        result: Params = grad(loss)(point, batch)
        return result

    product: Params
    random = RandomState.now()
    try:
        product = jvp(gradient, (params,), (vector,))[1]
    except RuntimeError as error:
        lacks_forward_mode = isinstance(error, NotImplementedError) or "ZeroTensors" in str(error)
        if isinstance(error, Error) or not lacks_forward_mode:
            raise
        with random.restored():
            product = vjp(gradient, params)[1](vector)[0]
    return product
