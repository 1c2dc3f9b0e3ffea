"""The keyword options that every attention call takes."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from typing_extensions import TypedDict

from theria._arrays import ArrayLike
from theria._errors import InvalidArgument
from theria._resident import ResidentTensor
from theria.v1 import attention_pb2

if TYPE_CHECKING:
    from theria._shared_memory import SharedRegion

__all__ = [
    "CallOptions",
    "Implementation",
    "Operand",
    "OutputMode",
    "Precision",
    "check_names",
    "choice",
    "encode_options",
    "milliseconds",
]

T = TypeVar("T")

Operand: TypeAlias = "ArrayLike | ResidentTensor"
Implementation = Literal["auto", "fused", "unfused", "reference"]
Precision = Literal["strict", "fast"]
OutputMode = Literal["skip", "inline", "resident"]

IMPLEMENTATIONS: dict[str, attention_pb2.Implementation] = {
    "auto": attention_pb2.AUTO,
    "fused": attention_pb2.FUSED,
    "unfused": attention_pb2.UNFUSED,
    "reference": attention_pb2.REFERENCE,
}
PRECISIONS: dict[str, attention_pb2.Precision] = {
    "strict": attention_pb2.STRICT,
    "fast": attention_pb2.FAST,
}


class CallOptions(TypedDict, total=False):
    """Keyword options of `forward`, `vjp`, `jvp` and `hvp`, all of them optional.

    Attributes:
        attn_mask: Broadcasts to [batch, heads_q, seq_q, seq_kv] as numpy does. bool: True takes
            part; floating point: added to the scaled scores.
        dropout_p: Probability in [0, 1) of dropping an element of P. Default 0.
        dropout_seed: Seed of the draw, 64 bits. The draw is a pure function of (dropout_seed,
            dropout_offset, batch, head, i, j), the same in all four calls. Default 0.
        dropout_offset: Names a stream of the seed, such as a layer or a step. Default 0.
        is_causal: Key j takes part in row i only if j <= i.
        window: (left, right): key j takes part in row i only if i - left <= j <= i + right. None
            for a side leaves it unbounded.
        scale: Factor of the scores. Default 1 / sqrt(head_dim).
        implementation: ``"auto"`` (default), ``"fused"``, ``"unfused"`` or ``"reference"``.
        precision: ``"strict"`` (default) or ``"fast"``, which allows TF32 products for float32.
        outputs: Output name -> ``"skip"``, ``"inline"`` (returned as an array) or ``"resident"``
            (left on the server, returned as a ResidentTensor). Others keep the call's default.
        region: Shared memory in which the server leaves what would come back as an array; the
            arrays are then views of it. Default: none.
        resident_ttl: Seconds of lease of resident outputs. Default: the server's.
        timeout: Seconds for the whole call, retries and transfers included. Default: the client's.
    """

    attn_mask: Operand | None
    dropout_p: float
    dropout_seed: int
    dropout_offset: int
    is_causal: bool
    window: tuple[int | None, int | None] | None
    scale: float | None
    implementation: Implementation
    precision: Precision
    outputs: Mapping[str, OutputMode] | None
    region: SharedRegion | None
    resident_ttl: float | None
    timeout: float | None


def check_names(call: str, options: CallOptions) -> None:
    """Refuses names that are no option, as Python does for a function's own parameters."""
    unknown = sorted(set(options) - CallOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"{call}() got an unexpected keyword argument {unknown[0]!r}")


def encode_options(options: CallOptions, message: attention_pb2.AttentionOptions) -> None:
    """Writes all but the mask; values are checked by the server, types and ranges of fields here.

    Raises:
        InvalidArgument: A value that its field cannot hold.
    """
    message.is_causal = bool(options.get("is_causal", False))
    if (scale := options.get("scale")) is not None:
        _set(message, "scale", scale, "options.scale")
    if (window := options.get("window")) is not None:
        message.window.SetInParent()
        for side, extent in zip(("left", "right"), _sides(window), strict=True):
            if extent is not None:
                _set(message.window, side, extent, "options.window")
    probability = options.get("dropout_p", 0.0)
    if probability != 0.0:
        dropout = message.dropout
        _set(dropout, "probability", probability, "options.dropout.probability")
        _set(dropout, "seed", options.get("dropout_seed", 0), "options.dropout.seed")
        _set(dropout, "offset", options.get("dropout_offset", 0), "options.dropout.offset")
    message.precision = choice(PRECISIONS, options.get("precision", "strict"), "options.precision")
    message.implementation = choice(
        IMPLEMENTATIONS, options.get("implementation", "auto"), "options.implementation"
    )


def _set(message: Any, name: str, value: Any, field: str) -> None:
    try:
        setattr(message, name, value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of(field, f"{field}: {error}") from error


def _sides(window: Any) -> tuple[Any, Any]:
    try:
        left, right = window
    except (TypeError, ValueError) as error:
        raise InvalidArgument.of(
            "options.window", f"options.window is {window!r}, must be (left, right)"
        ) from error
    return left, right


def choice(values: Mapping[str, T], name: str, field: str) -> T:
    """The wire's value of a name.

    Raises:
        InvalidArgument: No such name; the message lists those there are.
    """
    try:
        return values[name]
    except KeyError:
        raise InvalidArgument.of(
            field, f"{field} is {name!r}, must be one of {', '.join(values)}"
        ) from None


def milliseconds(seconds: float | None, field: str) -> int:
    """Whole milliseconds, at least 1 for any positive time; None is 0, the server's default."""
    if seconds is None:
        return 0
    if not (isinstance(seconds, Real) and 0 < seconds < 1e12):
        raise InvalidArgument.of(field, f"{field} is {seconds!r} s, must be positive and finite")
    return max(1, round(seconds * 1e3))
