"""The derivatives of the operators, which are the operators themselves.

The rules are those of docs/operator_contract.md, "Double backward needs no further kernel". With
J the Jacobian of o with respect to x = (q, k, v), and H(u)[x_dot] the product of the Hessian of
<u, o> with x_dot:

    o                    backward:  VJP                    jvp:  JVP
    J^T o_bar            backward:  H(o_bar)[g], J g       jvp:  H(o_bar)[x_dot] + J^T o_bar_dot
    J x_dot              backward:  H(u)[x_dot], J^T u     jvp:  J x_ddot, linear part only
    H(o_bar)[x_dot] + J^T o_bar_dot
                         backward:  by x_dot H(o_bar)[g], by o_bar_dot J g, linear part only
                         jvp:       linear part only

They are registered below functorch, for the dispatch key Autograd, so that `torch.autograd`,
`torch.func` and every tracer see the same operators at every level. Where there is no tracer and
no level, `call_eagerly` applies the same rules without the dispatcher. The saved `o` and `lse`
spare the server the forward and count as functions of q, k and v: their own gradient is never
propagated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from theria._client_registry import DEFAULT, client_name, named_client
from theria._default_client import AttentionClient
from theria._differentiation_errors import DerivativeOrderError, MaskGradientError, NoClientError
from theria.torch._eager import EagerCall, is_eager, records
from theria.torch._operators import LIBRARY, OPERATORS, OUTPUTS, after_schema, operator

__all__ = ["call_eagerly"]

Tensor = torch.Tensor
MaybeTensor = Tensor | None

_AUTOGRAD = torch._C.DispatchKey.AutogradOther
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_BARS = ("q_bar", "k_bar", "v_bar")
_BAR_DOTS = ("q_bar_dot", "k_bar_dot", "v_bar_dot")


class _Site:
    """One application of an operator.

    Attributes:
        name: Of the operator.
        outputs: Their names.
    """

    __slots__ = ("name", "outputs")
    name: str
    outputs: tuple[str, ...]

    def compute(self, arguments: tuple[MaybeTensor, ...]) -> tuple[Tensor, ...]:
        """The outputs, at the level of autograd that is differentiating."""
        raise NotImplementedError

    def apply(self, name: str, *arguments: MaybeTensor, outputs: tuple[str, ...] = ()) -> Any:
        """An operator with the options of this one."""
        raise NotImplementedError


class _DispatchedSite(_Site):
    """Of a call through PyTorch's dispatcher.

    Args:
        name: Of the operator.
        keyset: The dispatch keys that it came with.
        options: Its keyword arguments.
    """

    __slots__ = ("_client", "_keyset", "_options")

    def __init__(self, name: str, keyset: torch._C.DispatchKeySet, options: dict[str, Any]):
        self.name = name
        self.outputs = tuple(options.get("outputs") or OUTPUTS[name])
        self._keyset = keyset
        self._options = options
        # Kept alive for the derivatives; None where a tracer has none.
        self._client = _client(options.get("client", ""))

    def compute(self, arguments: tuple[MaybeTensor, ...]) -> tuple[Tensor, ...]:
        with _below_autograd():
            result = operator(self.name).redispatch(
                self._keyset & torch._C._after_autograd_keyset, *arguments, **self._options
            )
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def apply(self, name: str, *arguments: MaybeTensor, outputs: tuple[str, ...] = ()) -> Any:
        options = {key: value for key, value in self._options.items() if key != "outputs"}
        if name == "hvp":
            options["outputs"] = list(outputs)
        return operator(name)(*arguments, **options)


class _EagerSite(_Site):
    """Of a call past the dispatcher."""

    __slots__ = ("_call",)

    def __init__(self, name: str, outputs: tuple[str, ...], call: EagerCall):
        self.name = name
        self.outputs = outputs
        self._call = call

    def compute(self, arguments: tuple[MaybeTensor, ...]) -> tuple[Tensor, ...]:
        return self._call.compute(self.name, arguments, self.outputs)

    def apply(self, name: str, *arguments: MaybeTensor, outputs: tuple[str, ...] = ()) -> Any:
        if is_eager(arguments):
            return call_eagerly(self._call, name, arguments, outputs)
        keywords = self._call.options.of_operator(client_name(self._call.client))
        if name == "hvp":
            keywords["outputs"] = list(outputs)
        return operator(name)(*arguments, **keywords)


@contextmanager
def _below_autograd() -> Iterator[None]:
    """Calls go to the next level of functorch, which differentiates by itself, or to the kernel."""
    with torch._C._AutoDispatchBelowAutograd(), torch.enable_grad(), _set_fwd_grad_enabled(True):
        yield


class _Level(torch.autograd.function._SingleLevelFunction):
    """A function at one level of functorch; `Function` would pass through all of them at once."""

    @classmethod
    def of(cls, *arguments: Any) -> Any:
        """Applies it."""
        with enable_single_level_autograd_function():
            return cls.apply(*arguments)  # type: ignore[attr-defined]  # of the C++ base


class _Differentiable(_Level):
    """(site, *arguments) -> outputs, with inputs saved for both modes."""

    @staticmethod
    def forward(ctx: Any, site: _Site, *arguments: MaybeTensor) -> Any:
        outputs = site.compute(arguments)
        _save(ctx, site, arguments)
        return outputs


def _save(ctx: Any, site: _Site, tensors: Sequence[MaybeTensor]) -> None:
    ctx.site = site
    ctx.save_for_backward(*tensors)
    if type(site) is not _EagerSite:  # which forward mode does not see
        ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def _primals(ctx: Any) -> tuple[MaybeTensor, ...]:
    """The saved tensors without their tangents: a tangent's formula sees only values."""
    return tuple(None if x is None else unpack_dual(x).primal for x in ctx.saved_tensors)


class _Forward(_Differentiable):
    """(site, q, k, v, mask, seed) -> o, lse. `lse` is not differentiable."""

    @staticmethod
    def forward(ctx: Any, site: _Site, *arguments: MaybeTensor) -> Any:
        o, lse = site.compute(arguments)
        _save(ctx, site, (*arguments, o, lse))
        ctx.mark_non_differentiable(lse)
        return o, lse

    @staticmethod
    def backward(ctx: Any, o_bar: MaybeTensor, _lse_bar: MaybeTensor) -> Any:
        _refuse_mask(ctx.needs_input_grad[4])
        q, k, v, mask, seed, o, lse = ctx.saved_tensors
        if o_bar is None:
            return (None,) * 6
        bars = ctx.site.apply("vjp", q, k, v, o_bar, o, lse, mask, seed)
        return None, *bars, None, None

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        q, k, v, mask, seed, o, lse = _primals(ctx)
        qkv_dot = tangents[:3]
        _refuse_mask(tangents[3] is not None)
        if not _any(qkv_dot):
            return None, None
        return ctx.site.apply("jvp", q, k, v, *qkv_dot, o, lse, mask, seed), None


class _Vjp(_Differentiable):
    """(site, q, k, v, o_bar, o, lse, mask, seed) -> q_bar, k_bar, v_bar."""

    @staticmethod
    def backward(ctx: Any, *g: MaybeTensor) -> Any:
        q, k, v, o_bar, *constants = ctx.saved_tensors
        needs = ctx.needs_input_grad[1:5]
        gradients: tuple[MaybeTensor, ...] = (None,) * 4
        if _any(g) and any(needs[:3]):
            outputs = ("o_dot", *_BAR_DOTS)
            o_dot, *bar_dots = ctx.site.apply(
                "hvp", q, k, v, o_bar, *g, None, *constants, outputs=outputs
            )
            gradients = (*bar_dots, o_dot)
        elif _any(g):
            gradients = (None, None, None, ctx.site.apply("jvp", q, k, v, *g, *constants))
        return None, *gradients, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        q, k, v, o_bar, *constants = _primals(ctx)
        *qkv_dot, o_bar_dot = tangents[:4]
        if _any(qkv_dot):
            dots = (*qkv_dot, o_bar_dot)
            hvp = ctx.site.apply("hvp", q, k, v, o_bar, *dots, *constants, outputs=_BAR_DOTS)
            return tuple(hvp)
        if o_bar_dot is not None:
            return ctx.site.apply("vjp", q, k, v, o_bar_dot, *constants)
        return None, None, None


class _Jvp(_Differentiable):
    """(site, q, k, v, q_dot, k_dot, v_dot, o, lse, mask, seed) -> (o_dot,)."""

    @staticmethod
    def backward(ctx: Any, u: MaybeTensor) -> Any:
        q, k, v, *rest = ctx.saved_tensors
        dots, constants = rest[:3], rest[3:]
        gradients: tuple[MaybeTensor, ...] = (None,) * 6
        if u is not None and any(ctx.needs_input_grad[1:4]):
            outputs = (*_BARS, *_BAR_DOTS)
            found = ctx.site.apply("hvp", q, k, v, u, *dots, None, *constants, outputs=outputs)
            gradients = (*found[3:], *found[:3])
        elif u is not None:
            gradients = (None, None, None, *ctx.site.apply("vjp", q, k, v, u, *constants))
        present = (True, True, True, *(dot is not None for dot in dots))
        kept = (x if there else None for x, there in zip(gradients, present, strict=True))
        return None, *kept, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        q, k, v, _, _, _, *constants = _primals(ctx)
        qkv_dot, qkv_ddot = tangents[:3], tangents[3:6]
        if _any(qkv_dot):
            raise DerivativeOrderError(
                "forward mode over forward mode of attention is not available; take forward over "
                "reverse instead, such as torch.func.jacfwd(torch.func.jacrev(f)), which is exact"
            )
        if not _any(qkv_ddot):
            return None
        return ctx.site.apply("jvp", q, k, v, *qkv_ddot, *constants)


class _Hvp(_Differentiable):
    """(site, 4 guarded, q, k, v, o_bar, q_dot, k_dot, v_dot, o_bar_dot, o, lse, mask, seed).

    The gradients of q, k, v and o_bar go to the guarded ones, which are the same tensors behind a
    `_Guard`. Where they would be of third order they are None, which the guard refuses.
    """

    @staticmethod
    def forward(ctx: Any, site: _Site, *arguments: MaybeTensor) -> Any:
        outputs = site.compute(arguments[4:])
        _save(ctx, site, arguments[4:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: MaybeTensor) -> Any:
        q, k, v, o_bar, *rest = ctx.saved_tensors
        dots, o_bar_dot, constants = rest[:3], rest[3], rest[4:]
        given = dict(zip(ctx.site.outputs, cotangents, strict=True))
        h, g = ([given.get(name) for name in names] for names in (_BARS, _BAR_DOTS))
        u = given.get("o_dot")

        # By the tangents: the operator is linear in them, by the symmetric [[H, J^T], [J, 0]].
        by_dots: Sequence[MaybeTensor] = (None,) * 3
        by_o_bar_dot: MaybeTensor = None
        if _any(g):
            outputs = (*_BAR_DOTS, "o_dot")
            *by_dots, by_o_bar_dot = ctx.site.apply(
                "hvp", q, k, v, o_bar, *g, u, *constants, outputs=outputs
            )
        elif u is not None:
            by_dots = ctx.site.apply("vjp", q, k, v, u, *constants)
        by_dots = [x if dot is not None else None for x, dot in zip(by_dots, dots, strict=True)]
        if o_bar_dot is None:
            by_o_bar_dot = None

        # By q, k, v and o_bar: of the bars and of o_dot, which are of first order.
        by_point: list[MaybeTensor] = [None] * 4
        if any(ctx.needs_input_grad[1:5]) and not _any(g):
            by_point = [torch.zeros_like(x) for x in (q, k, v, o_bar)]
            if _any(h):
                outputs = (*_BAR_DOTS, "o_dot")
                found = ctx.site.apply("hvp", q, k, v, o_bar, *h, None, *constants, outputs=outputs)
                by_point = list(found)
            if u is not None and _any(dots):
                found = ctx.site.apply(
                    "hvp", q, k, v, u, *dots, None, *constants, outputs=_BAR_DOTS
                )
                by_point[:3] = [x + y for x, y in zip(by_point[:3], found, strict=True)]
        return None, *by_point, *(None,) * 4, *by_dots, by_o_bar_dot, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        q, k, v, o_bar, *rest = _primals(ctx)
        dots, constants = rest[:3], rest[4:]
        *qkv_dot, o_bar_t = tangents[4:8]
        *ddots, o_bar_dot_t = tangents[8:12]
        if _any(qkv_dot):
            _refuse_third_order()
        outputs = ctx.site.outputs
        total: list[MaybeTensor] = [None] * len(outputs)
        if _any(ddots) or o_bar_dot_t is not None:
            found = ctx.site.apply(
                "hvp", q, k, v, o_bar, *ddots, o_bar_dot_t, *constants, outputs=outputs
            )
            total = [None if n in _BARS else x for n, x in zip(outputs, found, strict=True)]
        if o_bar_t is not None:
            found = ctx.site.apply(
                "hvp", q, k, v, o_bar_t, *dots, None, *constants, outputs=outputs
            )
            total = [
                x if n == "o_dot" else y if x is None else x + y
                for n, x, y in zip(outputs, total, found, strict=True)
            ]
        return tuple(total)


class _Guard(_Level):
    """x -> x, whose gradient is needed only where a third-order derivative is asked for.

    Autograd tells a function which of its inputs require a gradient, not which gradients are asked
    for. It does tell by which nodes it visits, and it visits this one for nothing else.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        with _below_autograd():
            return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, gradient: MaybeTensor) -> Tensor:
        if gradient is None:
            _refuse_third_order()
        return gradient

    @staticmethod
    def jvp(_ctx: Any, tangent: MaybeTensor) -> MaybeTensor:
        return tangent


def _guarded(arguments: Sequence[MaybeTensor]) -> list[MaybeTensor]:
    return [
        _Guard.of(x) if x is not None and x.requires_grad and torch.is_grad_enabled() else x
        for x in arguments
    ]


_FUNCTIONS: dict[str, type[_Differentiable]] = {
    "forward": _Forward,
    "vjp": _Vjp,
    "jvp": _Jvp,
    "hvp": _Hvp,
}
_COUNTS = {"forward": 5, "vjp": 8, "jvp": 10, "hvp": 12}


def _register(name: str) -> None:
    def kernel(keyset: torch._C.DispatchKeySet, *arguments: MaybeTensor, **options: Any) -> Any:
        site = _DispatchedSite(name, keyset, options)
        missing = (None,) * (_COUNTS[name] - len(arguments))  # the dispatcher drops defaults
        operands = [*arguments, *missing]
        if name == "hvp":
            operands = [*_guarded(operands[:4]), *operands]
        return after_schema(name, _FUNCTIONS[name].of(site, *operands))

    LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def call_eagerly(
    call: EagerCall, name: str, arguments: tuple[MaybeTensor, ...], outputs: tuple[str, ...] = ()
) -> Any:
    """What the operator of that name returns for tensors that are `is_eager`, with its derivatives.

    Args:
        call: What forward and derivatives have in common.
        name: Of the operator.
        arguments: All that it has, None for an absent one.
        outputs: Of hvp.
    """
    outputs = outputs or OUTPUTS[name]
    if not records(arguments):
        return after_schema(name, call.compute(name, arguments, outputs))
    if _is_excluded(_AUTOGRAD):  # in the kernel of an operator, whose derivative is its own
        with torch.no_grad():
            return after_schema(name, call.compute(name, arguments, outputs))
    site = _EagerSite(name, outputs, call)
    if name == "hvp":
        arguments = (*_guarded(arguments[:4]), *arguments)
    return after_schema(name, _FUNCTIONS[name].apply(site, *arguments))  # type: ignore[attr-defined]


def _client(name: str) -> AttentionClient | None:
    if name == DEFAULT:
        return None
    try:
        return named_client(name)
    except NoClientError:
        return None  # the kernel, if one is called at all, raises it


def _any(tensors: Sequence[MaybeTensor]) -> bool:
    return any(tensor is not None for tensor in tensors)


def _refuse_mask(differentiated: bool) -> None:
    if differentiated:
        raise MaskGradientError.of("attn_mask", "Detach it")


def _refuse_third_order() -> NoReturn:
    raise DerivativeOrderError(
        "a third-order derivative of attention was asked for; forward, VJP, JVP and HVP give the "
        "first two orders exactly and no more"
    )


for _name in OPERATORS:
    _register(_name)
