"""Keyword options as the kernels' library takes them. Free of any framework."""

from __future__ import annotations

from theria._kernels_library import kernels_library
from theria._options import CallOptions, check_names, encode_options
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
    get = options.get
    key = (
        get("is_causal"),
        get("scale"),
        get("window"),
        get("dropout_p"),
        get("dropout_seed"),
        get("dropout_offset"),
        get("precision"),
        get("implementation"),
    )
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
        precision=PRECISIONS.index(options.get("precision", "strict")),
        implementation=IMPLEMENTATIONS.index(options.get("implementation", "auto")),
        scale=message.scale if message.HasField("scale") else None,
        window_left=window.left if window.HasField("left") else None,
        window_right=window.right if window.HasField("right") else None,
        dropout_probability=dropout.probability,
        dropout_seed=dropout.seed,
        dropout_offset=dropout.offset,
    )
    return packed
