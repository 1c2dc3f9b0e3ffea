"""Attention for JAX, in this process or by a Theria server, differentiable twice and exactly.

`dot_product_attention` takes the arguments of `jax.nn.dot_product_attention` and more options.
`jax.grad`, `jvp`, `vjp`, `jacfwd`, `jacrev`, `hessian`, `linearize`, `vmap`, `jit`, `checkpoint`
and `lax.scan` compose with it and with each other: both modes, forward over reverse, reverse over
reverse and reverse over forward, each one call. query, key, value and bias are differentiated, and
so is the log-sum-exp. A third derivative, and forward over forward, are refused with
`DerivativeOrderError` while JAX traces.

    from theria.jax import dot_product_attention, set_default_client

    set_default_client(theria.connect("localhost:50051"))
    hessian = jax.hessian(lambda q: dot_product_attention(q, k, v, is_causal=True).sum())(q)

float64 needs `jax.config.update("jax_enable_x64", True)`.

With a client of `theria.local`, which is the default without a server, XLA calls the kernels as
custom calls (`jax.ffi`): compiled code has no host callback, arrays stay on their device, and calls
are divided among devices by batch and heads, under `jit` with sharded arrays and in `shard_map`. A
server is called back from the host; arrays of other devices travel through its memory. A compiled
function keeps the kind of client that was the default when it was compiled.

Errors: `theria.Error` and its subclasses, from the server or the client; here also
`DerivativeOrderError` and `NoClientError`. In process, wrong shapes, dtypes and options are found
while JAX traces or compiles. An error that a compiled function meets when it runs is a
`jax.errors.JaxRuntimeError` with the original in its message.
"""

from theria._default_client import default_client, set_default_client
from theria._differentiation_errors import DerivativeOrderError, NoClientError
from theria.jax._attention import dot_product_attention

__all__ = [
    "DerivativeOrderError",
    "NoClientError",
    "default_client",
    "dot_product_attention",
    "set_default_client",
]
