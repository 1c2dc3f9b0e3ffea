"""Errors of differentiating attention in a framework, in addition to those of `_errors.py`.

theria.Error (RuntimeError)
├── DerivativeOrderError (NotImplementedError)   a derivative beyond the four operations
└── NoClientError                                no client was given, and there is no default
"""

from theria._errors import Error

__all__ = ["DerivativeOrderError", "NoClientError"]


class DerivativeOrderError(Error, NotImplementedError):
    """The derivative is of third order, or forward mode over forward mode."""


class NoClientError(Error):
    """No client was given, there is no default, and theria-kernels is not installed."""
