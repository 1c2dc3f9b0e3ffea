"""Forward, VJP, JVP and HVP as JAX primitives that are each other's derivatives and transposes.

With J the Jacobian of o with respect to x = (q, k, v), and H(u)[x_dot] the product of the Hessian
of <u, o> with x_dot:

=========  =====================================  ==================  ==========================
primitive  computes                               linear in           transpose
=========  =====================================  ==================  ==========================
forward    o
jvp        J x_dot                                x_dot               vjp
vjp        J^T o_bar                              o_bar               jvp
hvp        H(o_bar)[x_dot] + J^T o_bar_dot,       x_dot, o_bar_dot    hvp
           J x_dot
jvp_jvp    D^2 o [x_dot, x_ddot]                  x_ddot              hvp: H(u)[x_dot]
=========  =====================================  ==================  ==========================

and the tangents of forward are a jvp, of jvp a jvp and a jvp_jvp, of vjp an hvp. The matrix of hvp,
[[H, J^T], [J, 0]], is symmetric. No RPC computes jvp_jvp, forward over forward: it exists to be
transposed, for reverse over forward.

Operands: q, k, v, the constants of the `Site` (mask, seed); for all but forward the saved o and
lse; then the primitive's own. o and lse count as functions of q, k and v: they spare the server the
forward, and their own tangents are never looked at. Shapes are those of docs/operator_contract.md,
[batch, heads, seq, dim].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from theria._differentiation_errors import DerivativeOrderError, MaskGradientError
from theria._operations import output_layout
from theria.jax._site import Site

__all__ = ["forward"]

_QKV = ("q", "k", "v")
_DOTS = ("q_dot", "k_dot", "v_dot")
_DDOTS = ("q_ddot", "k_ddot", "v_ddot")
_BARS = ("q_bar", "k_bar", "v_bar")
# The argument of hvp to which each of its outputs corresponds, and the other way round.
_TRANSPOSED = {
    "q_bar_dot": "q_dot",
    "k_bar_dot": "k_dot",
    "v_bar_dot": "v_dot",
    "o_dot": "o_bar_dot",
}
_DIRECTION_OF = {argument: output for output, argument in _TRANSPOSED.items()}


def forward(site: Site, *operands: jax.Array) -> tuple[jax.Array, jax.Array]:
    """O and lse of q, k, v and the site's constants. lse is not differentiable."""
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
    saved = () if count == len(_QKV) + len(site.constants) else ("o", "lse")
    return (*_QKV, *site.constants, *saved, *names)


def _primitive(name: str) -> Primitive:
    """A primitive with shapes and the rule of vmap."""
    primitive = Primitive(f"theria_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract)
    batching.primitive_batchers[primitive] = _batcher(primitive)
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
    del site, names
    inputs: dict[str, Any] = dict(zip("qkv", operands, strict=False))
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


def _batcher(primitive: Primitive) -> Callable[..., tuple[list[Any], list[int]]]:
    """The mapped dimension becomes part of the batch.

    What dropout drops depends on an element's place in the batch: there, one call an element.
    """

    def batch(
        operands: Sequence[Any], dims: Sequence[int | None], *, site: Site, names: Any, outputs: Any
    ) -> tuple[list[Any], list[int]]:
        def apply(operands: Sequence[Any]) -> list[Any]:
            return _bind(primitive, site, operands, names, outputs)

        moved = [
            operand if dim is None else jnp.moveaxis(operand, dim, 0)
            for operand, dim in zip(operands, dims, strict=True)
        ]
        mapped = [dim is not None for dim in dims]
        if site.random:
            results = jax.lax.map(
                lambda elements: apply(_merge(mapped, elements, moved)),
                [operand for operand, is_mapped in zip(moved, mapped, strict=True) if is_mapped],
            )
            return results, [0] * len(results)
        size = next(operand.shape[0] for operand, m in zip(moved, mapped, strict=True) if m)
        extent = moved[0].shape[1 if mapped[0] else 0]
        layout = _layout(site, names, len(operands))
        folded = [
            _fold(operand, is_mapped, size, extent, is_mask=name == "mask")
            for operand, is_mapped, name in zip(moved, mapped, layout, strict=True)
        ]
        results = [x.reshape(size, extent, *x.shape[1:]) for x in apply(folded)]
        return results, [0] * len(results)

    return batch


def _merge(mapped: Sequence[bool], elements: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """`others`, where mapped replaced by the elements one after the other."""
    remaining = iter(elements)
    return [
        next(remaining) if is_mapped else other
        for is_mapped, other in zip(mapped, others, strict=True)
    ]


def _fold(operand: Any, is_mapped: bool, size: int, extent: int, *, is_mask: bool) -> Any:
    """[size, batch, ...] or [batch, ...] -> [size * batch, ...]; a mask's batch may be 1."""
    if not is_mapped:
        if is_mask and operand.shape[0] == 1:
            return operand
        operand = jnp.broadcast_to(operand, (size, *operand.shape))
    rest = operand.shape[2:]
    return jnp.broadcast_to(operand, (size, extent, *rest)).reshape(size * extent, *rest)


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
    """q, k, v, constants, o, lse; and the primitive's own operands, of all but forward."""
    count = len(_QKV) + len(site.constants) + 2
    return operands[:count], operands[count:]


def _refuse_mask(site: Site, tangents: Sequence[Any]) -> None:
    if "mask" in site.constants and not _is_zero(tangents[len(_QKV)]):
        raise MaskGradientError.of("bias", "Apply jax.lax.stop_gradient to it")


def _zeros(outputs: Sequence[Any]) -> list[Any]:
    return [ad.Zero(jax.typeof(output).to_tangent_aval()) for output in outputs]


def _forward_jvp(
    operands: Sequence[Any], tangents: Sequence[Any], *, site: Site, **_: Any
) -> tuple[list[Any], list[Any]]:
    _refuse_mask(site, tangents)
    primals = list(forward(site, *operands))
    dots = _present(_DOTS, tangents[:3])
    o_dot, lse_dot = _zeros(primals)
    if dots:
        (o_dot,) = _bind(_jvp, site, (*operands, *primals, *dots.values()), tuple(dots), ("o_dot",))
    return primals, [o_dot, lse_dot]


def _jvp_jvp(
    operands: Sequence[Any],
    tangents: Sequence[Any],
    *,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    _refuse_mask(site, tangents)
    primals = _bind(_jvp, site, operands, names, outputs)
    residuals, _ = _residuals(site, operands)
    linear = _present(names, _residuals(site, tangents)[1])
    moved = _present(_DOTS, tangents[:3])
    (o_ddot,) = _zeros(primals)
    if linear:
        (o_ddot,) = _bind(_jvp, site, (*residuals, *linear.values()), tuple(linear), outputs)
    if moved:
        second = tuple(_DDOTS[_DOTS.index(name)] for name in moved)
        operands = (*operands, *moved.values())
        (curved,) = _bind(_second, site, operands, (*names, *second), ("o_ddot",))
        o_ddot = ad.add_tangents(o_ddot, curved)
    return primals, [o_ddot]


def _jvp_transpose(
    cotangents: Sequence[Any], *operands: Any, site: Site, names: tuple[str, ...], **_: Any
) -> list[Any]:
    residuals, own = _residuals(site, operands)
    wanted = [n for n, x in zip(names, own, strict=True) if ad.is_undefined_primal(x)]
    outputs = tuple(_BARS[_DOTS.index(name)] for name in wanted)
    bars = _bind(_vjp, site, (*residuals, ad.instantiate_zeros(cotangents[0])), ("o_bar",), outputs)
    return _scatter(residuals, names, dict(zip(wanted, bars, strict=True)))


def _scatter(residuals: Sequence[Any], names: Sequence[str], results: dict[str, Any]) -> list[Any]:
    """A transpose's answer: a cotangent or None for each operand."""
    return [*(None for _ in residuals), *map(results.get, names)]


def _vjp_jvp(
    operands: Sequence[Any],
    tangents: Sequence[Any],
    *,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    _refuse_mask(site, tangents)
    primals = _bind(_vjp, site, operands, names, outputs)
    residuals, _ = _residuals(site, operands)
    dots = _present(_DOTS, tangents[:3])
    linear = _present(("o_bar_dot",), _residuals(site, tangents)[1])
    if dots:
        dots.update(linear)
        dotted = tuple(f"{name}_dot" for name in outputs)
        bar_dots = _bind(_hvp, site, (*operands, *dots.values()), ("o_bar", *dots), dotted)
    elif linear:
        bar_dots = _bind(_vjp, site, (*residuals, *linear.values()), names, outputs)
    else:
        bar_dots = _zeros(primals)
    return primals, bar_dots


def _vjp_transpose(
    cotangents: Sequence[Any], *operands: Any, site: Site, outputs: tuple[str, ...], **_: Any
) -> list[Any]:
    residuals, (o_bar,) = _residuals(site, operands)
    dots = _present([_DOTS[_BARS.index(name)] for name in outputs], cotangents)
    if not dots:
        return _scatter(residuals, ("o_bar",), {"o_bar": ad.Zero(o_bar.aval)})
    (o_dot,) = _bind(_jvp, site, (*residuals, *dots.values()), tuple(dots), ("o_dot",))
    return _scatter(residuals, ("o_bar",), {"o_bar": o_dot})


def _hvp_jvp(
    operands: Sequence[Any],
    tangents: Sequence[Any],
    *,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> tuple[list[Any], list[Any]]:
    _refuse_mask(site, tangents)
    residuals, own = _residuals(site, operands)
    o_bar_dot, *dot_tangents = _residuals(site, tangents)[1]
    if _present((*_QKV, "o_bar"), (*tangents[:3], o_bar_dot)):
        _refuse_third_order()
    primals = _bind(_hvp, site, operands, names, outputs)
    linear = _present(names[1:], dot_tangents)
    if not linear:
        return primals, _zeros(primals)
    own = (own[0], *linear.values())
    return primals, _bind(_hvp, site, (*residuals, *own), ("o_bar", *linear), outputs)


def _hvp_transpose(
    cotangents: Sequence[Any],
    *operands: Any,
    site: Site,
    names: tuple[str, ...],
    outputs: tuple[str, ...],
) -> list[Any]:
    residuals, (o_bar, *dots) = _residuals(site, operands)
    if ad.is_undefined_primal(o_bar):
        _refuse_third_order()
    undefined = dict(zip(names[1:], dots, strict=True))
    undefined = {name: x for name, x in undefined.items() if ad.is_undefined_primal(x)}
    given = _present([_TRANSPOSED[name] for name in outputs], cotangents)
    if not given:
        zeros = {name: ad.Zero(x.aval) for name, x in undefined.items()}
        return _scatter(residuals, names, zeros)
    wanted = tuple(_DIRECTION_OF[name] for name in undefined)
    own = (o_bar, *given.values())
    results = _bind(_hvp, site, (*residuals, *own), ("o_bar", *given), wanted)
    return _scatter(residuals, names, dict(zip(undefined, results, strict=True)))


def _second_transpose(
    cotangents: Sequence[Any], *operands: Any, site: Site, names: tuple[str, ...], **_: Any
) -> list[Any]:
    residuals, own = _residuals(site, operands)
    dots = {n: x for n, x in zip(names, own, strict=True) if n in _DOTS}
    wanted = [n for n, x in zip(names, own, strict=True) if ad.is_undefined_primal(x)]
    if not set(wanted) <= set(_DDOTS):
        _refuse_third_order()
    outputs = tuple(f"{_BARS[_DDOTS.index(name)]}_dot" for name in wanted)
    u = ad.instantiate_zeros(cotangents[0])
    results = _bind(_hvp, site, (*residuals, u, *dots.values()), ("o_bar", *dots), outputs)
    return _scatter(residuals, names, dict(zip(wanted, results, strict=True)))


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
