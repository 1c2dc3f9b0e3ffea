"""The C structs of one call, written straight into memory: ctypes' own fields take too long."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from struct import Struct

__all__ = ["INPUT_SLOTS", "OUTPUT_SLOTS", "CallFrame", "pack_options"]

# theria_inputs and theria_outputs in the order of their fields.
_INPUTS = ("q", "k", "v", "o", "lse", "o_bar", "q_dot", "k_dot", "v_dot", "o_bar_dot")
_OUTPUTS = (
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
_MASK = "options.mask"

# One for each rank; a tensor of more dimensions than the library takes is described by its rank.
_TENSOR = tuple(
    Struct(f"<IiiiQ{rank}q{8 * (4 - rank)}x{rank}q{8 * (4 - rank)}x") for rank in range(5)
)
_TENSOR_BYTES = 88
_DATA_AT = 16
_POINTERS = Struct("<II10Q")
_OPTIONS = Struct("<IiiiiiiidqqdQQ")
_POINTER = Struct("<Q")
_LAUNCH = Struct("<IIQQQQQQd")
_REPORT = Struct("<IidQ256x")
_KERNEL_BYTES = 256

# Where each struct begins in a frame.
_INPUTS_AT = 0
_OUTPUTS_AT = _INPUTS_AT + _POINTERS.size
_OPTIONS_AT = _OUTPUTS_AT + _POINTERS.size
_LAUNCH_AT = _OPTIONS_AT + _OPTIONS.size + _POINTER.size
_REPORT_AT = _LAUNCH_AT + _LAUNCH.size
_TENSORS_AT = _REPORT_AT + _REPORT.size
_SLOTS = len(_INPUTS) + len(_OUTPUTS) + 1
_BYTES = _TENSORS_AT + _SLOTS * _TENSOR_BYTES

INPUT_SLOTS: Mapping[str, int] = {
    **{name: index for index, name in enumerate(_INPUTS)},
    _MASK: _SLOTS - 1,
}
OUTPUT_SLOTS: Mapping[str, int] = {name: 10 + index for index, name in enumerate(_OUTPUTS)}
_MASK_SLOT = INPUT_SLOTS[_MASK]

_NUL = b"\0"
_kernel_names: dict[bytes, str] = {}

# A program has tensors of few shapes.
_MAX_LAYOUTS = 1024
_row_major_layouts: dict[tuple[int, ...], bytes] = {}


def pack_options(
    *,
    is_causal: bool,
    precision: int,
    implementation: int,
    scale: float | None,
    window: tuple[int | None, int | None],
    dropout: tuple[float, int, int],
) -> bytes:
    """theria_options without its mask."""
    left, right = window
    return _OPTIONS.pack(
        _OPTIONS.size + _POINTER.size,
        is_causal,
        precision,
        implementation,
        scale is not None,
        left is not None,
        right is not None,
        0,
        scale or 0.0,
        left or 0,
        right or 0,
        *dropout,
    )


def _row_major_layout(dtype: int, shape: Sequence[int]) -> bytes:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    rank = len(shape)
    return _TENSOR[rank].pack(_TENSOR_BYTES, dtype, rank, 0, 0, *shape, *strides)


class CallFrame:
    """Memory for the structs of one call at a time.

    Attributes:
        inputs: Address of theria_inputs.
        outputs: Address of theria_outputs.
        options: Address of theria_options.
        launch: Address of theria_launch.
        report: Address of theria_report.
    """

    def __init__(self) -> None:
        self._bytes = bytearray(_BYTES)
        # Exporting the buffer pins it: its address stays.
        base = ctypes.addressof((ctypes.c_char * _BYTES).from_buffer(self._bytes))
        self._view = memoryview(self._bytes)
        self.inputs = base + _INPUTS_AT
        self.outputs = base + _OUTPUTS_AT
        self.options = base + _OPTIONS_AT
        self.launch = base + _LAUNCH_AT
        self.report = base + _REPORT_AT
        self._slots = [base + _TENSORS_AT + slot * _TENSOR_BYTES for slot in range(_SLOTS)]
        self._pointers = [0] * _SLOTS

    def clear(self) -> None:
        """Makes every tensor absent."""
        self._pointers = [0] * _SLOTS

    def set_tensor(
        self, slot: int, data: int, dtype: int, shape: Sequence[int], strides: Sequence[int]
    ) -> None:
        """Describes the tensor of a slot, strides in elements."""
        rank = len(shape)
        at = _TENSORS_AT + slot * _TENSOR_BYTES
        if rank <= 4:
            _TENSOR[rank].pack_into(
                self._bytes, at, _TENSOR_BYTES, dtype, rank, 0, data, *shape, *strides
            )
        else:
            _TENSOR[0].pack_into(self._bytes, at, _TENSOR_BYTES, dtype, rank, 0, data)
        self._pointers[slot] = self._slots[slot]

    def set_row_major(self, slot: int, data: int, dtype: int, shape: Sequence[int]) -> None:
        """Describes a row-major tensor of at most 4 dimensions."""
        key = (dtype, *shape)
        layout = _row_major_layouts.get(key)
        if layout is None:
            layout = _row_major_layout(dtype, shape)
            if len(_row_major_layouts) >= _MAX_LAYOUTS:
                _row_major_layouts.clear()
            _row_major_layouts[key] = layout
        at = _TENSORS_AT + slot * _TENSOR_BYTES
        self._bytes[at : at + _TENSOR_BYTES] = layout
        _POINTER.pack_into(self._bytes, at + _DATA_AT, data)
        self._pointers[slot] = self._slots[slot]

    def seal(self, options: bytes) -> None:
        """Writes the pointers to the tensors, and `options` as of `pack_options`."""
        pointers = self._pointers
        _POINTERS.pack_into(self._bytes, _INPUTS_AT, _POINTERS.size, 0, *pointers[:10])
        _POINTERS.pack_into(self._bytes, _OUTPUTS_AT, _POINTERS.size, 0, *pointers[10:20])
        self._bytes[_OPTIONS_AT : _OPTIONS_AT + _OPTIONS.size] = options
        _POINTER.pack_into(self._bytes, _OPTIONS_AT + _OPTIONS.size, pointers[_MASK_SLOT])

    def set_launch(
        self,
        *,
        stream: int = 0,
        workspace: int = 0,
        workspace_bytes: int = 0,
        allocate: int = 0,
        user: int = 0,
        timeout: float = 0.0,
    ) -> None:
        """Says how the call runs; makes room for its report."""
        _LAUNCH.pack_into(
            self._bytes,
            _LAUNCH_AT,
            _LAUNCH.size,
            0,
            stream,
            workspace,
            workspace_bytes,
            allocate,
            0,
            user,
            timeout,
        )
        _REPORT.pack_into(self._bytes, _REPORT_AT, _REPORT.size, 0, 0.0, 0)

    def read_report(self) -> tuple[int, str, float, int]:
        """Implementation, kernel, seconds (negative: unknown) and bytes of workspace."""
        _, implementation, seconds, workspace_bytes = _REPORT.unpack_from(self._bytes, _REPORT_AT)
        kernel_at = _REPORT_AT + _REPORT.size - _KERNEL_BYTES
        text = bytes(self._view[kernel_at : kernel_at + _KERNEL_BYTES])
        kernel = _kernel_names.get(text)
        if kernel is None:
            kernel = _kernel_names[text] = text.split(_NUL)[0].decode("ascii", "replace")
        return implementation, kernel, seconds, workspace_bytes
