"""Whether an attention can be differentiated twice, decided by value.

`classify` measures forward, VJP, JVP, HVP (forward over reverse) and double backward (reverse over
reverse) of a callable and compares each with float64. That a derivative exists says little: a
backward that writes its kernel's results into fresh tensors is differentiable again, and gives
zero. A value that is off is therefore compared with every way of losing a part (q, k, v, the
probabilities, the row statistics), and the part is named.

    from theria.safety import classify

    result = classify(my_attention)
    result.exact, result.silent_loss, result.findings["double_backward"].lost

The command surveys PyTorch's backends, FlexAttention, the code around attention that is known to
destroy derivatives, and a Theria server:

    python -m theria.safety --target localhost:50051 --out build/safety
    python -m theria.safety --attention my_module:my_attention --out build/safety

docs/higher_order_safety.md is what it found.
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
