"""The CUDA backend as Python functions over CUDA tensors, through shim.cc.

Tensors are `[batch, heads, seq, dim]` on the GPU, of any strides; statistics are
`[batch, heads, seq]`. The symbols are those of the operator contract: `x_dot`
tangents, `x_bar` cotangents.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Mapping

import torch

OPERATIONS = {"forward": 0, "vjp": 1, "jvp": 2, "hvp": 3}
INPUTS = ("q", "k", "v", "o", "lse", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
OUTPUTS = (
    "o",
    "lse",
    "o_dot",
    "lse_dot",
    "q_bar",
    "k_bar",
    "v_bar",
    "q_bar_dot",
    "k_bar_dot",
    "v_bar_dot",
)
OUTPUTS_OF = {
    "forward": ("o", "lse"),
    "vjp": ("o", "lse", "q_bar", "k_bar", "v_bar"),
    "jvp": ("o", "lse", "o_dot", "lse_dot"),
    "hvp": OUTPUTS,
}
_DTYPES = {
    torch.float64: 0,
    torch.float32: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.bool: 4,
}
_IMPLEMENTATIONS = {"auto": 0, "fused": 1, "unfused": 2}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        ("operation", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("implementation", ctypes.c_int32),
        ("is_causal", ctypes.c_int32),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("has_scale", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("dropout_probability", ctypes.c_double),
        ("dropout_seed", ctypes.c_uint64),
        ("dropout_offset", ctypes.c_uint64),
        ("mask", _Tensor),
        ("inputs", _Tensor * 10),
        ("outputs", _Tensor * 10),
        ("seconds", ctypes.c_double),
        ("text", ctypes.c_char * 512),
    ]


@dataclasses.dataclass(frozen=True)
class Options:
    """What changes scores and probabilities; `window` is (left, right), None unbounded."""

    is_causal: bool = False
    window: tuple[int | None, int | None] | None = None
    mask: torch.Tensor | None = None
    dropout: float = 0.0
    seed: int = 0
    offset: int = 0
    scale: float | None = None
    fast: bool = False
    implementation: str = "auto"


class ShimError(RuntimeError):
    """The backend refused or failed; `code` is the absl::StatusCode."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {message}")
        self.code = code


def _describe(tensor: torch.Tensor | None) -> _Tensor:
    described = _Tensor()
    if tensor is None:
        return described
    described.data = tensor.data_ptr()
    described.dtype = _DTYPES[tensor.dtype]
    described.rank = tensor.dim()
    described.shape[: tensor.dim()] = list(tensor.shape)
    described.strides[: tensor.dim()] = list(tensor.stride())
    return described


def _describe_call(
    operation: str,
    inputs: Mapping[str, torch.Tensor | None],
    outputs: Mapping[str, torch.Tensor | None],
    options: Options,
) -> _Call:
    call = _Call()
    call.operation = OPERATIONS[operation]
    call.precision = int(options.fast)
    call.implementation = _IMPLEMENTATIONS[options.implementation]
    call.is_causal = int(options.is_causal)
    left, right = options.window or (None, None)
    call.window_left = -1 if left is None else left
    call.window_right = -1 if right is None else right
    call.has_scale = int(options.scale is not None)
    call.scale = options.scale or 0.0
    call.dropout_probability = options.dropout
    call.dropout_seed = options.seed
    call.dropout_offset = options.offset
    call.mask = _describe(options.mask)
    for index, name in enumerate(INPUTS):
        call.inputs[index] = _describe(inputs.get(name))
    for index, name in enumerate(OUTPUTS):
        call.outputs[index] = _describe(outputs.get(name))
    return call


class Shim:
    """A loaded shim library."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._run = library.theria_shim_run
        self._run.argtypes = [ctypes.POINTER(_Call)]
        self._run.restype = ctypes.c_int32
        self._enqueue = library.theria_shim_enqueue
        self._enqueue.argtypes = [ctypes.POINTER(_Call), ctypes.c_void_p]
        self._enqueue.restype = ctypes.c_int32
        self._peak = library.theria_shim_pool_peak_bytes
        self._peak.restype = ctypes.c_int64
        self._kernels = library.theria_shim_kernels
        self._kernels.restype = ctypes.c_char_p

    def kernels(self) -> dict[str, list[str]]:
        """Names of the compiled kernels by what they do, the preferred first."""
        groups: dict[str, list[str]] = {}
        for line in self._kernels().decode().splitlines():
            group, name = line.split()
            groups.setdefault(group, []).append(name)
        return groups

    def pool_peak_bytes(self) -> int:
        """The most workspace in use at once since the last call, in bytes."""
        return int(self._peak())

    def call(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor | None],
        outputs: Mapping[str, torch.Tensor | None],
        options: Options,
    ) -> tuple[float, str]:
        """Computes into `outputs`; returns the device's seconds and the kernels' names.

        Raises ShimError for any status but OK.
        """
        call = _describe_call(operation, inputs, outputs, options)
        code = self._run(ctypes.byref(call))
        text = call.text.decode(errors="replace")
        if code != 0:
            raise ShimError(code, text)
        return float(call.seconds), text

    def prepare(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor | None],
        outputs: Mapping[str, torch.Tensor | None],
        options: Options,
        stream: int,
    ) -> Callable[[], None]:
        """A function that enqueues the fused computation into `outputs` and does not wait.

        `stream` is the handle of a CUDA stream. The tensors must live as long as the function,
        which raises ShimError for any status but OK.
        """
        call = _describe_call(operation, inputs, outputs, options)

        def enqueue() -> None:
            code = self._enqueue(ctypes.byref(call), stream)
            if code != 0:
                raise ShimError(code, call.text.decode(errors="replace"))

        return enqueue


def allocate_outputs(
    operation: str, inputs: Mapping[str, torch.Tensor | None]
) -> dict[str, torch.Tensor]:
    """Outputs of `operation` filled with NaN, so that an element never written shows."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    assert q is not None and k is not None and v is not None
    rows = q.shape[:3]
    statistics = torch.float64 if q.dtype == torch.float64 else torch.float32
    shapes = {"q": tuple(q.shape), "k": tuple(k.shape), "v": tuple(v.shape)}
    outputs = {}
    for name in OUTPUTS_OF[operation]:
        if name.startswith("lse"):
            outputs[name] = torch.full(rows, torch.nan, dtype=statistics, device=q.device)
        else:
            shape = shapes.get(name[0], (*rows, v.shape[3]))
            outputs[name] = torch.full(shape, torch.nan, dtype=q.dtype, device=q.device)
    return outputs
