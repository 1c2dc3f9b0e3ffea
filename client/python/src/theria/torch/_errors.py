"""The errors of the PyTorch binding.

theria.Error
├── DerivativeOrderError   a derivative that the four operations do not give
├── MaskGradientError      a derivative with respect to `attn_mask`
└── NoClientError          `sdpa` called without a client, and no default set
"""

import theria

__all__ = ["DerivativeOrderError", "MaskGradientError", "NoClientError"]


class DerivativeOrderError(theria.Error):
    """The derivative is of third order, or forward mode over forward mode."""


class MaskGradientError(theria.Error):
    """`attn_mask` requires a gradient or carries a tangent; it is a constant of the operator."""


class NoClientError(theria.Error):
    """No client was given, none was set as default, and THERIA_TARGET is not in the environment."""
