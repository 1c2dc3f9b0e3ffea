"""The flow of forward, vjp, jvp and hvp.

1. Arguments become host tensors (views of the caller's memory) or stay resident tensors.
2. What does not fit into one message goes another way: the largest inputs are uploaded first, the
   largest outputs are left resident and downloaded after.
3. The request is sent; UNAVAILABLE is retried, lost resident tensors are uploaded again once.
4. Outputs become arrays of the framework of `q`, or resident tensors; what step 2 made is deleted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeVar

from theria._arrays import Framework, HostTensor, decode_data, host_tensor, to_framework
from theria._dtypes import decode_dtype
from theria._errors import Internal, InvalidArgument
from theria._operations import OUTPUT_MODES, Layout, Operation, output_layout
from theria._options import (
    CallOptions,
    Operand,
    OutputMode,
    check_names,
    encode_options,
    milliseconds,
    option_tensors,
)
from theria._resident import ResidentTensor, Source
from theria._results import ForwardResult, HvpResult, JvpResult, VjpResult
from theria._server_flows import decode_execution, server_limits
from theria._session import Session
from theria._shared_memory import SharedPlace, SharedRegion, with_regions
from theria._steps import Call, Deadline, Flow, retrying
from theria._store_flows import discard, download, upload, with_repair
from theria.v1 import tensor_pb2

__all__ = ["attention"]

R = TypeVar("R", ForwardResult, VjpResult, JvpResult, HvpResult)
Prepared: TypeAlias = "HostTensor | ResidentTensor"

# Every server takes messages of this size, gRPC's own default; its limit is asked for beyond.
_ALWAYS_FITS_BYTES = 4_000_000
# Room for everything in a message but the elements.
_OVERHEAD_BYTES = 64 * 1024
_OPTIONS = "options."


def attention(
    session: Session,
    operation: Operation[R],
    inputs: Mapping[str, Operand | None],
    options: CallOptions,
) -> Flow[R]:
    """One call.

    Args:
        session: Of the client.
        operation: Which.
        inputs: Tensors by the names of the request's fields; None for absent ones.
        options: As the caller gave them.
    """
    check_names(operation.name, options)
    deadline = session.deadline(options)
    return (
        yield from with_regions(
            session, deadline, lambda: _attempt(session, deadline, operation, inputs, options)
        )
    )


def _attempt(
    session: Session,
    deadline: Deadline,
    operation: Operation[R],
    inputs: Mapping[str, Operand | None],
    options: CallOptions,
) -> Flow[R]:
    tensors = _prepare(inputs, options)
    modes: dict[str, str] = {**operation.output_modes(options.get("outputs"))}
    framework = tensors["q"].framework

    made: list[ResidentTensor] = []
    try:
        yield from _move_large_inputs(session, deadline, tensors, made)
        place = _shared_place(session, tensors, modes, options.get("region"))
        large = yield from _large_outputs(session, deadline, tensors, modes)
        response = yield from _send(
            session, deadline, operation, tensors, {**modes, **large}, options, place
        )
        outputs: dict[str, Any] = {}
        for name, mode in modes.items():
            if mode == "skip":
                outputs[name] = None
                continue
            output = _decode_output(getattr(response, name), framework, name, place)
            if name in large:
                made.append(output)
                array = yield from download(session, deadline, output)
                output = to_framework(array, framework)
            outputs[name] = output
    finally:
        yield from discard(made)
    return operation.result(**outputs, execution=decode_execution(response.execution))


def _prepare(inputs: Mapping[str, Operand | None], options: CallOptions) -> dict[str, Prepared]:
    given = {**inputs, **option_tensors(options)}
    for name in ("q", "k", "v"):
        if given[name] is None:
            raise InvalidArgument.of(name, f"{name} is None, must be an array")
    return {
        name: value if isinstance(value, ResidentTensor) else host_tensor(value, name)
        for name, value in given.items()
        if value is not None
    }


def _message_bytes(session: Session, deadline: Deadline, wanted: int) -> Flow[int]:
    """Elements that fit into one message, in bytes; asks the server only if that is open."""
    if wanted <= _ALWAYS_FITS_BYTES:
        return wanted
    limits = yield from server_limits(session, deadline)
    return limits.max_message_bytes - _OVERHEAD_BYTES


def _move_large_inputs(
    session: Session,
    deadline: Deadline,
    tensors: dict[str, Prepared],
    made: list[ResidentTensor],
) -> Flow[None]:
    """Uploads the largest host tensors until the rest fits; appends what it uploads to `made`."""
    hosts = {name: t for name, t in tensors.items() if isinstance(t, HostTensor)}
    sizes = {
        name: host.payload_bytes
        for name, host in hosts.items()
        if session.shared_part(host) is None
    }
    total = sum(sizes.values())
    limit = yield from _message_bytes(session, deadline, total)
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if total <= limit:
            break
        host = hosts[name]
        resident = yield from upload(session, deadline, host, name=name)
        resident.source = Source(host, session)
        made.append(resident)
        tensors[name] = resident
        total -= sizes[name]


def _large_outputs(
    session: Session,
    deadline: Deadline,
    tensors: Mapping[str, Prepared],
    modes: Mapping[str, str],
) -> Flow[dict[str, OutputMode]]:
    """The inline outputs that have to stay resident so that the response fits."""
    layouts = _layouts(tensors)
    if layouts is None:
        return {}  # the server will say so
    sizes = {}
    for name, mode in modes.items():
        if mode == "inline":
            shape, dtype = output_layout(name, layouts)
            sizes[name] = math.prod(shape) * dtype.itemsize
    total = sum(sizes.values())
    limit = yield from _message_bytes(session, deadline, total)
    large: dict[str, OutputMode] = {}
    for name in sorted(sizes, key=lambda name: sizes[name], reverse=True):
        if total <= limit:
            break
        large[name] = "resident"
        total -= sizes[name]
    return large


def _layouts(tensors: Mapping[str, Prepared]) -> dict[str, Layout] | None:
    """What the layouts of outputs follow from; None if the inputs cannot be right."""
    if any(len(tensors[name].shape) != 4 for name in ("q", "k", "v")):
        return None
    given = {"q": "q", "k": "k", "v": "v", "bias": f"{_OPTIONS}mask"}
    return {
        name: (tensors[field].shape, tensors[field].dtype)
        for name, field in given.items()
        if field in tensors
    }


def _shared_place(
    session: Session,
    tensors: Mapping[str, Prepared],
    modes: dict[str, str],
    region: SharedRegion | None,
) -> SharedPlace | None:
    """Room in `region` for the inline outputs, whose mode becomes "shared"."""
    layouts = _layouts(tensors)
    if region is None or layouts is None:
        return None
    if region not in session.regions:
        return None  # the server has lost it
    sizes = []
    for name, mode in modes.items():
        if mode == "inline":
            shape, dtype = output_layout(name, layouts)
            size = math.prod(shape) * dtype.itemsize
            if size > 0:  # an empty array needs no room
                sizes.append(size)
                modes[name] = "shared"
    return SharedPlace(region, sizes) if sizes else None


def _send(
    session: Session,
    deadline: Deadline,
    operation: Operation[Any],
    tensors: Mapping[str, Prepared],
    modes: Mapping[str, str],
    options: CallOptions,
    place: SharedPlace | None,
) -> Flow[Any]:
    request = operation.method.request()
    encode_options(options, request.options)
    for name, mode in modes.items():
        setattr(request.outputs, name, OUTPUT_MODES[mode])
    request.outputs.resident_ttl_ms = milliseconds(options.get("resident_ttl"), "resident_ttl")
    if place is not None:
        request.outputs.shared_memory.CopyFrom(place.part)
    for name, tensor in tensors.items():
        if isinstance(tensor, HostTensor):
            tensor.write(_field(request, name), session.shared_part(tensor))

    def attempt() -> Flow[Any]:
        is_first = True

        def step(timeout: float | None) -> Call:
            nonlocal is_first
            if place is not None and not is_first:
                place.move()
                request.outputs.shared_memory.CopyFrom(place.part)
            is_first = False
            return Call(operation.method, request, timeout)

        for name, tensor in tensors.items():
            if isinstance(tensor, ResidentTensor):
                _field(request, name).handle = tensor.handle
        return retrying(session.retry, deadline, step)

    residents = [t for t in tensors.values() if isinstance(t, ResidentTensor)]
    with nullcontext() if place is None else place.during_call():
        return (yield from with_repair(session, deadline, residents, attempt))


def _field(request: Any, name: str) -> tensor_pb2.Tensor:
    holder = request.options if name.startswith(_OPTIONS) else request
    message: tensor_pb2.Tensor = getattr(holder, name.removeprefix(_OPTIONS))
    return message


def _decode_output(
    message: tensor_pb2.Tensor, framework: Framework, name: str, place: SharedPlace | None
) -> Any:
    source = message.WhichOneof("source")
    if source == "handle":
        return ResidentTensor(
            message.handle, decode_dtype(message.dtype), tuple(message.shape), framework
        )
    if source == "shared_memory" and place is not None:
        memory = place.memory(message.shared_memory)
        array = memory.view(decode_dtype(message.dtype)).reshape(tuple(message.shape))
        return to_framework(array, framework)
    if source != "data":
        raise Internal(f"the response lacks the output {name}")
    return to_framework(decode_data(message), framework)
