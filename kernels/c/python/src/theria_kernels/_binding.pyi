"""Calls of libtheria_kernels.so without ctypes. See theria/kernels.h for what they compute.

A tensor is given as

* a `torch.Tensor` or `Parameter`, read through DLPack's C exchange interface,
* a `numpy.ndarray`,
* a tuple (address, theria_dtype, shape, strides in elements) of tuples of integers, or
* anything that the runner's `convert` makes one of these.

Nothing is copied. The arrays of a call are kept alive until it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ABI: int
# Names in the contract; their places in the arguments of `Runner` are their numbers.
INPUTS: tuple[str, ...]
OUTPUTS: tuple[str, ...]

def use_numpy(ndarray: type, /) -> None:
    """Lets numpy arrays be read in place."""

def use_torch(
    tensor: type,
    parameter: type,
    exchange: object | None,
    is_grad_enabled: Callable[[], bool],
    empty_like: Callable[..., Any],
    float32: Any,
    /,
) -> bool:
    """Lets torch tensors be read in place; False if this torch has no exchange interface.

    Args:
        tensor: torch.Tensor.
        parameter: torch.nn.Parameter.
        exchange: The capsule `torch.Tensor.__dlpack_c_exchange_api__`, None if there is none.
        is_grad_enabled: torch.is_grad_enabled.
        empty_like: torch.empty_like.
        float32: torch.float32.
    """

def are_plain(tensors: tuple[Any, ...], /) -> bool:
    """Whether each is None or a tensor that is read in place, all on one device.

    Not plain are subclasses, tensors without storage (fake, functional, of vmap), sparse and
    lazily negated ones.
    """

def pack_options(
    *,
    is_causal: bool = False,
    precision: int = 0,
    implementation: int = 0,
    scale: float | None = None,
    window_left: int | None = None,
    window_right: int | None = None,
    dropout_probability: float = 0.0,
    dropout_seed: int = 0,
    dropout_offset: int = 0,
    causal_alignment: int = 0,
    deterministic: bool = False,
    softcap: float = 0.0,
) -> bytes:
    """theria_options without tensors."""

class Runner:
    """Calls on one context. Thread-safe; the GIL is released while the library runs.

    Args:
        functions: Addresses of theria_run, theria_validate, theria_flops, theria_error_message and
            theria_error_field.
        context: Address of the theria_context.
        is_cuda: Whether its tensors are in device memory.
        ordinal: Of the device.
        reads_arrays: False to give every array to `convert`.
        convert: (array, field) -> what is read in place, for an array that is not; raises what is
            wrong with it.
        allocate: (q, theria_dtype, shape) -> a new array of the framework of q.
        fail: (code, message, field); raises the error of the library.
        workspace: (bytes) -> torch tensor, for calls on PyTorch's current stream; None for calls
            on the default stream with workspace from the library's pool.
        current_stream: (ordinal) -> stream, for a torch without the exchange interface.
    """

    def __new__(
        cls,
        functions: tuple[int, ...],
        context: int,
        is_cuda: bool,
        ordinal: int,
        reads_arrays: bool,
        convert: Callable[[Any, str], Any],
        allocate: Callable[[Any, int, tuple[int, ...]], Any],
        fail: Callable[[int, str, str], object],
        workspace: Callable[[int], Any] | None = None,
        current_stream: Callable[[int], int] | None = None,
    ) -> Runner: ...
    def run(
        self,
        operation: int,
        inputs: tuple[Any, ...],
        outputs: tuple[int, ...],
        options: bytes,
        timeout_seconds: float,
        /,
    ) -> tuple[tuple[Any, ...], tuple[int, str, float]]:
        """Computes the outputs of those numbers.

        Args:
            operation: theria_operation.
            inputs: In the order of INPUTS; None for an absent one, absent ones at the end left out.
            outputs: Places in OUTPUTS.
            options: Of `pack_options`.
            timeout_seconds: 0 for none.

        Returns:
            The outputs; and the implementation, the kernel's name and the seconds (-1 on a GPU,
            where the call was only enqueued).
        """

    def flops(self, operation: int, inputs: tuple[Any, ...], options: bytes, /) -> float:
        """Floating-point operations of the definition's products."""

    def describe(
        self, inputs: tuple[Any, ...], options: bytes, /
    ) -> tuple[tuple[int, int, tuple[int, ...], tuple[int, ...]] | None, ...]:
        """What the library would be given: (address, theria_dtype, shape, strides) of each."""
