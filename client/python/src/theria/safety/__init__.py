"""Checks by value whether an attention function can be differentiated twice.

`classify` measures forward, VJP, JVP, HVP (forward over reverse) and double backward (reverse over
reverse) of a callable and compares each with float64. The existence of a derivative does not show
that it is right: a backward that writes its kernel's results into new tensors is differentiable
again, with a derivative of zero. A wrong value is therefore compared with the values that result
from treating parts (q, k, v, the probabilities, the row statistics) as constants, and the part that
matches is reported.

    from theria.safety import classify

    result = classify(my_attention)
    result.exact, result.silent_loss, result.findings["double_backward"].lost

The command surveys PyTorch's backends, FlexAttention, code around attention that is known to lose
derivatives, and a Theria server:

    python -m theria.safety --target localhost:50051 --out build/safety
    python -m theria.safety --attention my_module:my_attention --out build/safety

docs/higher_order_safety.md has the results.
"""

from theria.safety._backends import theria_backends, torch_backends
from theria.safety._classify import Classification, Finding, Verdict, classify
from theria.safety._explicit import BACKWARD_PARTS, FORWARD_PARTS, explicit_attention
from theria.safety._measure import OPERATIONS, OUTPUTS
from theria.safety._meta_gradient import MetaLoss, meta_loss
from theria.safety._problem import Attention, Problem
from theria.safety._wrappers import WRAPPERS

__all__ = [
    "BACKWARD_PARTS",
    "FORWARD_PARTS",
    "OPERATIONS",
    "OUTPUTS",
    "WRAPPERS",
    "Attention",
    "Classification",
    "Finding",
    "MetaLoss",
    "Problem",
    "Verdict",
    "classify",
    "explicit_attention",
    "meta_loss",
    "theria_backends",
    "torch_backends",
]
