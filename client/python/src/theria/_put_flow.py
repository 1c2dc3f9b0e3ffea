"""The flows of `put` and `get`."""

from __future__ import annotations

from typing import Any

from theria._arrays import ArrayLike, host_tensor, to_framework
from theria._options import milliseconds
from theria._resident import ResidentTensor, Retain, Source
from theria._session import Session
from theria._shared_memory import SharedRegion
from theria._steps import Deadline, Flow
from theria._store_flows import download, fingerprint, upload

__all__ = ["get", "put"]


def put(
    session: Session,
    deadline: Deadline,
    value: ArrayLike,
    *,
    ttl: float | None,
    pin: float | None,
    content_address: bool,
    retain: Retain,
) -> Flow[ResidentTensor]:
    """Uploads `value`. The result keeps its source according to `retain`."""
    host = host_tensor(value, "tensor")
    ttl_ms = milliseconds(ttl, "ttl")
    pin_ms = milliseconds(pin, "pin")
    resident = yield from upload(
        session, deadline, host, ttl_ms=ttl_ms, pin_ms=pin_ms, content_address=content_address
    )
    if retain != "none":
        resident.source = Source(
            host,
            session,
            value if retain == "weak" else None,
            fingerprint=fingerprint(host, content_address=content_address),
            ttl_ms=ttl_ms,
            pin_ms=pin_ms,
            content_address=content_address,
        )
    return resident


def get(
    session: Session,
    deadline: Deadline,
    tensor: ResidentTensor | str,
    region: SharedRegion | None = None,
) -> Flow[Any]:
    """Downloads a tensor into an array of its original framework."""
    framework = "numpy" if isinstance(tensor, str) else tensor.framework
    array = yield from download(session, deadline, tensor, region)
    return to_framework(array, framework)
