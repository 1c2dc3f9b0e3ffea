"""The exception tree. Everything that this package raises on purpose is a `theria.Error`.

    Error (RuntimeError)                .code .message .request_id
    ├── InvalidArgument (ValueError)    .violations .field    shapes, dtypes, options do not fit
    │   └── WrongType (TypeError)                             an argument of a class not accepted
    ├── Unimplemented (NotImplementedError)                   valid, but this server has no kernel
    ├── FailedPrecondition
    │   ├── TensorMissing (LookupError) .handles              unknown, expired, evicted, deleted
    │   └── RegionMissing (LookupError)                       shared memory that the server lost
    ├── ResourceExhausted               .retry_delay          queue, memory or quota is full
    ├── DeadlineExceeded (TimeoutError)                       `timeout` passed
    ├── Cancelled                                             the call was cancelled
    ├── Unavailable (ConnectionError)                         no server, or it drains; was retried
    ├── AccessDenied (PermissionError)                        not authenticated, or not permitted
    └── Internal                                              a fault of the device or the server

The classes in parentheses are further bases from the standard library. PyTorch and JAX report all
of these as RuntimeError or a subclass, so code written for them catches ours too; where they raise
ValueError, TypeError or NotImplementedError, so do we. A misuse that never reaches the server (an
array of integers, an unknown option value) raises the same `InvalidArgument` as one that the server
finds. `_status.py` is the one place that turns gRPC's codes into these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import Self

__all__ = [
    "SERVER_FAILURES",
    "AccessDenied",
    "Cancelled",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "FieldViolation",
    "Internal",
    "InvalidArgument",
    "RegionMissing",
    "ResourceExhausted",
    "TensorMissing",
    "Unavailable",
    "Unimplemented",
    "WrongType",
]


class Error(RuntimeError):
    """Base of all exceptions of this package.

    Attributes:
        code: The gRPC status code's name, such as ``"INVALID_ARGUMENT"``.
        message: What happened, in words.
        request_id: The id of the request in the server's log, or None if the server did not answer.
    """

    code: str = "UNKNOWN"

    def __init__(self, message: str, *, code: str | None = None, request_id: str | None = None):
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class FieldViolation:
    """One thing wrong with a request.

    Attributes:
        field: Path in the request: ``"k.shape[3]"``, ``"options.dropout.probability"``.
        description: What came and what was expected.
    """

    field: str
    description: str


class InvalidArgument(Error, ValueError):
    """Shapes, strides, dtypes or options do not fit the contract.

    Attributes:
        violations: What is wrong, as `FieldViolation`.
        field: The field of the first violation, or the empty string.
    """

    code = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        code: str | None = None,
        request_id: str | None = None,
    ):
        super().__init__(message, code=code, request_id=request_id)
        self.violations = violations

    @classmethod
    def of(cls, field: str, message: str) -> Self:
        """An error about one field that was found before anything was sent."""
        return cls(message, violations=(FieldViolation(field, message),))

    def renamed(self, rename: Callable[[str], str]) -> Self:
        """This error with every field and text passed through `rename`."""
        return type(self)(
            rename(self.message),
            violations=tuple(
                FieldViolation(rename(violation.field), rename(violation.description))
                for violation in self.violations
            ),
            code=self.code,
            request_id=self.request_id,
        )

    @property
    def field(self) -> str:
        """The field of the first violation, or the empty string."""
        return self.violations[0].field if self.violations else ""


class WrongType(InvalidArgument, TypeError):
    """An argument is an object of a class that is not accepted there."""


class Unimplemented(Error, NotImplementedError):
    """A valid request for which this server has no kernel; the message names what it has."""

    code = "UNIMPLEMENTED"


class FailedPrecondition(Error):
    """The server is not in the state that the request needs."""

    code = "FAILED_PRECONDITION"


class TensorMissing(FailedPrecondition, LookupError):
    """Resident tensors are gone and could not be uploaded again.

    Attributes:
        handles: The handles that name no tensor: unknown, expired, evicted, deleted, or another
            tenant's.
    """

    def __init__(
        self,
        message: str,
        *,
        handles: tuple[str, ...] = (),
        code: str | None = None,
        request_id: str | None = None,
    ):
        super().__init__(message, code=code, request_id=request_id)
        self.handles = handles


class RegionMissing(FailedPrecondition, LookupError):
    """The server has lost a region of shared memory: its lease ended, or the server restarted."""


class ResourceExhausted(Error):
    """The queue, the memory or a quota is full.

    Attributes:
        retry_delay: Seconds after which the server thinks a retry worthwhile, or None.
    """

    code = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        retry_delay: float | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ):
        super().__init__(message, code=code, request_id=request_id)
        self.retry_delay = retry_delay


class DeadlineExceeded(Error, TimeoutError):
    """The call's `timeout` passed. If that was before its launch, nothing was computed."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(Error):
    """The call was cancelled."""

    code = "CANCELLED"


class Unavailable(Error, ConnectionError):
    """No server answered, or it drains, also after the retries.

    Attributes:
        is_final: Whether the client knows that trying again soon would fail the same way: nobody
            answered within `connect_timeout`, or client and server disagree on TLS.
    """

    code = "UNAVAILABLE"
    is_final: bool = False


class AccessDenied(Error, PermissionError):
    """The server does not know the caller, or does not permit it this."""

    code = "PERMISSION_DENIED"


class Internal(Error):
    """A fault of the device, of the server, or an answer that breaks the contract."""

    code = "INTERNAL"


# What says nothing about the request or the model: the server cannot be used, now or by this
# caller.
SERVER_FAILURES = (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
)
