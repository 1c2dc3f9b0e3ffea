"""Model-agnostic meta-learning with exact meta-gradients, for any PyTorch model.

A model is a function ``loss(params, batch) -> scalar``; `from_module` creates one from a
`torch.nn.Module`. The inner loop is theta_{t+1} = theta_t - alpha * grad L_support(theta_t).
`meta_gradient` computes d L_query(theta_K) / d theta_0 by one of two methods:

* The adjoint method (default): lambda_K = grad L_query(theta_K),
  lambda_t = lambda_{t+1} - alpha * H_support(theta_t) lambda_{t+1}. It takes one Hessian-vector
  product per step, by forward over reverse, and keeps no graph. Memory grows only by the parameters
  of each inner step, or of every n-th step.
* Differentiation of the unrolled loop, for comparison. The value is the same, and memory is linear
  in the activations of all steps.

Both work with attention by `theria.torch.sdpa`. Other functions: `meta_batch_gradient` for several
tasks, in sequence or together; `InnerLoop(backward_steps=n)` for truncated meta-gradients;
`implicit_meta_gradient` at the inner optimum, by conjugate gradients; and `meta_train`, which can
start with first-order steps and continue with exact ones.

    loss, params = theria.maml.from_module(model, torch.nn.functional.cross_entropy)
    result = theria.maml.meta_gradient(loss, params, Task(support, query), InnerLoop(steps=5))
    result.gradient["layer.weight"], result.loss

`theria.maml.tasks` has the attention classifier and the synthetic task of the experiments.
"""

from theria.maml._adjoint import InnerLoop, Trajectory, adapt
from theria.maml._diagnostics import Diagnostics, diagnose, rel_diff
from theria.maml._implicit import (
    ConjugateGradients,
    ImplicitMetaGradient,
    implicit_meta_gradient,
)
from theria.maml._meta_batch import MetaBatchGradient, meta_batch_gradient
from theria.maml._meta_gradient import MetaGradient, Method, Mode, Task, meta_gradient
from theria.maml._model import Loss, Params, from_module
from theria.maml._train import OuterStep, meta_train

__all__ = [
    "ConjugateGradients",
    "Diagnostics",
    "ImplicitMetaGradient",
    "InnerLoop",
    "Loss",
    "MetaBatchGradient",
    "MetaGradient",
    "Method",
    "Mode",
    "OuterStep",
    "Params",
    "Task",
    "Trajectory",
    "adapt",
    "diagnose",
    "from_module",
    "implicit_meta_gradient",
    "meta_batch_gradient",
    "meta_gradient",
    "meta_train",
    "rel_diff",
]
