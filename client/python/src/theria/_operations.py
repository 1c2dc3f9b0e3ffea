"""The four attention calls as data: method, inputs, outputs with their defaults and layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from theria._dtypes import statistics_dtype
from theria._errors import InvalidArgument
from theria._options import OutputMode, choice
from theria._results import ForwardResult, HvpResult, JvpResult, VjpResult
from theria._steps import ATTENTION_SERVICE, Method
from theria.v1 import attention_pb2, server_pb2

__all__ = ["FORWARD", "HVP", "JVP", "OPERATIONS", "VJP", "Layout", "Operation", "output_layout"]

Layout: TypeAlias = "tuple[tuple[int, ...], np.dtype[Any]]"  # shape and dtype
R = TypeVar("R", ForwardResult, VjpResult, JvpResult, HvpResult)

OUTPUT_MODES: dict[str, attention_pb2.OutputMode] = {
    "skip": attention_pb2.SKIP,
    "inline": attention_pb2.INLINE,
    "resident": attention_pb2.RESIDENT,
    "shared": attention_pb2.SHARED,
}


@dataclass(frozen=True)
class Operation(Generic[R]):
    """One of the calls.

    Attributes:
        name: Its name in Python.
        method: Its RPC.
        number: Its `theria.v1.Operation`.
        outputs: Its outputs, and what becomes of each by default.
        result: The class that holds them.
    """

    name: str
    method: Method[Any, Any]
    number: server_pb2.Operation
    outputs: Mapping[str, OutputMode]
    result: type[R]

    def output_modes(self, asked: Mapping[str, OutputMode] | None) -> dict[str, OutputMode]:
        """The defaults, overridden.

        Raises:
            InvalidArgument: No such output, or no such mode.
        """
        modes = dict(self.outputs)
        for name, mode in (asked or {}).items():
            field = f"outputs.{name}"
            choice({output: output for output in modes}, name, "outputs")
            choice(dict.fromkeys(("skip", "inline", "resident")), mode, field)
            modes[name] = mode
        return modes


FORWARD = Operation(
    "forward",
    Method(
        f"/{ATTENTION_SERVICE}/Forward",
        attention_pb2.ForwardRequest,
        attention_pb2.ForwardResponse,
    ),
    server_pb2.FORWARD,
    {"o": "inline", "lse": "inline"},
    ForwardResult,
)
VJP = Operation(
    "vjp",
    Method(f"/{ATTENTION_SERVICE}/Vjp", attention_pb2.VjpRequest, attention_pb2.VjpResponse),
    server_pb2.VJP,
    {
        "o": "skip",
        "lse": "skip",
        "q_bar": "inline",
        "k_bar": "inline",
        "v_bar": "inline",
        "bias_bar": "skip",
    },
    VjpResult,
)
JVP = Operation(
    "jvp",
    Method(f"/{ATTENTION_SERVICE}/Jvp", attention_pb2.JvpRequest, attention_pb2.JvpResponse),
    server_pb2.JVP,
    {"o": "inline", "lse": "skip", "o_dot": "inline", "lse_dot": "skip"},
    JvpResult,
)
HVP = Operation(
    "hvp",
    Method(f"/{ATTENTION_SERVICE}/Hvp", attention_pb2.HvpRequest, attention_pb2.HvpResponse),
    server_pb2.HVP,
    {
        "o": "skip",
        "lse": "skip",
        "o_dot": "skip",
        "lse_dot": "skip",
        "q_bar": "inline",
        "k_bar": "inline",
        "v_bar": "inline",
        "q_bar_dot": "inline",
        "k_bar_dot": "inline",
        "v_bar_dot": "inline",
        "bias_bar": "skip",
        "bias_bar_dot": "skip",
    },
    HvpResult,
)
OPERATIONS: dict[str, Operation[Any]] = {o.name: o for o in (FORWARD, VJP, JVP, HVP)}


def output_layout(name: str, layouts: Mapping[str, Layout]) -> Layout:
    """Shape and dtype of an output, given those of q, k and v, of four dimensions, and the mask's.

    Args:
        name: Of the output.
        layouts: By the names ``"q"``, ``"k"``, ``"v"`` and, where there is a mask, ``"bias"``.

    Raises:
        InvalidArgument: `name` is of the bias, and there is no floating-point mask.
    """
    base = name.split("_")[0]
    shape, dtype = layouts["q"]
    if base == "lse":
        return shape[:3], statistics_dtype(dtype)
    if base == "o":
        return (*shape[:3], layouts["v"][0][3]), dtype
    if base == "bias" and ("bias" not in layouts or layouts["bias"][1] == np.bool_):
        raise InvalidArgument.of(
            f"outputs.{name}",
            f"outputs.{name} is given, must be absent: only a floating-point options.mask has a "
            "derivative",
        )
    return layouts[base]
