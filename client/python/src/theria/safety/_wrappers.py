"""Ways in which code around attention, or its backward, loses derivatives.

All of them compute the same attention, bit for bit. They differ in the graph that autograd records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from theria.safety._explicit import explicit_attention, explicit_vjp
from theria.safety._problem import Attention

__all__ = ["WRAPPERS", "raw_kernel_backward"]

_Tensors = tuple[torch.Tensor, ...]


def output_detached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The output is detached, as for a target or a cache."""
    return explicit_attention(q, k, v).detach()


def under_no_grad(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention runs under `torch.no_grad`."""
    with torch.no_grad():
        return explicit_attention(q, k, v)


def logit_statistics_detached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The row statistics of the softmax come from detached logits."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    p: torch.Tensor = (scores - scores.detach().logsumexp(-1, keepdim=True)).exp()
    return p @ v


def probabilities_detached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The softmax's output is detached."""
    return torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1).detach() @ v


def query_detached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The queries are detached."""
    return explicit_attention(q.detach(), k, v)


def keys_detached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The keys are detached."""
    return explicit_attention(q, k.detach(), v)


def values_detached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The values are detached."""
    return explicit_attention(q, k, v.detach())


def checkpointed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """`torch.utils.checkpoint` around attention."""
    return checkpoint(explicit_attention, q, k, v, use_reentrant=False)  # type: ignore[no-any-return]


def checkpointed_reentrant(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """`torch.utils.checkpoint` in its older, reentrant variant."""
    return checkpoint(explicit_attention, q, k, v, use_reentrant=True)  # type: ignore[no-any-return]


def checkpointed_no_grad(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """`torch.utils.checkpoint` around attention under `torch.no_grad`."""
    return checkpoint(under_no_grad, q, k, v, use_reentrant=False)  # type: ignore[no-any-return]


def _detach_and_recompute(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor
) -> _Tensors:
    with torch.enable_grad():
        qkv = [x.detach().requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad(explicit_attention(*qkv), qkv, o_bar)


def _logits_under_no_grad(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor
) -> _Tensors:
    with torch.no_grad():
        p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    return _from_probabilities(p, q, k, v, o_bar)


def _logits_detached(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor
) -> _Tensors:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return _from_probabilities(torch.softmax(scores.detach(), -1), q, k, v, o_bar)


def _saved_statistics(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor
) -> _Tensors:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    lse = scores.detach().logsumexp(-1, keepdim=True)
    return _from_probabilities((scores - lse).exp(), q, k, v, o_bar)


def _raw_kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor) -> _Tensors:
    fresh = [torch.empty_like(x) for x in (q, k, v)]
    results = explicit_vjp(*(x.detach() for x in (q, k, v, o_bar)))  # stands for the launch
    for buffer, result in zip(fresh, results, strict=True):
        buffer.copy_(result)
    return tuple(fresh)


def _from_probabilities(
    p: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o_bar: torch.Tensor
) -> _Tensors:
    delta = (o_bar * (p @ v)).sum(-1, keepdim=True)
    s_bar = p * (o_bar @ v.mT - delta) / q.shape[-1] ** 0.5
    return s_bar @ k, s_bar.mT @ q, p.mT @ o_bar


def _with_backward(rule: Callable[..., _Tensors], once: bool = False) -> Attention:
    """Attention as an autograd function with a hand-written backward, like bindings of kernels."""

    def backward(ctx: Any, o_bar: torch.Tensor) -> _Tensors:
        return rule(*ctx.saved_tensors, o_bar)

    def setup_context(ctx: Any, inputs: Any, _output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    members = {
        "forward": staticmethod(explicit_attention),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(once_differentiable(backward) if once else backward),
    }
    function: Any = type("WrittenBackward", (torch.autograd.Function,), members)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return function.apply(q, k, v)  # type: ignore[no-any-return]

    return attention


raw_kernel_backward = _with_backward(_raw_kernel)

WRAPPERS: dict[str, Attention] = {
    "output detached": output_detached,
    "under no_grad": under_no_grad,
    "q detached": query_detached,
    "k detached": keys_detached,
    "v detached": values_detached,
    "softmax statistics from detached logits": logit_statistics_detached,
    "softmax output detached": probabilities_detached,
    "checkpoint": checkpointed,
    "checkpoint, reentrant": checkpointed_reentrant,
    "checkpoint of no_grad": checkpointed_no_grad,
    "backward: detach and recompute": _with_backward(_detach_and_recompute),
    "backward: logits under no_grad": _with_backward(_logits_under_no_grad),
    "backward: logits detached": _with_backward(_logits_detached),
    "backward: saved statistics": _with_backward(_saved_statistics),
    "backward: once_differentiable": _with_backward(explicit_vjp, once=True),
    "backward: raw kernel into fresh tensors": raw_kernel_backward,
}
