"""XLA's custom calls of the kernels in this process, by libtheria_jax.so (kernels/c/jax)."""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from theria._dtypes import encode_dtype
from theria._errors import Unavailable
from theria._kernels_library import kernels_library
from theria._local_context import local_context
from theria._local_options import OPERATION_NUMBERS, packed_options
from theria._local_runner import DTYPE_CODES, runner_in_place
from theria._options import OPTION_TENSORS, CallOptions
from theria.jax._attributes import attributes

__all__ = ["available", "custom_call", "validate"]

# JAX's name of a platform as the library spells it, and as XLA's registry does.
_REGISTRIES = {"cpu": "cpu", "cuda": "CUDA"}


@functools.cache
def available(platform: str) -> bool:
    """Whether XLA has the custom calls for `platform`; registers them on first use.

    Warns, once, if the library is not there or too new for the XLA of this jaxlib.
    """
    if platform not in _REGISTRIES:
        return False
    try:
        path = Path(kernels_library().path).with_name("libtheria_jax.so")
        # kernels_library() has loaded the library that this one calls.
        library = ctypes.CDLL(str(path))
        for operation in OPERATION_NUMBERS:
            handler = getattr(library, f"theria_jax_{operation}_{platform}")
            jax.ffi.register_ffi_target(
                f"theria_{operation}", jax.ffi.pycapsule(handler), _REGISTRIES[platform]
            )
    except (Unavailable, OSError, AttributeError, RuntimeError, ValueError) as error:
        warnings.warn(
            f"theria.jax calls back to the host from compiled code, for XLA on {platform} has no "
            f"custom calls of its: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def validate(
    operation: str, names: Sequence[str], operands: Sequence[Any], options: CallOptions
) -> None:
    """Refuses a call by the shapes and dtypes of its operands, and its options.

    Raises:
        InvalidArgument: As the client's, with names of the contract.
    """
    tensors = {}
    for name, operand in zip(names, operands, strict=True):
        if name == "seed":
            continue
        field = f"options.{name}" if name in OPTION_TENSORS.values() else name
        code = DTYPE_CODES[encode_dtype(np.dtype(operand.dtype), field)]
        strides = [1]
        for extent in reversed(operand.shape[1:]):
            strides.insert(0, strides[0] * max(extent, 1))
        # No element is looked at; only null is no address.
        tensors[field] = (1, code, operand.shape, tuple(strides))
    inputs = tuple(map(tensors.get, kernels_library().binding.INPUTS))
    runner = runner_in_place(local_context(-1))
    runner.flops(OPERATION_NUMBERS[operation], inputs, packed_options(options))


def _heads_inside(name: str, rank: int) -> bool:
    """Whether the library takes a tensor as [batch, seq, heads, dim] (kernels/c/jax/call.cc).

    The arrays of `dot_product_attention` lie like that: XLA cancels the transpositions.
    """
    return rank == 4 and name.split("_")[0] in "qkvo"


def custom_call(
    operation: str,
    names: Sequence[str],
    outputs: Sequence[str],
    options: CallOptions,
    threads: int,
    operands: Sequence[jax.Array],
    results: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
) -> list[jax.Array]:
    """Calls the kernels within the computation that is being traced.

    Args:
        operation: ``"forward"``, ``"vjp"``, ``"jvp"`` or ``"hvp"``.
        names: Of the operands: those of the operation, of the options, and ``"seed"``.
        outputs: Names of the results.
        options: All but the tensors and the dropout's seed.
        threads: Of the CPU; 0 for one per core.
        operands: Arrays of the shapes that `validate` let pass.
        results: Shapes and dtypes of the outputs.
    """
    given = [
        x.swapaxes(1, 2) if _heads_inside(name, x.ndim) else x
        for name, x in zip(names, operands, strict=True)
    ]
    made = []
    for name, (shape, dtype) in zip(outputs, results, strict=True):
        if _heads_inside(name, len(shape)):
            batch, heads, rows, dim = shape
            shape = (batch, rows, heads, dim)
        made.append(jax.ShapeDtypeStruct(shape, dtype))
    arrays: Sequence[jax.Array] = jax.ffi.ffi_call(f"theria_{operation}", made)(
        *given,
        inputs=",".join(names),
        outputs=",".join(outputs),
        threads=np.int64(threads),
        **attributes(options),
    )
    return [
        x.swapaxes(1, 2) if _heads_inside(name, x.ndim) else x
        for name, x in zip(outputs, arrays, strict=True)
    ]
