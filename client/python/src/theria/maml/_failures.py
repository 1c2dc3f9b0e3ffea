"""Errors of a server leave this package as they are, without the frames of autograd."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from theria._errors import SERVER_FAILURES

__all__ = ["short_traceback"]

P = ParamSpec("P")
R = TypeVar("R")


def short_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose errors of the server have no traceback within it.

    A hundred lines of autograd and functorch would say nothing about a server that is gone. Other
    errors, such as InvalidArgument, keep theirs: it shows where in the model they arise.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except SERVER_FAILURES as error:
            raise error.with_traceback(None) from None

    return run
