"""Calls past the dispatcher: their values, their cost in Python, and who still sees operators."""

from __future__ import annotations

import gc
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import theria
from theria.torch import _functions, _sdpa, sdpa
from theria.torch._eager import is_eager

Tensor = torch.Tensor


@pytest.fixture
def local() -> theria.Client:
    return theria.local("cpu", threads=1)


@pytest.fixture
def no_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(f"theria::{name} went through the dispatcher")

    monkeypatch.setattr(_sdpa, "operator", refuse)
    monkeypatch.setattr(_functions, "operator", refuse)


def draw(count: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 2, 5, 4, dtype=torch.float64).to(dtype) for _ in range(count)]


def explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def all_orders(attention: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """o, its gradients, and the gradients of a function of those."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    o = attention(*inputs)
    first = torch.autograd.grad(o.double().sin().sum(), inputs, create_graph=True)
    loss = torch.stack([x.double().cos().sum() for x in first]).sum()
    return [o.detach(), *first, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("no_operators")
def test_values_of_every_order(local: theria.Client, dtype: torch.dtype, masked: bool) -> None:
    mask = torch.ones(5, 5, dtype=torch.bool).tril() if masked else None
    inputs = draw(dtype=dtype)
    actual = all_orders(lambda q, k, v: sdpa(q, k, v, mask, client=local), inputs)
    expected = all_orders(lambda q, k, v: explicit(q, k, v, mask), [x.double() for x in inputs])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 3e-2)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert (a.double() - e).norm() < tolerance * e.norm()


@pytest.mark.usefixtures("no_operators")
def test_options_and_shapes(local: theria.Client) -> None:
    q, k, v = draw()
    half = k[:, :1], v[:, :1]
    expected = explicit(q, *(x.expand_as(k) for x in half))
    torch.testing.assert_close(sdpa(q, *half, enable_gqa=True, client=local), expected)
    flat = sdpa(q[0, 0], k[0, 0], v[0, 0], client=local)
    torch.testing.assert_close(flat, explicit(q, k, v)[0, 0])
    banded = sdpa(q, k, v, window=(1, 0), client=local)
    band = torch.ones(5, 5, dtype=torch.bool).tril().triu(-1)
    torch.testing.assert_close(banded, explicit(q, k, v, band))
    mine = torch.nn.attention.bias.causal_upper_left(5, 5)
    torch.testing.assert_close(
        sdpa(q, k, v, mine, client=local), explicit(q, k, v, torch.ones(5, 5).tril().bool())
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sdpa(q.float(), k.float(), v.float(), client=local).dtype == torch.bfloat16
    torch.set_default_device("cpu")
    try:
        torch.testing.assert_close(sdpa(q, k, v, client=local), explicit(q, k, v))
    finally:
        torch.set_default_device(None)


def test_dropout_is_that_of_the_operators(
    local: theria.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v, dropout_p=0.4, dropout_seed=2**64 - 3, client=local)

    eager = all_orders(attention, draw())
    monkeypatch.setattr(_sdpa, "is_eager", lambda _tensors: False)
    for a, e in zip(eager, all_orders(attention, draw()), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


@pytest.mark.usefixtures("no_operators")
def test_errors_name_the_arguments(local: theria.Client) -> None:
    q, k, v = draw()
    for arguments, field in (
        ((q, k[..., :3], v), "key.shape[-1]"),
        ((q, k.float(), v), "key.dtype"),
        ((q, k, v, torch.ones(4, 5).bool()), "attn_mask.shape[-2]"),
    ):
        with pytest.raises(theria.InvalidArgument) as caught:
            sdpa(*arguments, client=local)
        assert caught.value.field == field
    with pytest.raises(theria.InvalidArgument, match="implementation"):
        sdpa(q, k, v, implementation="magic", client=local)  # type: ignore[arg-type]


def frames_of(call: Callable[[], object]) -> int:
    """Python functions that a call enters."""
    count = 0

    def observe(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    call()
    sys.setprofile(observe)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count - 1


def test_a_call_is_few_python_functions(local: theria.Client) -> None:
    q, k, v = (x.requires_grad_() for x in draw())
    with torch.no_grad():
        assert frames_of(lambda: sdpa(q, k, v, client=local)) <= 16
    assert frames_of(lambda: sdpa(q, k, v, client=local)) <= 22
    o = sdpa(q, k, v, client=local)
    backward = frames_of(lambda: torch.autograd.grad(o, q, o, retain_graph=True))
    exact = explicit(q, k, v)
    framework = frames_of(lambda: torch.autograd.grad(exact, q, o, retain_graph=True))
    assert backward - framework <= 12


class Seen(TorchDispatchMode):
    """Records the operators that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    """Records the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Seen, SeenFunctions])
def test_modes_see_operators(local: theria.Client, mode: Any) -> None:
    q, k, v = (x.requires_grad_() for x in draw())
    with mode() as seen:
        o = sdpa(q, k, v, client=local)
    assert "theria.forward.default" in seen.names
    with mode() as seen:
        torch.autograd.grad(o.sum(), q)
    assert mode is SeenFunctions or "theria.vjp.default" in seen.names


@pytest.mark.parametrize("recorded_by", ["sdpa", "its gradient"])
def test_tracers_record_operators(local: theria.Client, recorded_by: str) -> None:
    q, k, v = draw()

    def gradient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q.detach().requires_grad_()
        return torch.autograd.grad(sdpa(q, k, v, client=local).sin().sum(), q)[0]

    function = gradient if recorded_by == "its gradient" else sdpa_of(local)
    graph = make_fx(function)(q, k, v)
    names = [str(node.target) for node in graph.graph.nodes]
    assert "theria.forward.default" in names
    assert ("theria.vjp.default" in names) == (recorded_by == "its gradient")
    others = draw(6)[3:]
    torch.testing.assert_close(graph(*others), function(*others))


def sdpa_of(client: theria.Client) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: sdpa(q, k, v, client=client)


class Wrapper(torch.Tensor):
    """A subclass that passes operators on."""

    @staticmethod
    def __new__(cls, elements: Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, elements.shape, dtype=elements.dtype, strides=elements.stride()
        )

    def __init__(self, elements: Tensor):
        self.elements = elements

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [x.elements if isinstance(x, Wrapper) else x for x in args]
        return func(*plain, **(kwargs or {}))


def test_subclasses_see_operators(local: theria.Client) -> None:
    q, k, v = draw()
    assert not is_eager((q, Wrapper(k), v))
    torch.testing.assert_close(sdpa(q, Wrapper(k), v, client=local), explicit(q, k, v))


@contextmanager
def dual_level(_x: Tensor) -> Iterator[None]:
    with forward_ad.dual_level():
        yield


def functorch(_x: Tensor) -> AbstractContextManager[Any]:
    from torch._functorch.eager_transforms import grad_increment_nesting

    return grad_increment_nesting()


MODES: dict[str, Callable[[Tensor], AbstractContextManager[Any]]] = {
    "fake tensors": lambda _x: FakeTensorMode(),
    "dispatch mode": lambda _x: Seen(),
    "function mode": lambda _x: SeenFunctions(),
    "forward AD": dual_level,
    "functorch": functorch,
    "python dispatcher": lambda _x: torch._dispatch.python.enable_python_dispatcher(),
}


@pytest.mark.parametrize("mode", MODES)
def test_not_within_modes(mode: str) -> None:
    x = torch.ones(1, 1, 1, 1)
    assert is_eager((x,))
    with MODES[mode](x):
        assert not is_eager((x,))
    assert is_eager((x, None, torch.nn.Parameter(x)))


def batched(x: Tensor) -> Tensor:
    return torch._add_batch_dim(x, 0, 1)


def negated(x: Tensor) -> Tensor:
    return torch.complex(x, x).conj().imag


TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "of the older vmap": batched,
    "functional": torch._to_functional_tensor,
    "fake": lambda x: FakeTensorMode().from_tensor(x),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "negated": negated,
    "integer": lambda x: x.long(),
    "zero tensor": lambda x: torch._efficientzerotensor(x.shape),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[0]]),
    "no tensor": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_not_with_tensors_of_other_kinds(kind: str) -> None:
    x = torch.ones(2, 2, 2, 2)
    assert not is_eager((x, TENSORS[kind](x)))


def test_lazily_negated_elements(local: theria.Client) -> None:
    q, k, v = draw()
    torch.testing.assert_close(sdpa(q, negated(k), v, client=local), explicit(q, -k, v))


def test_nothing_is_recorded_below_autograd(local: theria.Client) -> None:
    q, k, v = (x.requires_grad_() for x in draw())
    with torch._C._AutoDispatchBelowAutograd():
        assert not sdpa(q, k, v, client=local).requires_grad
    with torch.inference_mode():
        assert sdpa(q, k, v, client=local).is_inference()


def test_the_client_lives_as_long_as_its_graph() -> None:
    q, k, v = (x.requires_grad_() for x in draw())
    client = theria.local("cpu", threads=1)
    o = sdpa(q, k, v, client=client)
    alive = weakref.ref(client)
    del client
    with Seen() as seen:  # so that an operator has to find the client by its name
        (gradient,) = torch.autograd.grad(o.sum(), q)
    assert "theria.vjp.default" in seen.names
    torch.testing.assert_close(gradient, torch.autograd.grad(explicit(q, k, v).sum(), q)[0])
    del o
    gc.collect()
    assert alive() is None


def test_saved_tensor_hooks_see_what_is_saved(local: theria.Client) -> None:
    q, k, v = (x.requires_grad_() for x in draw())
    packed: list[Tensor] = []

    def pack(x: Tensor) -> int:
        packed.append(x.detach().clone())
        return len(packed) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda index: packed[index]):
        o = sdpa(q, k, v, client=local)
    assert len(packed) == 5
    torch.testing.assert_close(
        torch.autograd.grad(o.sum(), v)[0], torch.autograd.grad(explicit(q, k, v).sum(), v)[0]
    )
