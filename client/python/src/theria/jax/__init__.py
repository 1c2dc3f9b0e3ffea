"""Attention for JAX, computed by a Theria server, differentiable twice and exactly.

`dot_product_attention` takes the arguments of `jax.nn.dot_product_attention`. `jax.grad`, `jvp`,
`vjp`, `jacfwd`, `jacrev`, `hessian`, `linearize`, `vmap`, `jit`, `checkpoint` and `lax.scan`
compose with it and with each other: both modes, forward over reverse, reverse over reverse and
reverse over forward, each one RPC. A third derivative, and forward over forward, are refused with
`DerivativeOrderError` while JAX traces.

    from theria.jax import dot_product_attention, set_default_client

    set_default_client(theria.connect("localhost:50051"))
    hessian = jax.hessian(lambda q: dot_product_attention(q, k, v, is_causal=True).sum())(q)

float64 needs `jax.config.update("jax_enable_x64", True)`. The server is called from the host:
arrays of other devices travel through its memory.

Errors: `theria.Error` and its subclasses, from the server or the client; here also
`DerivativeOrderError`, `MaskGradientError` and `NoClientError`. What the server finds wrong in a
compiled function comes as JAX reports the errors of host callbacks: a `jax.errors.JaxRuntimeError`
with the original in its message.
"""

from theria._default_client import default_client, set_default_client
from theria._differentiation_errors import DerivativeOrderError, MaskGradientError, NoClientError
from theria.jax._attention import dot_product_attention

__all__ = [
    "DerivativeOrderError",
    "MaskGradientError",
    "NoClientError",
    "default_client",
    "dot_product_attention",
    "set_default_client",
]
