"""Forward, VJP, JVP and HVP as JAX primitives that are each other's derivatives and transposes.

With J the Jacobian of y = (o, lse) with respect to x = (q, k, v, bias), and H(u)[x_dot] the product
of the Hessian of <u, y> with x_dot:

=========  =====================================  ==================  ==========================
primitive  computes                               linear in           transpose
=========  =====================================  ==================  ==========================
forward    y
jvp        J x_dot                                x_dot               vjp
vjp        J^T y_bar                              y_bar               jvp
hvp        H(y_bar)[x_dot] + J^T y_bar_dot,       x_dot, y_bar_dot    hvp
           J x_dot
jvp_jvp    D^2 y [x_dot, x_ddot]                  x_ddot              hvp: H(u)[x_dot]
=========  =====================================  ==================  ==========================

and the tangents of forward are a jvp, of jvp a jvp and a jvp_jvp, of vjp an hvp. The matrix of hvp,
[[H, J^T], [J, 0]], is symmetric. No RPC computes jvp_jvp, forward over forward: it exists to be
transposed, for reverse over forward.

Operands: q, k, v, the tensors of the `Site` (the bias is a floating-point mask); for all but
forward the saved o and lse; then the primitive's own, by their names. What has no name there is
zero. o and lse count as functions of x: they spare the server the forward, and their own tangents
are never looked at. Shapes are those of docs/operator_contract.md, [batch, heads, seq, dim].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import dispatch
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from theria._differentiation_errors import DerivativeOrderError
from theria._errors import InvalidArgument
from theria._operations import output_layout
from theria.jax._batching import batched
from theria.jax._site import Site

__all__ = ["forward"]

_QKV = ("q", "k", "v")
_POINT = (*_QKV, "bias")
_DOTS = tuple(f"{x}_dot" for x in _POINT)
_DDOTS = tuple(f"{x}_ddot" for x in _POINT)
_COTANGENTS = ("o_bar", "lse_bar")
# The cotangent to which each output of forward and jvp corresponds.
_COTANGENT_OF = {"o_dot": "o_bar", "lse_dot": "lse_bar"}
# The argument of hvp to which each of its outputs corresponds.
_TRANSPOSED = {
    **{f"{x}_bar_dot": f"{x}_dot" for x in _POINT},
    "o_dot": "o_bar_dot",
    "lse_dot": "lse_bar_dot",
}
_OUTPUT_OF = {argument: output for output, argument in _TRANSPOSED.items()}


def forward(site: Site, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    """O and lse of q, k, v and the site's tensors."""
    o, lse = _bind(_forward, site, operands, (), ("o", "lse"))
    return o, lse


def _bind(
    primitive: Primitive,
    site: Site,
    operands: Sequence[Any],
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> list[Any]:
    """Applies a primitive.

    Args:
        primitive: Which.
        site: Its call site.
        operands: All.
        names: Of the primitive's own operands, the last ones.
        outputs: Names of those wanted.
    """
    results: list[Any] = primitive.bind(
        *_varying_alike(operands), site=site, names=names, outputs=outputs
    )
    return results


def _varying_alike(operands: Sequence[Any]) -> list[Any]:
    """Within `shard_map`: all vary over the mesh axes over which any of them does."""
    varying = [jax.typeof(x).manual_axis_type.varying for x in operands]
    every = frozenset().union(*varying)
    return [
        jax.lax.pcast(x, tuple(sorted(every - own)), to="varying") if every - own else x
        for x, own in zip(operands, varying, strict=True)
    ]


def _layout(site: Site, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The names of all operands of a primitive with `count` operands."""
    saved = () if count == len(_QKV) + len(site.tensors) else ("o", "lse")
    return (*_QKV, *site.tensors, *saved, *names)


def _primitive(name: str) -> Primitive:
    """A primitive with shapes and the rule of vmap."""
    primitive = Primitive(f"theria_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract)

    def batch(
        operands: Sequence[Any], dims: Sequence[int | None], *, site: Site, names: Any, outputs: Any
    ) -> tuple[list[Any], list[int]]:
        layout = _layout(site, names, len(operands))
        apply = partial(_bind, primitive, site, names=names, outputs=outputs)
        return batched(apply, layout, outputs, operands, dims)

    batching.primitive_batchers[primitive] = batch
    return primitive


def _computed(operation: str) -> Primitive:
    """A primitive that one call computes: XLA's, where the site's client computes in place.

    Any other client is called at once, or back from the host by a compiled function.
    """
    primitive = _primitive(operation)
    dispatch.prim_requires_devices_during_lowering.add(primitive)  # of custom_partitioning

    def compute(
        *operands: jax.Array, site: Site, names: tuple[str, ...], outputs: tuple[str, ...]
    ) -> tuple[np.ndarray[Any, Any], ...]:
        layout = _layout(site, names, len(operands))
        return site.run(operation, outputs, dict(zip(layout, operands, strict=True)))

    @partial(jax.jit, static_argnames=("site", "names", "outputs"))
    def compiled(*operands: jax.Array, **params: Any) -> tuple[jax.Array, ...]:
        return tuple(primitive.bind(*operands, **params))

    def evaluate(*operands: jax.Array, site: Site, **params: Any) -> list[jax.Array]:
        platform = next(iter(operands[0].devices())).platform
        if site.is_in_place("cuda" if platform == "gpu" else platform):
            with site.errors_of_xla():
                return list(compiled(*operands, site=site.with_client(), **params))
        return [jnp.asarray(output) for output in compute(*operands, site=site, **params)]

    def call_back(*operands: jax.Array, **params: Any) -> Any:
        avals = _abstract(*map(jax.typeof, operands), **params)
        results = tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
        return jax.pure_callback(lambda *x: compute(*x, **params), results, *operands)

    def in_place(
        *operands: jax.Array, site: Site, names: tuple[str, ...], outputs: tuple[str, ...]
    ) -> list[jax.Array]:
        return site.call(operation, _layout(site, names, len(operands)), outputs, operands)

    primitive.def_impl(evaluate)
    called_back = mlir.lower_fun(call_back, multiple_results=True)
    mlir.register_lowering(primitive, called_back)
    called_in_place = mlir.lower_fun(in_place, multiple_results=True)
    for platform in ("cpu", "cuda"):

        def lower(
            context: Any, *operands: Any, site: Site, platform: str = platform, **params: Any
        ) -> Any:
            rule = called_in_place if site.is_in_place(platform) else called_back
            return rule(context, *operands, site=site, **params)

        mlir.register_lowering(primitive, lower, platform=platform)
    return primitive


def _abstract(
    *operands: Any, site: Site, names: tuple[str, ...], outputs: tuple[str, ...]
) -> list[ShapedArray]:
    inputs: dict[str, Any] = dict(zip(_layout(site, names, len(operands)), operands, strict=True))
    inputs = {x: inputs["mask" if x == "bias" else x] for x in _point(site)}
    q = inputs["q"]
    layouts = {name: (x.shape, x.dtype) for name, x in inputs.items()}

    def result(name: str) -> Any:
        """Placed on an explicit mesh, and varying within `shard_map`, as its operand or as q."""
        like = inputs.get(name.split("_")[0])
        if like is not None:
            return like.update(weak_type=False)
        shape, dtype = output_layout(name, layouts)
        batch, heads = (*q.sharding.spec, None, None)[:2]
        spec = PartitionSpec(batch, heads, *[None] * (len(shape) - 2))
        sharding = NamedSharding(q.sharding.mesh, spec)
        return q.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)

    return [result(name) for name in outputs]


def _point(site: Site) -> tuple[str, ...]:
    """Those of x that there are."""
    return _POINT if "mask" in site.tensors else _QKV


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, ad.Zero) or tangent.dtype == jax.dtypes.float0


def _present(names: Sequence[str], tangents: Sequence[Any]) -> dict[str, Any]:
    """Those tangents that are not zero, by name."""
    return {
        name: tangent
        for name, tangent in zip(names, tangents, strict=True)
        if not _is_zero(tangent)
    }


def _residuals(site: Site, operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """q, k, v, the site's tensors, o, lse; and the primitive's own operands, of all but forward."""
    count = len(_QKV) + len(site.tensors) + 2
    return operands[:count], operands[count:]


def _dots(site: Site, tangents: Sequence[Any]) -> dict[str, Any]:
    """The tangents x_dot that are not zero, by name.

    Raises:
        InvalidArgument: A tensor has a tangent that may have none.
    """
    layout = (*_QKV, *site.tensors)
    given = _present(layout, tangents[: len(layout)])
    if "alibi_slopes" in given:
        raise InvalidArgument.of(
            "alibi_slopes",
            "alibi_slopes is differentiated, must be a constant: apply jax.lax.stop_gradient to "
            "it, or pass -slope * |i - j| as bias, which is differentiable",
        )
    return {f"{'bias' if name == 'mask' else name}_dot": x for name, x in given.items()}


def _zeros(outputs: Sequence[Any]) -> list[Any]:
    return [ad.Zero(jax.typeof(output).to_tangent_aval()) for output in outputs]


def _undefined(names: Sequence[str], own: Sequence[Any]) -> list[str]:
    """The operands by which a transpose is asked for."""
    return [name for name, x in zip(names, own, strict=True) if ad.is_undefined_primal(x)]


def _answer(
    residuals: Sequence[Any], names: Sequence[str], own: Sequence[Any], found: dict[str, Any]
) -> list[Any]:
    """A transpose's answer: for each operand a cotangent, or None where none is asked for."""
    answers = {
        n: ad.Zero(x.aval) for n, x in zip(names, own, strict=True) if ad.is_undefined_primal(x)
    }
    answers.update(found)
    return [*(None for _ in residuals), *map(answers.get, names)]


def _forward_jvp(
    operands: Sequence[Any], tangents: Sequence[Any], *, site: Site, **_: Any
) -> tuple[list[Any], list[Any]]:
    primals = list(forward(site, *operands))
    dots = _dots(site, tangents)
    if not dots:
        return primals, _zeros(primals)
    operands = (*operands, *primals, *dots.values())
    return primals, _bind(_jvp, site, operands, tuple(dots), ("o_dot", "lse_dot"))


def _jvp_jvp(
    operands: Sequence[Any],
    tangents: Sequence[Any],
    *,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    primals = _bind(_jvp, site, operands, names, outputs)
    residuals, _ = _residuals(site, operands)
    linear = _present(names, _residuals(site, tangents)[1])
    moved = _dots(site, tangents)
    ddots = _zeros(primals)
    if linear:
        ddots = _bind(_jvp, site, (*residuals, *linear.values()), tuple(linear), outputs)
    if moved:
        second = tuple(_DDOTS[_DOTS.index(name)] for name in moved)
        curved = tuple(name.replace("_dot", "_ddot") for name in outputs)
        bent = _bind(_second, site, (*operands, *moved.values()), (*names, *second), curved)
        ddots = [ad.add_tangents(x, y) for x, y in zip(ddots, bent, strict=True)]
    return primals, ddots


def _jvp_transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> list[Any]:
    residuals, own = _residuals(site, operands)
    bars = _present([_COTANGENT_OF[name] for name in outputs], cotangents)
    wanted = _undefined(names, own)
    found: list[Any] = []
    if bars:
        asked = tuple(f"{name.removesuffix('_dot')}_bar" for name in wanted)
        found = _bind(_vjp, site, (*residuals, *bars.values()), tuple(bars), asked)
    return _answer(residuals, names, own, dict(zip(wanted, found, strict=bool(bars))))


def _vjp_jvp(
    operands: Sequence[Any],
    tangents: Sequence[Any],
    *,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    primals = _bind(_vjp, site, operands, names, outputs)
    residuals, _ = _residuals(site, operands)
    dots = _dots(site, tangents)
    linear = _present(names, _residuals(site, tangents)[1])
    if dots:
        dots.update({f"{name}_dot": x for name, x in linear.items()})
        dotted = tuple(f"{name}_dot" for name in outputs)
        bar_dots = _bind(_hvp, site, (*operands, *dots.values()), (*names, *dots), dotted)
    elif linear:
        bar_dots = _bind(_vjp, site, (*residuals, *linear.values()), tuple(linear), outputs)
    else:
        bar_dots = _zeros(primals)
    return primals, bar_dots


def _vjp_transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> list[Any]:
    residuals, own = _residuals(site, operands)
    dots = _present([f"{name.removesuffix('_bar')}_dot" for name in outputs], cotangents)
    wanted = _undefined(names, own)
    found: list[Any] = []
    if dots:
        asked = tuple(f"{name.removesuffix('_bar')}_dot" for name in wanted)
        found = _bind(_jvp, site, (*residuals, *dots.values()), tuple(dots), asked)
    return _answer(residuals, names, own, dict(zip(wanted, found, strict=bool(dots))))


def _hvp_jvp(
    operands: Sequence[Any],
    tangents: Sequence[Any],
    *,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    residuals, own = _residuals(site, operands)
    linear = _present(names, _residuals(site, tangents)[1])
    if _dots(site, tangents) or linear.keys() & set(_COTANGENTS):
        _refuse_third_order()
    primals = _bind(_hvp, site, operands, names, outputs)
    if not linear:
        return primals, _zeros(primals)
    given = {n: x for n, x in zip(names, own, strict=True) if n in _COTANGENTS} | linear
    return primals, _bind(_hvp, site, (*residuals, *given.values()), tuple(given), outputs)


def _hvp_transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> list[Any]:
    residuals, own = _residuals(site, operands)
    wanted = _undefined(names, own)
    if set(wanted) & set(_COTANGENTS):
        _refuse_third_order()
    directions = _present([_TRANSPOSED[name] for name in outputs], cotangents)
    found: list[Any] = []
    if directions:
        given = {n: x for n, x in zip(names, own, strict=True) if n in _COTANGENTS} | directions
        asked = tuple(_OUTPUT_OF[name] for name in wanted)
        found = _bind(_hvp, site, (*residuals, *given.values()), tuple(given), asked)
    return _answer(residuals, names, own, dict(zip(wanted, found, strict=bool(directions))))


def _second_transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> list[Any]:
    residuals, own = _residuals(site, operands)
    wanted = _undefined(names, own)
    if not set(wanted) <= set(_DDOTS):
        _refuse_third_order()
    given = _present([name.replace("_ddot", "_bar") for name in outputs], cotangents)
    found: list[Any] = []
    if given:
        given |= {n: x for n, x in zip(names, own, strict=True) if n in _DOTS}
        asked = tuple(name.replace("_ddot", "_bar_dot") for name in wanted)
        found = _bind(_hvp, site, (*residuals, *given.values()), tuple(given), asked)
    return _answer(residuals, names, own, dict(zip(wanted, found, strict=bool(given))))


def _refuse_forward_over_forward(*_operands: Any, **_params: Any) -> NoReturn:
    raise DerivativeOrderError(
        "forward mode over forward mode of attention is not available; take forward over reverse "
        "instead, such as jax.jacfwd(jax.jacrev(f)), which is exact"
    )


def _refuse_third_order(*_operands: Any, **_params: Any) -> NoReturn:
    raise DerivativeOrderError(
        "a third-order derivative of attention was asked for; forward, VJP, JVP and HVP give the "
        "first two orders exactly and no more"
    )


_forward = _computed("forward")
_jvp = _computed("jvp")
_vjp = _computed("vjp")
_hvp = _computed("hvp")
_second = _primitive("jvp_jvp")
_second.def_impl(_refuse_forward_over_forward)
mlir.register_lowering(_second, _refuse_forward_over_forward)
ad.primitive_jvps[_forward] = _forward_jvp
ad.primitive_jvps[_jvp] = _jvp_jvp
ad.primitive_jvps[_vjp] = _vjp_jvp
ad.primitive_jvps[_hvp] = _hvp_jvp
ad.primitive_jvps[_second] = _refuse_third_order
ad.primitive_transposes[_jvp] = _jvp_transpose
ad.primitive_transposes[_vjp] = _vjp_transpose
ad.primitive_transposes[_hvp] = _hvp_transpose
ad.primitive_transposes[_second] = _second_transpose
