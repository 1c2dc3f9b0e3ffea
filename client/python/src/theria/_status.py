"""Maps a gRPC status to the exception tree, for all transports. Does not import gRPC."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from theria import _errors as errors

__all__ = ["STATUS_DETAILS_KEY", "error_from_status"]

# Trailing metadata in which gRPC carries a serialised google.rpc.Status.
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_TENSOR_MISSING = "TENSOR_MISSING"
_REGION_MISSING = "REGION_MISSING"

_CLASSES: dict[str, type[errors.Error]] = {
    "INVALID_ARGUMENT": errors.InvalidArgument,
    "OUT_OF_RANGE": errors.InvalidArgument,
    "UNIMPLEMENTED": errors.Unimplemented,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "ABORTED": errors.FailedPrecondition,
    "NOT_FOUND": errors.FailedPrecondition,
    "ALREADY_EXISTS": errors.FailedPrecondition,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "CANCELLED": errors.Cancelled,
    "UNAVAILABLE": errors.Unavailable,
    "PERMISSION_DENIED": errors.AccessDenied,
    "UNAUTHENTICATED": errors.AccessDenied,
    "INTERNAL": errors.Internal,
    "DATA_LOSS": errors.Internal,
    "UNKNOWN": errors.Internal,
}


def error_from_status(
    code: str, message: str, details: bytes | None, request_id: str | None = None
) -> errors.Error:
    """The exception of a failed RPC.

    Args:
        code: Name of the gRPC status code.
        message: The status message.
        details: The trailing metadata `STATUS_DETAILS_KEY`, if any; invalid data is ignored.
        request_id: The server's id of the request, if it sent one.
    """
    status = status_pb2.Status()
    try:
        status.ParseFromString(details or b"")
    except DecodeError:
        status.Clear()

    violations: list[errors.FieldViolation] = []
    missing: list[str] = []
    region_missing = False
    retry_delay: float | None = None
    bad_request = error_details_pb2.BadRequest()
    precondition = error_details_pb2.PreconditionFailure()
    retry_info = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(bad_request):
            violations += [
                errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations
            ]
        elif detail.Unpack(precondition):
            missing += [v.subject for v in precondition.violations if v.type == _TENSOR_MISSING]
            region_missing |= any(v.type == _REGION_MISSING for v in precondition.violations)
        elif detail.Unpack(retry_info):
            retry_delay = retry_info.retry_delay.ToTimedelta().total_seconds()

    message = message or code
    cls = _CLASSES.get(code, errors.Internal)
    if cls is errors.FailedPrecondition and missing:
        return errors.TensorMissing(
            message, handles=tuple(missing), code=code, request_id=request_id
        )
    if cls is errors.FailedPrecondition and region_missing:
        return errors.RegionMissing(message, code=code, request_id=request_id)
    if cls is errors.InvalidArgument:
        return errors.InvalidArgument(
            message, violations=tuple(violations), code=code, request_id=request_id
        )
    if cls is errors.ResourceExhausted:
        return errors.ResourceExhausted(
            message, retry_delay=retry_delay, code=code, request_id=request_id
        )
    return cls(message, code=code, request_id=request_id)
