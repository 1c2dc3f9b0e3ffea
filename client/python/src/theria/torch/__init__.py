"""Attention for PyTorch, computed by a Theria server, differentiable twice and exactly.

`sdpa` takes the arguments of `torch.nn.functional.scaled_dot_product_attention`, `sdpa_varlen`
those of `flash_attn.flash_attn_varlen_func`. A floating-point mask is differentiated as query, key
and value are, and so is the log-sum-exp where it is returned. The derivatives
are RPCs of their own, so every way of composing two of them is exact:

===========================  =======================================================
what PyTorch asks for        what is called
===========================  =======================================================
forward                      Forward
backward                     Vjp
forward mode                 Jvp
double backward              Hvp (its `o_dot` is the gradient of the cotangent)
forward over reverse         Hvp
reverse over forward         Hvp
===========================  =======================================================

`torch.autograd` (`create_graph=True`, `forward_ad`) and `torch.func` (`grad`, `vjp`, `jvp`,
`vmap`, `jacfwd`, `jacrev`, `hessian`, `linearize`) all work, and so do `make_fx`, `torch.compile`,
`torch.export` and `torch.jit.trace`: the four calls are operators of `torch.library`. `patch` puts
`sdpa` in the place of PyTorch's function, for modules as they are. A third derivative, and forward
over forward, are refused with `DerivativeOrderError`.

Errors: `theria.Error` and its subclasses, from the server or the client; here also
`DerivativeOrderError` and `NoClientError`.
"""

from theria._default_client import default_client, set_default_client
from theria._differentiation_errors import DerivativeOrderError, NoClientError
from theria.torch._patch import patch
from theria.torch._sdpa import sdpa
from theria.torch._varlen import sdpa_varlen

__all__ = [
    "DerivativeOrderError",
    "NoClientError",
    "default_client",
    "patch",
    "sdpa",
    "sdpa_varlen",
    "set_default_client",
]
