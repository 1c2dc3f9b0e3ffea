"""Keyword options as the kernels' library takes them. Free of any framework."""

from __future__ import annotations

from theria._errors import InvalidArgument
from theria._kernels_library import kernels_library
from theria._options import PLAIN_KEYWORDS, CallOptions, check_names, encode_options
from theria.v1 import attention_pb2

__all__ = [
    "IMPLEMENTATIONS",
    "OPERATION_NUMBERS",
    "PRECISIONS",
    "check_option_names",
    "packed_options",
]

# By their numbers in theria/kernels.h.
OPERATION_NUMBERS = {"forward": 0, "vjp": 1, "jvp": 2, "hvp": 3}
IMPLEMENTATIONS = ("auto", "fused", "unfused", "reference")
PRECISIONS = ("strict", "fast")

_NAMES = CallOptions.__annotations__.keys()
# A program calls with few combinations of options; encoding one takes longer than a small call.
_MAX_CACHED = 256
_packed: dict[tuple[object, ...], bytes] = {}


def check_option_names(call: str, options: CallOptions) -> None:
    """As `check_names`, at less cost."""
    if not options.keys() <= _NAMES:
        check_names(call, options)


def packed_options(options: CallOptions) -> bytes:
    """theria_options without tensors.

    Raises:
        InvalidArgument: As the client of a server does for the same options.
    """
    key = tuple(map(options.get, PLAIN_KEYWORDS))
    try:
        return _packed[key]
    except KeyError:
        pass
    except TypeError:  # a list as window
        return _pack(options)
    if len(_packed) >= _MAX_CACHED:
        _packed.clear()
    packed = _packed[key] = _pack(options)
    return packed


def _pack(options: CallOptions) -> bytes:
    # The message's fields hold what the wire holds, with the errors that the wire's fields have.
    message = attention_pb2.AttentionOptions()
    encode_options(options, message)
    window, dropout = message.window, message.dropout
    packed: bytes = kernels_library().binding.pack_options(
        is_causal=message.is_causal,
        precision=message.precision - attention_pb2.STRICT,
        implementation=message.implementation - attention_pb2.AUTO,
        scale=message.scale if message.HasField("scale") else None,
        window_left=window.left if window.HasField("left") else None,
        window_right=window.right if window.HasField("right") else None,
        dropout_probability=dropout.probability,
        dropout_seed=dropout.seed,
        dropout_offset=dropout.offset,
        causal_alignment=message.causal_alignment,
        deterministic=message.deterministic,
        softcap=_softcap(message),
    )
    return packed


def _softcap(message: attention_pb2.AttentionOptions) -> float:
    """The library takes 0 for none; a server refuses it, and so does this."""
    if message.HasField("softcap") and message.softcap == 0.0:
        raise InvalidArgument.of(
            "options.softcap", "options.softcap is 0, must be finite and above 0"
        )
    return message.softcap
