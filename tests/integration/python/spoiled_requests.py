"""Valid requests, and the edits that spoil them.

Requests are raw: bytes, or messages that no client of ours would make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from theria.v1 import attention_pb2 as attention
from theria.v1 import tensor_pb2

ATTENTION = "/theria.v1.AttentionService"


@dataclass
class Bad:
    """One bad request.

    Attributes:
        name: Of the test.
        path: The method.
        request: Message or bytes; a list of them for a client stream.
        code: Name of the status code.
        field: First violation's field; None if the status must not have one.
        missing: Handles that must be named as missing.
        timeout: Of the call, seconds.
    """

    name: str
    path: str
    request: Any
    code: str = "INVALID_ARGUMENT"
    field: str | None = None
    missing: tuple[str, ...] = ()
    timeout: float = 20.0


def tensor(*shape: int, dtype: Any = np.float32) -> tensor_pb2.Tensor:
    """A valid tensor of ones."""
    wire = {"float32": tensor_pb2.FLOAT32, "float64": tensor_pb2.FLOAT64, "bool": tensor_pb2.BOOL}
    array = np.ones(shape, dtype)
    return tensor_pb2.Tensor(dtype=wire[array.dtype.name], shape=shape, data=array.tobytes())


def attend(request: Any, edit: Callable[[Any], None] | None) -> Any:
    """Makes a request of the four operations valid, then spoils it."""
    request.q.CopyFrom(tensor(1, 2, 3, 4))
    request.k.CopyFrom(tensor(1, 2, 3, 4))
    request.v.CopyFrom(tensor(1, 2, 3, 4))
    if hasattr(request, "o_bar"):
        request.o_bar.CopyFrom(tensor(1, 2, 3, 4))
    if edit is not None:
        edit(request)
    return request


def valid_requests() -> list[tuple[str, Any]]:
    """The requests that the table's entries are made from, by path."""
    return [
        (f"{ATTENTION}/Forward", attend(attention.ForwardRequest(), None)),
        (f"{ATTENTION}/Vjp", attend(attention.VjpRequest(), None)),
        (f"{ATTENTION}/Jvp", attend(attention.JvpRequest(), None)),
        (f"{ATTENTION}/Hvp", attend(attention.HvpRequest(), None)),
    ]


def forward(name: str, field: str | None, edit: Callable[[Any], None], **more: Any) -> Bad:
    request = attend(attention.ForwardRequest(), edit)
    return Bad(f"forward: {name}", f"{ATTENTION}/Forward", request, field=field, **more)


def vjp(name: str, field: str | None, edit: Callable[[Any], None], **more: Any) -> Bad:
    request = attend(attention.VjpRequest(), edit)
    return Bad(f"vjp: {name}", f"{ATTENTION}/Vjp", request, field=field, **more)


def jvp(name: str, field: str | None, edit: Callable[[Any], None], **more: Any) -> Bad:
    request = attend(attention.JvpRequest(), edit)
    return Bad(f"jvp: {name}", f"{ATTENTION}/Jvp", request, field=field, **more)


def hvp(name: str, field: str | None, edit: Callable[[Any], None], **more: Any) -> Bad:
    request = attend(attention.HvpRequest(), edit)
    return Bad(f"hvp: {name}", f"{ATTENTION}/Hvp", request, field=field, **more)


def put(path: str, value: Any) -> Callable[[Any], None]:
    """An edit: sets a field by its path; messages are copied, lists replace repeated fields."""

    def edit(request: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            request = getattr(request, parent)
        if value is None:
            request.ClearField(last)
        elif isinstance(value, list):
            request.ClearField(last)
            getattr(request, last).extend(value)
        elif hasattr(value, "SerializeToString"):
            getattr(request, last).CopyFrom(value)
        else:
            setattr(request, last, value)

    return edit


def both(*edits: Callable[[Any], None]) -> Callable[[Any], None]:
    def edit(request: Any) -> None:
        for e in edits:
            e(request)

    return edit


def resident(handle: str, **fields: Any) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(handle=handle, **fields)


def repeated(*shape: int) -> tensor_pb2.Tensor:
    """One element, repeated by strides of 0."""
    return tensor_pb2.Tensor(
        dtype=tensor_pb2.FLOAT32, shape=shape, strides=[0] * len(shape), data=b"\0\0\0\0"
    )
