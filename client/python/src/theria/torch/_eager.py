"""Calls outside every tracer, transform and mode: past the dispatcher, straight to the kernels.

A call through `torch.ops` costs more host time than a small attention on a GPU. Where nothing but
autograd could see the operator, `_functions.py` therefore calls `EagerCall.compute` instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch.utils._device import DeviceContext

from theria._default_client import AttentionClient, default_client
from theria._errors import InvalidArgument, Unavailable
from theria._kernels_library import kernels_library
from theria._local_client import LocalClient
from theria._local_options import OPERATION_NUMBERS
from theria._local_runner import use_torch
from theria._options import OPTION_TENSORS
from theria.torch._call import ARGUMENT_NAMES, Options
from theria.torch._operators import ARGUMENTS

if TYPE_CHECKING:
    from theria_kernels import _binding

__all__ = ["EagerCall", "eager_client", "is_eager", "records"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None

_UINT64 = 2**64 - 1


def _raw(key: Any) -> int:
    return int(torch._C.DispatchKeySet(key).raw_repr())


_Key = torch._C.DispatchKey
_SERVED_BELOW = _raw(_Key.BackendSelect) | _raw(_Key.ADInplaceOrView)
# Whatever else a thread's dispatcher includes is a mode, a transform or a tracer.
_SEES_OPERATORS = _UINT64 & ~_SERVED_BELOW
_included = torch._C._dispatch_tls_local_include_set
_function_modes = torch._C._len_torch_function_stack


def _are_plain_without_kernels(_tensors: tuple[MaybeTensor, ...]) -> bool:
    return False


_are_plain: Callable[[tuple[MaybeTensor, ...]], bool] | None = None


def _find_are_plain() -> Callable[[tuple[MaybeTensor, ...]], bool]:
    global _are_plain
    try:
        library = kernels_library()
    except Unavailable:  # once: looking for the package takes longer than a call
        _are_plain = _are_plain_without_kernels
        return _are_plain
    use_torch(library)
    _are_plain = library.binding.are_plain
    return _are_plain


def is_eager(tensors: tuple[MaybeTensor, ...]) -> bool:
    """Whether autograd alone may see an operator on `tensors`, which are plain and on one device.

    False within `torch.func`, vmaps, dispatch modes (fake tensors, `make_fx`, functionalisation),
    `torch.jit.trace`, function modes but that of the default device, and levels of forward AD; and
    for subclasses and tensors without memory of their own.
    """
    return (
        not torch.compiler.is_dynamo_compiling()  # first, for dynamo traces no more than this
        and not _included().raw_repr() & _SEES_OPERATORS
        and forward_ad._current_level < 0
        and (_function_modes() == 0 or _only_default_device())
        and (_are_plain or _find_are_plain())(tensors)
    )


def _only_default_device() -> bool:
    modes = map(torch._C._get_function_stack_at, range(_function_modes()))
    return all(type(mode) is DeviceContext for mode in modes)


def records(tensors: Sequence[MaybeTensor]) -> bool:
    """Whether autograd, where it is on, records an operator on `tensors`."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:  # noqa: SIM110  # a generator takes longer
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def eager_client(client: AttentionClient | None) -> LocalClient | None:
    """`client`, or the default, if that computes in this process."""
    if client is None:
        client = default_client()
    return client if isinstance(client, LocalClient) else None


class EagerCall:
    """What a forward and its derivatives have in common.

    Attributes:
        client: That computes.
        options: Of the operators, but for the client.
        runner: On the device of the tensors.
    """

    __slots__ = ("client", "options", "runner")

    def __init__(self, client: LocalClient, options: Options, runner: _binding.Runner):
        self.client = client
        self.options = options
        self.runner = runner

    def compute(
        self, name: str, arguments: tuple[MaybeTensor, ...], outputs: tuple[str, ...]
    ) -> tuple[Tensor, ...]:
        """Runs an operation on plain tensors; autograd does not see it.

        Args:
            name: Of the operator.
            arguments: Its tensors, the mask and the seed, None for an absent one.
            outputs: Names of what is returned.

        Raises:
            theria.Error: The library's, which names arguments of `sdpa`.
        """
        plan = _plan(name, outputs)
        seed, options = arguments[plan.seed], self.options
        packed = options.packed if seed is None else options.packed_with(int(seed) & _UINT64)
        try:
            return self.runner.run(
                plan.number, plan.arranged((*arguments, None)), plan.outputs, packed, 0.0
            )[0]
        except InvalidArgument:
            mask = arguments[plan.mask]
            with ARGUMENT_NAMES.in_errors(0 if mask is None else mask.dim()):
                raise


class _Plan(NamedTuple):
    """How an operator's arguments become those of the binding.

    Attributes:
        number: Of the operation.
        arranged: The binding's inputs from (*arguments, None).
        outputs: Their numbers.
        seed: Its place among the arguments.
        mask: Its place.
    """

    number: int
    arranged: Callable[..., Any]
    outputs: tuple[int, ...]
    seed: int
    mask: int


@functools.lru_cache
def _plan(name: str, outputs: tuple[str, ...]) -> _Plan:
    binding = kernels_library().binding
    arguments = ARGUMENTS[name]
    options = {f"options.{field}": keyword for keyword, field in OPTION_TENSORS.items()}
    options["options.mask"] = "mask"
    names = [options.get(each, each) for each in binding.INPUTS]
    places = [arguments.index(x) if x in arguments else -1 for x in names]
    return _Plan(
        OPERATION_NUMBERS[name],
        itemgetter(*places),
        tuple(map(binding.OUTPUTS.index, outputs)),
        arguments.index("seed"),
        arguments.index("mask"),
    )
