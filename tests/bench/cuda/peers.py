"""What PyTorch and its neighbours offer for the four operations, to be timed beside ours.

A peer is prepared with the inputs of a problem and gives a function of no arguments, whose result
is its outputs by the contract's names (`o_dot`, `q_bar`, ...). Preparing or calling raises where a
peer cannot serve the problem.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = dict[str, torch.Tensor]
Run = Callable[[], Tensors]

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PEERS_OF = {
    "forward": tuple(SDPA),
    "vjp": tuple(SDPA),
    "jvp": ("eager", "compile", "jvp_flash"),
    "hvp": ("eager", "compile"),
}
# By what they cost to time: one kernel, products of all scores, seconds of compilation before.
FUSED = ("flash", "cudnn", "efficient")
EXPLICIT = ("math", "eager")
COMPILED = ("compile", "jvp_flash")


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """softmax(scale q k^T + mask) v by explicit operations."""
    s = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if causal:
        rows = torch.arange(s.shape[-2], device=s.device).view(-1, 1)
        s = s.masked_fill(torch.arange(s.shape[-1], device=s.device) > rows, -torch.inf)
    return torch.softmax(s, dim=-1) @ v


def _jvp(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def jvp(q, k, v, q_dot, k_dot, v_dot):  # type: ignore[no-untyped-def]
        return torch.func.jvp(function, (q, k, v), (q_dot, k_dot, v_dot))

    return jvp


def _hvp(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def gradients(q, k, v, o_bar):  # type: ignore[no-untyped-def]
        o, pull = torch.func.vjp(function, q, k, v)
        return o, pull(o_bar)

    def hvp(q, k, v, o_bar, q_dot, k_dot, v_dot, o_bar_dot):  # type: ignore[no-untyped-def]
        return torch.func.jvp(gradients, (q, k, v, o_bar), (q_dot, k_dot, v_dot, o_bar_dot))

    return hvp


def _prepare_sdpa(name: str, operation: str, inputs: Tensors, causal: bool) -> Run:
    q, k, v = (inputs[n].detach().requires_grad_() for n in ("q", "k", "v"))

    def attention() -> torch.Tensor:
        with sdpa_kernel(SDPA[name]):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def forward() -> Tensors:
        with torch.no_grad():
            return {"o": attention()}

    if operation == "forward":
        return forward
    o = attention()

    def backward() -> Tensors:
        gradients = torch.autograd.grad(o, (q, k, v), inputs["o_bar"], retain_graph=True)
        return dict(zip(("q_bar", "k_bar", "v_bar"), gradients, strict=True))

    return backward


def _prepare_jvp(jvp: Callable[..., Any], inputs: Tensors) -> Run:
    arguments = [inputs[name] for name in ("q", "k", "v", "q_dot", "k_dot", "v_dot")]

    def run() -> Tensors:
        o, o_dot = jvp(*arguments)
        return {"o": o, "o_dot": o_dot}

    return run


def _prepare_hvp(hvp: Callable[..., Any], inputs: Tensors) -> Run:
    order = ("q", "k", "v", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
    arguments = [inputs[name] for name in order]
    names = ("q_bar", "k_bar", "v_bar")

    def run() -> Tensors:
        (o, gradients), (o_dot, tangents) = hvp(*arguments)
        outputs = {"o": o, "o_dot": o_dot}
        outputs.update(zip(names, gradients, strict=True))
        outputs.update(zip((f"{name}_dot" for name in names), tangents, strict=True))
        return outputs

    return run


def prepare(name: str, operation: str, inputs: Tensors, causal: bool) -> Run:
    """The function of the peer `name`; inputs `[batch, heads, seq, dim]` on the GPU.

    The VJP's has its forward pass behind it. Raises what the peer raises, and ModuleNotFoundError
    where it is not installed.
    """
    if name in SDPA:
        return _prepare_sdpa(name, operation, inputs, causal)
    if name == "jvp_flash":
        if importlib.util.find_spec("jvp_flash_attention") is None:
            raise ModuleNotFoundError("not installed")
        from jvp_flash_attention.jvp_attention import JVPAttn

        return _prepare_jvp(_jvp(lambda *x: JVPAttn.fwd_dual(*x, causal=causal)), inputs)

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return explicit(q, k, v, causal)

    run = _jvp(function) if operation == "jvp" else _hvp(function)
    if name == "compile":
        torch._dynamo.reset()
        run = torch.compile(run, dynamic=False)
    return _prepare_jvp(run, inputs) if operation == "jvp" else _prepare_hvp(run, inputs)
