"""libtheria_kernels.so as Python functions over CUDA tensors, for machines with PyTorch alone.

Tensors are `[batch, heads, seq, dim]` on the GPU, of any strides; statistics are
`[batch, heads, seq]`. The symbols are those of the operator contract: `x_dot`
tangents, `x_bar` cotangents.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

OPERATIONS = {"forward": 0, "vjp": 1, "jvp": 2, "hvp": 3}
INPUTS = (
    "q",
    "k",
    "v",
    "o",
    "lse",
    "o_bar",
    "q_dot",
    "k_dot",
    "v_dot",
    "o_bar_dot",
    "lse_bar",
    "lse_bar_dot",
    "bias_dot",
)
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
    "bias_bar",
    "bias_bar_dot",
)
# Those of the bias are extra: a call has them only where it asks for them.
OUTPUTS_OF = {
    "forward": ("o", "lse"),
    "vjp": ("o", "lse", "q_bar", "k_bar", "v_bar"),
    "jvp": ("o", "lse", "o_dot", "lse_dot"),
    "hvp": OUTPUTS[:10],
}
_DTYPES = {
    torch.float64: 0,
    torch.float32: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.bool: 4,
    torch.int32: 5,
}
_ALIGNMENTS = {"upper_left": 0, "lower_right": 1}
_IMPLEMENTATIONS = {"auto": 0, "fused": 1, "unfused": 2}


# The structs of theria/kernels.h.


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
    ]


class _Inputs(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        *((name, ctypes.POINTER(_Tensor)) for name in INPUTS),
    ]


class _Outputs(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        *((name, ctypes.POINTER(_Tensor)) for name in OUTPUTS),
    ]


class _Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("is_causal", ctypes.c_int32),
        ("precision", ctypes.c_int32),
        ("implementation", ctypes.c_int32),
        ("has_scale", ctypes.c_int32),
        ("has_window_left", ctypes.c_int32),
        ("has_window_right", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("window_left", ctypes.c_int64),
        ("window_right", ctypes.c_int64),
        ("dropout_probability", ctypes.c_double),
        ("dropout_seed", ctypes.c_uint64),
        ("dropout_offset", ctypes.c_uint64),
        ("mask", ctypes.POINTER(_Tensor)),
        ("causal_alignment", ctypes.c_int32),
        ("deterministic", ctypes.c_int32),
        ("softcap", ctypes.c_double),
        ("alibi_slopes", ctypes.POINTER(_Tensor)),
        ("kv_lengths", ctypes.POINTER(_Tensor)),
        ("cu_seqlens_q", ctypes.POINTER(_Tensor)),
        ("cu_seqlens_kv", ctypes.POINTER(_Tensor)),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("stream", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_size_t),
        ("allocate", ctypes.c_void_p),
        ("deallocate", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("timeout_seconds", ctypes.c_double),
    ]


class _Report(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("implementation", ctypes.c_int32),
        ("compute_seconds", ctypes.c_double),
        ("workspace_bytes", ctypes.c_size_t),
        ("kernel", ctypes.c_char * 256),
    ]


class _ContextOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("device_type", ctypes.c_int32),
        ("device_ordinal", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("tuning_table", ctypes.c_char_p),
    ]


def _sized(kind: Any, **fields: Any) -> Any:
    return kind(struct_size=ctypes.sizeof(kind), **fields)


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
    causal_alignment: str = "upper_left"
    softcap: float | None = None
    alibi_slopes: torch.Tensor | None = None
    kv_lengths: torch.Tensor | None = None
    cu_seqlens_q: torch.Tensor | None = None
    cu_seqlens_kv: torch.Tensor | None = None
    deterministic: bool = False
    fast: bool = False
    implementation: str = "auto"


class KernelsError(RuntimeError):
    """The library refused or failed; `code` is its theria_code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"status {code}: {message}")
        self.code = code


def _describe(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    described = _sized(
        _Tensor, data=tensor.data_ptr(), dtype=_DTYPES[tensor.dtype], rank=tensor.dim()
    )
    described.shape[: tensor.dim()] = list(tensor.shape)
    described.strides[: tensor.dim()] = list(tensor.stride())
    return ctypes.pointer(described)


def _describe_options(options: Options) -> Any:
    left, right = options.window or (None, None)
    return _sized(
        _Options,
        is_causal=int(options.is_causal),
        precision=int(options.fast),
        implementation=_IMPLEMENTATIONS[options.implementation],
        has_scale=int(options.scale is not None),
        has_window_left=int(left is not None),
        has_window_right=int(right is not None),
        scale=options.scale or 0.0,
        window_left=left or 0,
        window_right=right or 0,
        dropout_probability=options.dropout,
        dropout_seed=options.seed,
        dropout_offset=options.offset,
        mask=_describe(options.mask),
        causal_alignment=_ALIGNMENTS[options.causal_alignment],
        deterministic=int(options.deterministic),
        softcap=options.softcap or 0.0,
        alibi_slopes=_describe(options.alibi_slopes),
        kv_lengths=_describe(options.kv_lengths),
        cu_seqlens_q=_describe(options.cu_seqlens_q),
        cu_seqlens_kv=_describe(options.cu_seqlens_kv),
    )


class DeviceKernels:
    """A loaded library, computing on CUDA device 0.

    $THERIA_CUDA_TUNING names the file of the kernels to prefer, see kernels/cuda/tuning.h.

    Attributes:
        workspace_bytes: Of the last `call`.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.theria_cuda_kernel_names.restype = ctypes.c_char_p
        self._library.theria_error_message.restype = ctypes.c_char_p
        self._run = self._library.theria_run
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_int32] + [ctypes.c_void_p] * 5
        self._context: int | None = None
        self.workspace_bytes = 0

    def kernels(self) -> dict[str, list[str]]:
        """Names of the compiled kernels by what they do, the preferred first."""
        groups: dict[str, list[str]] = {}
        for line in self._library.theria_cuda_kernel_names().decode().splitlines():
            group, name = line.split()
            groups.setdefault(group, []).append(name)
        return groups

    def call(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor | None],
        outputs: Mapping[str, torch.Tensor | None],
        options: Options,
    ) -> tuple[float, str]:
        """Computes into `outputs`; returns the device's seconds and the kernels' names.

        Raises KernelsError for any code but THERIA_OK.
        """
        report = _sized(_Report)
        stream = torch.cuda.current_stream()
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(stream)
        self._enqueuer(operation, inputs, outputs, options, stream.cuda_stream, report)()
        last.record(stream)
        last.synchronize()
        self.workspace_bytes = report.workspace_bytes
        return first.elapsed_time(last) / 1e3, report.kernel.decode(errors="replace")

    def prepare(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor | None],
        outputs: Mapping[str, torch.Tensor | None],
        options: Options,
        stream: int,
    ) -> Callable[[], None]:
        """A function that enqueues the computation into `outputs` and does not wait.

        `stream` is the handle of a CUDA stream. The tensors must live as long as the function,
        which raises KernelsError for any code but THERIA_OK.
        """
        return self._enqueuer(operation, inputs, outputs, options, stream, _sized(_Report))

    def _enqueuer(
        self,
        operation: str,
        inputs: Mapping[str, torch.Tensor | None],
        outputs: Mapping[str, torch.Tensor | None],
        options: Options,
        stream: int,
        report: Any,
    ) -> Callable[[], None]:
        context = self._cuda_context()
        structs = (
            _sized(_Inputs, **{name: _describe(inputs.get(name)) for name in INPUTS}),
            _describe_options(options),
            _sized(_Outputs, **{name: _describe(outputs.get(name)) for name in OUTPUTS}),
            _sized(_Launch, stream=stream),
            report,
        )

        def enqueue() -> None:
            code = self._run(context, OPERATIONS[operation], *map(ctypes.addressof, structs))
            if code != 0:
                raise KernelsError(code, self._message())

        return enqueue

    def _cuda_context(self) -> int:
        """Made on first use, so that the environment may still name a tuning table before."""
        if self._context is None:
            table = os.environ.get("THERIA_CUDA_TUNING")
            options = _sized(
                _ContextOptions, device_type=1, tuning_table=table.encode() if table else None
            )
            made = ctypes.c_void_p()
            code = self._library.theria_context_create(ctypes.byref(options), ctypes.byref(made))
            if code != 0 or made.value is None:
                raise KernelsError(code, self._message())
            self._context = made.value
        return self._context

    def _message(self) -> str:
        message: bytes = self._library.theria_error_message()
        return message.decode(errors="replace")


def allocate_outputs(
    operation: str,
    inputs: Mapping[str, torch.Tensor | None],
    bias: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Outputs of `operation` filled with NaN, so that an element never written shows.

    With a `bias`, its derivatives are among them.
    """
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
    for name, operations in (("bias_bar", ("vjp", "hvp")), ("bias_bar_dot", ("hvp",))):
        if bias is not None and operation in operations:
            outputs[name] = torch.full(bias.shape, torch.nan, dtype=bias.dtype, device=q.device)
    return outputs
