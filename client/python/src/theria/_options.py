"""The keyword options that every attention call takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from typing_extensions import TypedDict

from theria._arrays import ArrayLike
from theria._errors import InvalidArgument
from theria._lengths import as_int32
from theria._resident import ResidentTensor
from theria.v1 import attention_pb2

if TYPE_CHECKING:
    from theria._shared_memory import SharedRegion

__all__ = [
    "OPTION_TENSORS",
    "PLAIN_KEYWORDS",
    "PLAIN_OPTIONS",
    "Alignment",
    "CallOptions",
    "Implementation",
    "Operand",
    "OutputMode",
    "Precision",
    "check_names",
    "choice",
    "encode_options",
    "milliseconds",
    "option_tensors",
]

T = TypeVar("T")

Operand: TypeAlias = "ArrayLike | ResidentTensor"
Implementation = Literal["auto", "fused", "unfused", "reference"]
Precision = Literal["strict", "fast"]
OutputMode = Literal["skip", "inline", "resident"]

Alignment = Literal["upper_left", "lower_right"]

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
ALIGNMENTS: dict[str, attention_pb2.CausalAlignment] = {
    "upper_left": attention_pb2.UPPER_LEFT,
    "lower_right": attention_pb2.LOWER_RIGHT,
}


class CallOptions(TypedDict, total=False):
    """Keyword options of `forward`, `vjp`, `jvp` and `hvp`, all of them optional.

    Attributes:
        attn_mask: Broadcasts to [batch, heads_q, seq_q, seq_kv] as numpy does. bool: True takes
            part; floating point: added to the scores. The latter, called bias, has a tangent
            (`bias_dot`) and cotangents (`bias_bar`, `bias_bar_dot`), all of its own shape.
        dropout_p: Probability in [0, 1) of dropping an element of P. Default 0.
        dropout_seed: Seed of the draw, 64 bits. The draw is a pure function of (dropout_seed,
            dropout_offset, batch, head, i, j), the same in all four calls. Default 0.
        dropout_offset: Names a stream of the seed, such as a layer or a step. Default 0.
        is_causal: Key j takes part in row i only if j <= i, with i as `causal_alignment` says.
        window: (left, right): key j takes part in row i only if i - left <= j <= i + right. None
            for a side leaves it unbounded.
        causal_alignment: The position of row i for `is_causal`, `window` and ALiBi:
            ``"upper_left"`` (default) is i, ``"lower_right"`` is i + seq_kv - seq_q.
        scale: Factor of the scores. Default 1 / sqrt(head_dim).
        softcap: The cap c > 0 of the scores, c tanh(score / c). Default: none.
        alibi_slopes: [heads_q] or [batch, heads_q], floating point: adds -slope * |i - j| to the
            scores.
        kv_lengths: int [batch]: key j takes part only if j < kv_lengths[b].
        cu_seqlens_q: With `cu_seqlens_kv`, int [documents + 1]: packed sequences, for a batch of 1.
            Document d has the rows from cu_seqlens_q[d] to cu_seqlens_q[d + 1] and the keys from
            cu_seqlens_kv[d] to cu_seqlens_kv[d + 1]; a row sees the keys of its document only, and
            positions count from the start of the document.
        cu_seqlens_kv: See `cu_seqlens_q`.
        deterministic: Whether equal calls give equal bits. Default False.
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
    causal_alignment: Alignment
    scale: float | None
    softcap: float | None
    alibi_slopes: Operand | None
    kv_lengths: Operand | None
    cu_seqlens_q: Operand | None
    cu_seqlens_kv: Operand | None
    deterministic: bool
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


@dataclass(frozen=True)
class PlainOption:
    """A field of `theria.v1.AttentionOptions` that is no tensor.

    Attributes:
        name: The field.
        keywords: What callers set it by; those that are not given keep the field's default.
        write: Writes the given keywords, none of them None, into the message.
    """

    name: str
    keywords: tuple[str, ...]
    write: Callable[[attention_pb2.AttentionOptions, Mapping[str, Any]], None]


def _field(name: str, convert: Callable[[Any], Any] = lambda value: value) -> PlainOption:
    """A field whose keyword has its name."""

    def write(message: attention_pb2.AttentionOptions, given: Mapping[str, Any]) -> None:
        _set(message, name, convert(given[name]), f"options.{name}")

    return PlainOption(name, (name,), write)


def _enumeration(name: str, values: Mapping[str, Any]) -> PlainOption:
    return _field(name, lambda value: choice(values, value, f"options.{name}"))


def _write_window(message: attention_pb2.AttentionOptions, given: Mapping[str, Any]) -> None:
    message.window.SetInParent()
    for side, extent in zip(("left", "right"), _sides(given["window"]), strict=True):
        if extent is not None:
            _set(message.window, side, extent, "options.window")


def _write_dropout(message: attention_pb2.AttentionOptions, given: Mapping[str, Any]) -> None:
    if given.get("dropout_p", 0.0) == 0.0:
        return
    for name, keyword in (
        ("probability", "dropout_p"),
        ("seed", "dropout_seed"),
        ("offset", "dropout_offset"),
    ):
        _set(message.dropout, name, given.get(keyword, 0), f"options.dropout.{name}")


# Every option is a row of one of these two tables; whatever treats options goes over them.
PLAIN_OPTIONS = (
    _field("scale"),
    _field("is_causal", bool),
    PlainOption("window", ("window",), _write_window),
    PlainOption("dropout", ("dropout_p", "dropout_seed", "dropout_offset"), _write_dropout),
    _enumeration("precision", PRECISIONS),
    _enumeration("implementation", IMPLEMENTATIONS),
    _field("softcap"),
    _enumeration("causal_alignment", ALIGNMENTS),
    _field("deterministic", bool),
)
# Keyword -> field. Those of int32 are lengths, whose values are checked where they are at hand.
OPTION_TENSORS = {
    "attn_mask": "mask",
    "alibi_slopes": "alibi_slopes",
    "kv_lengths": "kv_lengths",
    "cu_seqlens_q": "cu_seqlens_q",
    "cu_seqlens_kv": "cu_seqlens_kv",
}
INTEGER_OPTIONS = ("kv_lengths", "cu_seqlens_q", "cu_seqlens_kv")

PLAIN_KEYWORDS = tuple(keyword for option in PLAIN_OPTIONS for keyword in option.keywords)
_DEFAULTS = {"precision": "strict", "implementation": "auto"}


def encode_options(options: CallOptions, message: attention_pb2.AttentionOptions) -> None:
    """Writes all but the tensors; values are checked by the server, types and ranges here.

    Raises:
        InvalidArgument: A value that its field cannot hold.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in _DEFAULTS.items():
        given.setdefault(name, value)
    for option in PLAIN_OPTIONS:
        if any(keyword in given for keyword in option.keywords):
            option.write(message, given)


def option_tensors(options: CallOptions) -> dict[str, Any]:
    """The tensors among the options, by their paths in the request: ``"options.mask"``.

    Integers of other types become int32.

    Raises:
        InvalidArgument: Lengths that int32 cannot hold.
    """
    found: dict[str, Any] = {}
    for keyword, name in OPTION_TENSORS.items():
        value: Any = options.get(keyword)
        if value is not None:
            path = f"options.{name}"
            found[path] = as_int32(value, path) if keyword in INTEGER_OPTIONS else value
    return found


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
