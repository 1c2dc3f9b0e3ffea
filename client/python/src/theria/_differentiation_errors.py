"""Errors of differentiating attention in a framework, in addition to those of `_errors.py`.

theria.Error (RuntimeError)
├── DerivativeOrderError (NotImplementedError)   a derivative beyond the four operations
├── MaskGradientError (NotImplementedError)      a derivative with respect to the mask or bias
└── NoClientError                                no client was given, and there is no default
"""

from theria._errors import Error

__all__ = ["DerivativeOrderError", "MaskGradientError", "NoClientError"]


class DerivativeOrderError(Error, NotImplementedError):
    """The derivative is of third order, or forward mode over forward mode."""


class MaskGradientError(Error, NotImplementedError):
    """The mask or bias requires a gradient or has a tangent, but it must be a constant."""

    @classmethod
    def of(cls, argument: str, advice: str) -> "MaskGradientError":
        """The error for `argument`; `advice` says how to make it a constant."""
        return cls(
            f"{argument} is a constant of attention: it has no derivative here. {advice}. "
            "A learned bias of low rank r, bias = a @ b.T, can be moved into the scores instead: "
            "append a / scale to query and b to key along the head dimension, which grows by r and "
            "may be at most 512 in all, and pass scale. A bias of full rank needs an attention "
            "that differentiates it, such as PyTorch's or JAX's own"
        )


class NoClientError(Error):
    """No client was given, there is no default, and theria-kernels is not installed."""
