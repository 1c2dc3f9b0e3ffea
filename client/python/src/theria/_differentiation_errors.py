"""The errors that differentiating attention in a framework adds to the tree of `_errors.py`.

theria.Error
├── DerivativeOrderError   a derivative that the four operations do not give
├── MaskGradientError      a derivative with respect to the mask or bias
└── NoClientError          attention called without a client, and there is no default
"""

import theria

__all__ = ["DerivativeOrderError", "MaskGradientError", "NoClientError"]


class DerivativeOrderError(theria.Error):
    """The derivative is of third order, or forward mode over forward mode."""


class MaskGradientError(theria.Error):
    """The mask or bias requires a gradient or carries a tangent; it is a constant."""


class NoClientError(theria.Error):
    """No client was given, there is no default, and theria-kernels is not installed."""
