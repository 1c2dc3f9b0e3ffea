"""The exception tree. All exceptions that this package raises derive from `theria.Error`.

    Error (RuntimeError)                .code .message .request_id
    ├── InvalidArgument (ValueError)    .violations .field    invalid shapes, dtypes or options
    │   └── WrongType (TypeError)                             an argument of a wrong class
    ├── Unimplemented (NotImplementedError)                   valid, but there is no kernel for it
    ├── FailedPrecondition
    │   ├── TensorMissing (LookupError) .handles              unknown, expired, evicted, deleted
    │   └── RegionMissing (LookupError)                       shared memory that the server lost
    ├── ResourceExhausted               .retry_delay          queue, memory or quota is full
    ├── DeadlineExceeded (TimeoutError)                       `timeout` passed
    ├── Cancelled                                             the call was cancelled
    ├── Unavailable (ConnectionError)                         no server, or it is draining
    ├── AccessDenied (PermissionError)                        not authenticated, or not permitted
    └── Internal                                              a fault of the device or the server

The classes in parentheses are additional bases from the standard library. PyTorch and JAX raise
RuntimeError or a subclass for such errors, so code written for them also catches these. Where they
raise ValueError, TypeError or NotImplementedError, so does this package. An error that is detected
before the request is sent (an array of integers, an unknown option value) raises the same
`InvalidArgument` as one that the server detects. `_status.py` maps gRPC's codes to these classes.
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
        message: The description.
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
    """One invalid field of a request.

    Attributes:
        field: Path in the request: ``"k.shape[3]"``, ``"options.dropout.probability"``.
        description: The received and the expected value.
    """

    field: str
    description: str


class InvalidArgument(Error, ValueError):
    """Invalid shapes, strides, dtypes or options.

    Attributes:
        violations: The invalid fields.
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
        """An error about one field, detected before the request is sent."""
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
    """An argument is an object of a class that is not accepted."""


class Unimplemented(Error, NotImplementedError):
    """A valid request for which there is no kernel; the message names what is supported."""

    code = "UNIMPLEMENTED"


class FailedPrecondition(Error):
    """The server is not in the state that the request requires."""

    code = "FAILED_PRECONDITION"


class TensorMissing(FailedPrecondition, LookupError):
    """Resident tensors are missing and could not be uploaded again.

    Attributes:
        handles: The handles of the missing tensors: unknown, expired, evicted, deleted, or
            another tenant's.
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
        retry_delay: Seconds after which the server suggests a retry, or None.
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
    """The call's `timeout` passed. If it passed in the queue, nothing was computed."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(Error):
    """The call was cancelled."""

    code = "CANCELLED"


class Unavailable(Error, ConnectionError):
    """No server responded, or it is draining, and the retries failed too.

    Attributes:
        is_final: Whether an immediate retry would fail in the same way: there was no connection
            within `connect_timeout`, or only one side uses TLS.
    """

    code = "UNAVAILABLE"
    is_final: bool = False


class AccessDenied(Error, PermissionError):
    """The caller is not authenticated, or not permitted to do this."""

    code = "PERMISSION_DENIED"


class Internal(Error):
    """A fault of the device or of the server, or an invalid response."""

    code = "INTERNAL"


# Errors that do not depend on the request or the model: this caller cannot use the server now.
SERVER_FAILURES = (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
)
