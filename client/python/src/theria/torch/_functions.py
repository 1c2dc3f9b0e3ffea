"""The derivatives of the operators, which are the operators themselves.

The rules are those of docs/operator_contract.md, "Double backward needs no further kernel". With
J the Jacobian of y = (o, lse) with respect to x = (q, k, v, bias), and H(u)[x_dot] the product of
the Hessian of <u, y> with x_dot:

    y                    backward:  VJP                    jvp:  JVP
    J^T y_bar            backward:  H(y_bar)[g], J g       jvp:  H(y_bar)[x_dot] + J^T y_bar_dot
    J x_dot              backward:  H(u)[x_dot], J^T u     jvp:  J x_ddot, linear part only
    H(y_bar)[x_dot] + J^T y_bar_dot
                         backward:  by x_dot H(y_bar)[g], by y_bar_dot J g, linear part only
                         jvp:       linear part only

The bias is the operators' argument `mask`, where that is floating point. Tensors go by their names
in dictionaries; what is absent there is zero.

They are registered below functorch, for the dispatch key Autograd, so that `torch.autograd`,
`torch.func` and every tracer see the same operators at every level. The saved `o` and `lse` spare
the server the forward and count as functions of x: their own gradient is never propagated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch.autograd.forward_ad import unpack_dual

from theria._client_registry import DEFAULT, client_name, named_client
from theria._default_client import AttentionClient
from theria._differentiation_errors import DerivativeOrderError, NoClientError
from theria.torch._eager import EagerCall, is_eager, records
from theria.torch._levels import Level, below_autograd
from theria.torch._named import (
    BARS,
    BARS_NEEDED,
    COTANGENT_DOTS,
    COTANGENTS,
    DIRECTION_OF,
    DOTS,
    GUARDED,
    POINT_OF,
    MaybeTensor,
    Tensor,
    Tensors,
    any_of,
    gradients_of,
    picked,
    point_of,
    sum_of,
    vjp_of_forward,
)
from theria.torch._operators import (
    ARGUMENTS,
    LIBRARY,
    OPERATORS,
    OUTPUTS,
    after_schema,
    named_arguments,
    operator,
)

__all__ = ["call_eagerly"]


_AUTOGRAD = torch._C.DispatchKey.AutogradOther
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded


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

    def apply(self, name: str, tensors: Tensors, outputs: Sequence[str]) -> Tensors:
        """An operator with the options of this one; its outputs by name."""
        if not outputs:
            return {}
        arguments = tuple(map(tensors.get, ARGUMENTS[name]))
        return dict(zip(outputs, self.call(name, arguments, tuple(outputs)), strict=True))

    def call(
        self, name: str, arguments: tuple[MaybeTensor, ...], outputs: tuple[str, ...]
    ) -> Sequence[Tensor]:
        """As `apply`, with all arguments in their order."""
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
        with below_autograd():
            result = operator(self.name).redispatch(
                self._keyset & torch._C._after_autograd_keyset, *arguments, **self._options
            )
        return tuple(result)

    def call(
        self, name: str, arguments: tuple[MaybeTensor, ...], outputs: tuple[str, ...]
    ) -> Sequence[Tensor]:
        options = {key: value for key, value in self._options.items() if key != "outputs"}
        found: Sequence[Tensor] = operator(name)(*arguments, outputs=list(outputs), **options)
        return found


class _EagerSite(_Site):
    """Of a call past the dispatcher."""

    __slots__ = ("_call",)

    def __init__(self, name: str, outputs: tuple[str, ...], call: EagerCall):
        self.name = name
        self.outputs = outputs
        self._call = call

    def compute(self, arguments: tuple[MaybeTensor, ...]) -> tuple[Tensor, ...]:
        return self._call.compute(self.name, arguments, self.outputs)

    def call(
        self, name: str, arguments: tuple[MaybeTensor, ...], outputs: tuple[str, ...]
    ) -> Sequence[Tensor]:
        found: Sequence[Tensor]
        if is_eager(arguments):
            found = call_eagerly(self._call, name, arguments, outputs)
        else:
            options = self._call.options.of_operator(client_name(self._call.client))
            found = operator(name)(*arguments, outputs=list(outputs), **options)
        return found


class _Differentiable(Level):
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


def _saved(ctx: Any) -> Tensors:
    return dict(zip(ARGUMENTS[ctx.site.name], ctx.saved_tensors, strict=True))


def _primals(ctx: Any) -> Tensors:
    """The saved tensors without their tangents: a tangent's formula sees only values."""
    return {name: None if x is None else unpack_dual(x).primal for name, x in _saved(ctx).items()}


def _needed(ctx: Any) -> set[str]:
    """The names of the arguments whose gradient may be asked for."""
    needs = ctx.needs_input_grad[1:]
    return {name for name, needs in zip(ARGUMENTS[ctx.site.name], needs, strict=False) if needs}


def _by_argument(ctx: Any, gradients: Tensors) -> tuple[MaybeTensor, ...]:
    """What a backward returns: for the site, then for each argument."""
    return None, *(gradients.get(name) for name in ARGUMENTS[ctx.site.name])


def _tangents(ctx: Any, tangents: Sequence[MaybeTensor]) -> tuple[Tensors, Tensors]:
    """Those of x, as x_dot, and those of the other arguments, as they are called."""
    given = dict(zip(ARGUMENTS[ctx.site.name], tangents, strict=True))
    dots = {f"{x}_dot": given.pop(argument, None) for x, argument in POINT_OF.items()}
    return dots, given


def _in_order(ctx: Any, tangents: Tensors) -> tuple[MaybeTensor, ...]:
    return tuple(tangents.get(name) for name in ctx.site.outputs)


class _Forward(_Differentiable):
    """(site, x, constants) -> o, lse."""

    @staticmethod
    def forward(ctx: Any, site: _Site, *arguments: MaybeTensor) -> Any:
        o, lse = site.compute(arguments)
        _save(ctx, site, (*arguments, o, lse))
        return o, lse

    @staticmethod
    def backward(ctx: Any, o_bar: MaybeTensor, lse_bar: MaybeTensor) -> Any:
        # The path of every training step: few Python calls.
        needs = ctx.needs_input_grad[1:5]
        wanted = BARS_NEEDED[needs]
        if not wanted or (o_bar is None and lse_bar is None):
            return (None,) * (1 + len(ARGUMENTS["forward"]))
        arguments = vjp_of_forward((*ctx.saved_tensors, o_bar, lse_bar, None))
        found = iter(ctx.site.call("vjp", arguments, wanted))
        gradients: list[MaybeTensor] = [None] * (1 + len(ARGUMENTS["forward"]))
        for place in range(4):
            if needs[place]:
                gradients[1 + place] = next(found)
        return tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        dots, _ = _tangents(ctx, tangents)
        if not any_of(dots):
            return None, None
        *arguments, o, lse = (
            None if x is None else unpack_dual(x).primal for x in ctx.saved_tensors
        )
        saved = {**dict(zip(ARGUMENTS["forward"], arguments, strict=True)), "o": o, "lse": lse}
        found = ctx.site.apply("jvp", {**point_of(saved), **dots}, ("o_dot", "lse_dot"))
        return found["o_dot"], found["lse_dot"]


class _Vjp(_Differentiable):
    """(site, x, y_bar, constants) -> those of x_bar that `outputs` names."""

    @staticmethod
    def backward(ctx: Any, *g: MaybeTensor) -> Any:
        saved, needed = _saved(ctx), _needed(ctx)
        given = dict(zip(ctx.site.outputs, g, strict=True))
        dots: Tensors = {f"{x}_dot": given.get(f"{x}_bar") for x in POINT_OF}
        if not any_of(dots):
            return _by_argument(ctx, {})
        of_point = [f"{x}_bar_dot" for x, argument in POINT_OF.items() if argument in needed]
        of_cotangents = [f"{y}_dot" for y in ("o", "lse") if f"{y}_bar" in needed]
        if of_point:
            tensors = {**point_of(saved), **picked(saved, *COTANGENTS), **dots}
            found = ctx.site.apply("hvp", tensors, of_point + of_cotangents)
        else:
            found = ctx.site.apply("jvp", {**point_of(saved), **dots}, of_cotangents)
        gradients = gradients_of(found, "_bar_dot")
        gradients.update({f"{y}_bar": found.get(f"{y}_dot") for y in ("o", "lse")})
        return _by_argument(ctx, gradients)

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        saved = _primals(ctx)
        dots, others = _tangents(ctx, tangents)
        cotangents = picked(others, *COTANGENTS)
        outputs = ctx.site.outputs
        if any_of(dots):
            directions = {f"{name}_dot": x for name, x in cotangents.items()}
            tensors = {**point_of(saved), **picked(saved, *COTANGENTS), **dots, **directions}
            found = ctx.site.apply("hvp", tensors, [f"{name}_dot" for name in outputs])
            return tuple(found.values())
        if any_of(cotangents):
            return tuple(ctx.site.apply("vjp", {**point_of(saved), **cotangents}, outputs).values())
        return (None,) * len(outputs)


class _Jvp(_Differentiable):
    """(site, x, x_dot, constants) -> those of o_dot, lse_dot that `outputs` names."""

    @staticmethod
    def backward(ctx: Any, *u: MaybeTensor) -> Any:
        saved, needed = _saved(ctx), _needed(ctx)
        given = dict(zip(ctx.site.outputs, u, strict=True))
        cotangents: Tensors = {"o_bar": given.get("o_dot"), "lse_bar": given.get("lse_dot")}
        if not any_of(cotangents):
            return _by_argument(ctx, {})
        of_dots = [f"{x}_bar" for x in POINT_OF if f"{x}_dot" in needed]
        of_point = [f"{x}_bar_dot" for x, argument in POINT_OF.items() if argument in needed]
        if of_point:
            tensors = {**point_of(saved), **picked(saved, *DOTS), **cotangents}
            found = ctx.site.apply("hvp", tensors, of_dots + of_point)
        else:
            found = ctx.site.apply("vjp", {**point_of(saved), **cotangents}, of_dots)
        gradients = gradients_of(found, "_bar_dot")
        gradients.update({f"{x}_dot": found.get(f"{x}_bar") for x in POINT_OF})
        return _by_argument(ctx, gradients)

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        saved = _primals(ctx)
        dots, others = _tangents(ctx, tangents)
        if any_of(dots):
            raise DerivativeOrderError(
                "forward mode over forward mode of attention is not available; take forward over "
                "reverse instead, such as torch.func.jacfwd(torch.func.jacrev(f)), which is exact"
            )
        ddots = picked(others, *DOTS)
        if not any_of(ddots):
            return (None,) * len(ctx.site.outputs)
        return tuple(ctx.site.apply("jvp", {**point_of(saved), **ddots}, ctx.site.outputs).values())


class _Hvp(_Differentiable):
    """(site, guarded, arguments) -> those outputs of an HVP that `outputs` names.

    The gradients of x and y_bar go to the guarded ones, which are the same tensors behind a
    `_Guard`. Where they would be of third order they are None, which the guard refuses.
    """

    @staticmethod
    def forward(ctx: Any, site: _Site, *arguments: MaybeTensor) -> Any:
        outputs = site.compute(arguments[len(GUARDED) :])
        _save(ctx, site, arguments[len(GUARDED) :])
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: MaybeTensor) -> Any:
        saved, apply = _saved(ctx), ctx.site.apply
        point, y_bar = point_of(saved), picked(saved, *COTANGENTS)
        dots = picked(saved, *DOTS)
        given = dict(zip(ctx.site.outputs, cotangents, strict=True))
        h: Tensors = {f"{x}_dot": given.get(f"{x}_bar") for x in POINT_OF}
        g: Tensors = {f"{x}_dot": given.get(f"{x}_bar_dot") for x in POINT_OF}
        u: Tensors = {f"{y}_bar": given.get(f"{y}_dot") for y in ("o", "lse")}

        # By the directions: the operator is linear in them, by the symmetric [[H, J^T], [J, 0]].
        gradients: Tensors = {}
        wanted = [n for n, d in DIRECTION_OF.items() if saved.get(d) is not None]
        if any_of(g) and wanted:
            directions = {f"{name}_dot": x for name, x in u.items()}
            found = apply("hvp", {**point, **y_bar, **g, **directions}, wanted)
            gradients = {DIRECTION_OF[name]: x for name, x in found.items()}
        elif any_of(u) and (bars := [f"{n[:-4]}_bar" for n in DOTS if saved.get(n) is not None]):
            found = apply("vjp", {**point, **u}, bars)
            gradients = {f"{name[:-4]}_dot": x for name, x in found.items()}

        # By x and y_bar: of the bars and of the dots, which are of first order.
        by_guarded: Tensors = {}
        needs = dict(zip(GUARDED, ctx.needs_input_grad[1:], strict=False))
        if any(needs.values()) and not any_of(g):
            by_guarded = {
                name: torch.zeros_like(x)
                for name in GUARDED
                if needs[name] and (x := saved.get(name)) is not None
            }
            of_point = [f"{x}_bar_dot" for x, argument in POINT_OF.items() if needs[argument]]
            of_cotangents = [f"{y}_dot" for y in ("o", "lse") if needs[f"{y}_bar"]]
            if any_of(h):
                found = apply("hvp", {**point, **y_bar, **h}, of_point + of_cotangents)
                by_guarded.update(gradients_of(found, "_bar_dot"))
                by_guarded.update({f"{name[:-4]}_bar": found[name] for name in of_cotangents})
            if any_of(u) and any_of(dots) and of_point:
                found = apply("hvp", {**point, **u, **dots}, of_point)
                for argument, more in gradients_of(found, "_bar_dot").items():
                    by_guarded[argument] = sum_of(by_guarded.get(argument), more)
        return (
            None,
            *(by_guarded.get(name) for name in GUARDED),
            *(gradients.get(name) for name in ARGUMENTS["hvp"]),
        )

    @staticmethod
    def jvp(ctx: Any, _site: None, *tangents: MaybeTensor) -> Any:
        saved = _primals(ctx)
        point, y_bar = point_of(saved), picked(saved, *COTANGENTS)
        moved, others = _tangents(ctx, tangents[len(GUARDED) :])
        if any_of(moved):
            _refuse_third_order()
        outputs = ctx.site.outputs
        directions = picked(others, *DOTS, *COTANGENT_DOTS)
        cotangents = picked(others, *COTANGENTS)
        total: Tensors = {}
        if any_of(directions):
            found = ctx.site.apply("hvp", {**point, **y_bar, **directions}, outputs)
            total = {name: None if name in BARS else x for name, x in found.items()}
        if any_of(cotangents):
            tensors = {**point, **cotangents, **picked(saved, *DOTS)}
            found = ctx.site.apply("hvp", tensors, outputs)
            for name, more in found.items():
                if name not in ("o_dot", "lse_dot"):
                    total[name] = sum_of(total.get(name), more)
        return _in_order(ctx, total)


class _Guard(Level):
    """x -> x, whose gradient is needed only where a third-order derivative is asked for.

    Autograd tells a function which of its inputs require a gradient, not which gradients are asked
    for. It does tell by which nodes it visits, and it visits this one for nothing else.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        with below_autograd():
            return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, gradient: MaybeTensor) -> Tensor:
        if gradient is None:
            _refuse_third_order()
        return gradient

    @staticmethod
    def jvp(_ctx: Any, tangent: MaybeTensor) -> MaybeTensor:
        return tangent


_GUARDED_PLACES = tuple(map(ARGUMENTS["hvp"].index, GUARDED))


def _guarded(arguments: Sequence[MaybeTensor]) -> list[MaybeTensor]:
    """The guarded ones among the arguments of hvp."""
    return [
        _Guard.of(x) if x is not None and x.requires_grad and torch.is_grad_enabled() else x
        for x in (arguments[place] for place in _GUARDED_PLACES)
    ]


_FUNCTIONS: dict[str, type[_Differentiable]] = {
    "forward": _Forward,
    "vjp": _Vjp,
    "jvp": _Jvp,
    "hvp": _Hvp,
}


def _register(name: str) -> None:
    def kernel(keyset: torch._C.DispatchKeySet, *arguments: MaybeTensor, **options: Any) -> Any:
        site = _DispatchedSite(name, keyset, options)
        operands = tuple(named_arguments(name, arguments).values())
        if name == "hvp":
            operands = (*_guarded(operands), *operands)
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
        outputs: Of a derivative.
    """
    outputs = outputs or OUTPUTS[name]
    if not records(arguments):
        return after_schema(name, call.compute(name, arguments, outputs))
    if _is_excluded(_AUTOGRAD):  # in the kernel of an operator, whose derivative is its own
        with torch.no_grad():
            return after_schema(name, call.compute(name, arguments, outputs))
    site = _EagerSite(name, outputs, call)
    if name == "hvp":
        arguments = (*_guarded(arguments), *arguments)
    return after_schema(name, _FUNCTIONS[name].apply(site, *arguments))  # type: ignore[attr-defined]


def _client(name: str) -> AttentionClient | None:
    if name == DEFAULT:
        return None
    try:
        return named_client(name)
    except NoClientError:
        return None  # the kernel, if one is called at all, raises it


def _refuse_third_order() -> NoReturn:
    raise DerivativeOrderError(
        "a third-order derivative of attention was asked for; forward, VJP, JVP and HVP give the "
        "first two orders exactly and no more"
    )


for _name in OPERATORS:
    _register(_name)
