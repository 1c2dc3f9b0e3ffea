"""Removes the frames of autograd from the traceback of server errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from theria._errors import SERVER_FAILURES

__all__ = ["short_traceback"]

P = ParamSpec("P")
R = TypeVar("R")


def short_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with server errors that have no traceback within it.

    A hundred lines of autograd and functorch do not help if the server is unreachable. Other
    errors, such as InvalidArgument, keep their traceback, which shows their place in the model.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except SERVER_FAILURES as error:
            raise error.with_traceback(None) from None

    return run
