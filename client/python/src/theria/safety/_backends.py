"""The attention implementations in use: PyTorch's backends, FlexAttention, and Theria."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import theria
from theria.safety._problem import Attention
from theria.torch import sdpa

__all__ = ["theria_backends", "torch_backends"]

_TORCH = {
    "PyTorch, math": SDPBackend.MATH,
    "PyTorch, flash": SDPBackend.FLASH_ATTENTION,
    "PyTorch, efficient": SDPBackend.EFFICIENT_ATTENTION,
    "PyTorch, cuDNN": SDPBackend.CUDNN_ATTENTION,
}


def torch_backends(device: str) -> dict[str, Attention]:
    """The implementations by name. A call shows whether one supports a dtype on `device`."""
    backends: dict[str, Attention] = {
        name: partial(_with_kernel, backend) for name, backend in _TORCH.items()
    }
    try:
        from torch.nn.attention.flex_attention import flex_attention
    except ImportError:  # before PyTorch 2.5
        return backends

    def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flex_attention(q, k, v)  # type: ignore[return-value]

    backends["FlexAttention"] = flex
    if torch.device(device).type == "cuda":
        backends["FlexAttention, compiled"] = torch.compile(flex, dynamic=False)
    return backends


def theria_backends(client: theria.Client) -> dict[str, Attention]:
    """The implementations for which the server has kernels, by name."""
    served = {kernel.implementation for kernel in client.info().kernels}
    names: list[theria.Implementation] = ["fused", "unfused", "reference"]
    return {f"Theria, {n}": partial(_on_server, client, n) for n in names if n in served}


def _with_kernel(
    backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v)


def _on_server(
    client: theria.Client,
    implementation: theria.Implementation,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
) -> torch.Tensor:
    o: torch.Tensor = sdpa(q, k, v, client=client, implementation=implementation)
    return o
