"""Calls as flows, which describe the steps of a call independently of how to wait for them.

A flow is a generator. It yields steps (one RPC, or a sleep), receives their results or errors, and
returns the result of the call. The blocking and the asyncio client run the same flows; only
`run_flow` in `_remote_client.py` and in `aio.py` differs.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from theria._errors import DeadlineExceeded, InvalidArgument, Unavailable

__all__ = [
    "ATTENTION_SERVICE",
    "SERVER_SERVICE",
    "SHARED_MEMORY_SERVICE",
    "TENSOR_SERVICE",
    "Call",
    "Deadline",
    "Download",
    "Flow",
    "Method",
    "RetryPolicy",
    "Sleep",
    "Step",
    "Upload",
    "retrying",
]

ATTENTION_SERVICE = "theria.v1.AttentionService"
TENSOR_SERVICE = "theria.v1.TensorService"
SERVER_SERVICE = "theria.v1.ServerService"
SHARED_MEMORY_SERVICE = "theria.v1.SharedMemoryService"

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Method(Generic[RequestT, ResponseT]):
    """An RPC: its path and the classes of its messages."""

    path: str
    request: type[RequestT]
    response: type[ResponseT]


@dataclass(frozen=True)
class Call:
    """A unary RPC; its result is the response. `timeout` in seconds, None for none."""

    method: Method[Any, Any]
    request: Any
    timeout: float | None


@dataclass(frozen=True)
class Upload:
    """A client-streaming RPC; its result is the response."""

    method: Method[Any, Any]
    requests: Iterable[Any]
    timeout: float | None


@dataclass(frozen=True)
class Download:
    """A server-streaming RPC; each response is passed to `receive`, the result is None."""

    method: Method[Any, Any]
    request: Any
    receive: Callable[[Any], None]
    timeout: float | None


@dataclass(frozen=True)
class Sleep:
    """A wait; its result is None."""

    seconds: float


Step: TypeAlias = "Call | Upload | Download | Sleep"
Flow: TypeAlias = Generator[Step, Any, T]


class Deadline:
    """The end of a call: `timeout` seconds from now, or never.

    Raises:
        InvalidArgument: `timeout` is not a number.
    """

    def __init__(self, timeout: float | None):
        if timeout is not None and not (isinstance(timeout, Real) and timeout == timeout):
            raise InvalidArgument.of(
                "timeout", f"timeout is {timeout!r}, must be a number of seconds"
            )
        self._end = math.inf if timeout is None else time.monotonic() + timeout

    def remaining(self) -> float | None:
        """Seconds left, None for no end. Raises DeadlineExceeded if there are none."""
        if math.isinf(self._end):
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the timeout passed before the request was sent")
        return left

    def allows(self, seconds: float) -> bool:
        """Whether a wait of `seconds` ends before the deadline."""
        return time.monotonic() + seconds < self._end


@dataclass(frozen=True)
class RetryPolicy:
    """When to retry after UNAVAILABLE. No other error is retried.

    The wait before attempt n + 1 is ``min(max_backoff, initial_backoff * multiplier**(n - 1))``
    seconds, shortened at random by up to the fraction `jitter`. It never exceeds the call's
    timeout. With the defaults, a call fails after 4.1 to 5.2 seconds, even if its timeout is
    longer, so calls survive a restart of four seconds. Permanent failures (`Unavailable.is_final`)
    are not retried.
    """

    max_attempts: int = 8
    initial_backoff: float = 0.05
    max_backoff: float = 2.0
    multiplier: float = 2.0
    jitter: float = 0.2

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        wait = min(self.max_backoff, self.initial_backoff * self.multiplier ** (attempt - 1))
        return wait * (1 - self.jitter * random.random())


def retrying(
    policy: RetryPolicy, deadline: Deadline, step: Callable[[float | None], Step]
) -> Flow[Any]:
    """Runs the step that `step` returns for the remaining seconds; repeats it while Unavailable."""
    attempt = 1
    while True:
        try:
            return (yield step(deadline.remaining()))
        except Unavailable as error:
            wait = policy.backoff(attempt)
            if error.is_final or attempt >= policy.max_attempts or not deadline.allows(wait):
                raise
        yield Sleep(wait)
        attempt += 1
