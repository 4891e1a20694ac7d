"""Primitives of JAX, which give the compiled library every derivative.

Let f be the meaning of a call, `plain`. With its arrays a:

- `run`        computes f(a), and keeps what a derivative needs;
- `tangent`    computes the derivative of f at a, as a linear function of da;
- `transpose`  computes the transpose of this linear function.

The derivative of `run` is `tangent`, whose transpose is `transpose`, whose transpose is `tangent`.
So a gradient runs `run` and `transpose`, which call the library. Every other derivative is
JAX's derivative of `plain`. The kept arrays only save work: they follow from a, so no derivative
passes through them.

A fourth primitive, `states`, is `run` for a trace. It has no derivative here: see `__init__.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from recurrax.implementations.native._call import Call, plain, plain_of_moving, plain_states
from recurrax.implementations.native._foreign import (
    is_native,
    lower_backward,
    lower_forward,
    lower_states,
)

WEIGHTS = (1, 2, 3)  # the places of `kernel`, `recurrent_kernel` and `bias` among the arrays


# What each primitive means.


def plain_run(*arrays: Any, call: Call) -> list[jax.Array]:
    """`plain`; the kept arrays are zeros, because `plain` derivatives do not read them."""
    results = plain(call, *arrays)
    if call.keeps:
        xs, units = arrays[0], arrays[2].shape[0]
        results += [jnp.zeros(shape, xs.dtype) for shape in call.facts.keeps(xs, units)]
    return results


def states_of_run(*arrays: Any, call: Call) -> list[jax.Array]:
    """`plain_states`; the call keeps the arrays after `plain`."""
    return plain_states(call, *arrays)


def plain_tangent(*operands: Any, call: Call) -> list[jax.Array]:
    """The derivative of `plain`, for the tangents of the arrays that move."""
    function, moving = plain_of_moving(call, operands[: call.arrays])
    tangents = operands[call.arrays + call.kept :]
    return jax.jvp(function, moving, list(tangents))[1]


def plain_transpose(*operands: Any, call: Call) -> list[jax.Array]:
    """The gradients of the arrays that move, for the cotangents of the results."""
    function, moving = plain_of_moving(call, operands[: call.arrays])
    cotangents = operands[call.arrays + call.kept :]
    return list(jax.vjp(function, *moving)[1](list(cotangents)))


# The types of the results: those of the arrays, with other sizes.


def _run_types(*arrays: Any, call: Call) -> list[Any]:
    xs, units = arrays[0], arrays[2].shape[0]
    state, _ = call.states(arrays)
    shapes = [(*xs.shape[:2], units)]
    kept = call.facts.keeps(xs, units) if call.keeps else []
    ys = xs.update(shape=shapes[0], weak_type=False)
    return [ys, *map(_strong, state), *(xs.update(shape=k, weak_type=False) for k in kept)]


def _states_types(*arrays: Any, call: Call) -> list[Any]:
    kept = _run_types(*arrays, call=call)
    shapes = call.facts.shows(arrays[0], arrays[2].shape[0])
    # All others are the results of `run`.
    others = kept[: len(kept) - len(shapes)]
    return [*others, *(kept[0].update(shape=shape) for shape in shapes)]


def _tangent_types(*operands: Any, call: Call) -> list[Any]:
    simple = dataclasses.replace(call, keeps=False)
    return _run_types(*operands[: call.arrays], call=simple)


def _transpose_types(*operands: Any, call: Call) -> list[Any]:
    return [_strong(o) for o, moves in zip(operands, call.moves, strict=False) if moves]


def _strong(aval: Any) -> Any:
    return aval.update(weak_type=False)


def _primitive(name: str, types: Callable, meaning: Callable) -> Primitive:
    primitive = Primitive(f"recurrax_{name}")
    primitive.multiple_results = True
    primitive.def_abstract_eval(types)

    # Outside of any jit, a call is compiled by itself.
    @functools.partial(jax.jit, static_argnames="call")
    def compiled(*operands: Any, call: Call) -> list[jax.Array]:
        return primitive.bind(*operands, call=call)

    def run_alone(*operands: Any, call: Call) -> list[jax.Array]:
        # With `jax.disable_jit`, `compiled` would call itself.
        with jax.disable_jit(False):
            return compiled(*operands, call=call)

    primitive.def_impl(run_alone)
    mlir.register_lowering(primitive, mlir.lower_fun(meaning, multiple_results=True))
    return primitive


run_p = _primitive("run", _run_types, plain_run)
states_p = _primitive("states", _states_types, states_of_run)
tangent_p = _primitive("tangent", _tangent_types, plain_tangent)
transpose_p = _primitive("transpose", _transpose_types, plain_transpose)


# Lowering: on a CPU, all but `tangent` are calls of the library.


def _lower_on_cpu(primitive: Primitive, meaning: Callable, foreign: Callable) -> None:
    by_meaning = mlir.lower_fun(meaning, multiple_results=True)

    def rule(context: Any, *operands: Any, call: Call) -> Any:
        if is_native(context):
            return foreign(context, *operands, call=call)
        return by_meaning(context, *operands, call=call)

    mlir.register_lowering(primitive, rule, platform="cpu")


_lower_on_cpu(run_p, plain_run, lower_forward)
_lower_on_cpu(states_p, states_of_run, lower_states)
_lower_on_cpu(transpose_p, plain_transpose, lower_backward)


# Derivatives.


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero


def _run_jvp(arrays: Any, tangents: Any, *, call: Call) -> tuple[Any, Any]:
    # Arrays that stay the same get no gradient, and cost nothing.
    moves = tuple(not _is_zero(tangent) for tangent in tangents[: call.floating])
    call = dataclasses.replace(call, keeps=True, moves=moves)
    results = run_p.bind(*arrays, call=call)
    count = 1 + call.facts.parts
    kept = (results[0], *results[count:])
    moving = [tangent for tangent in tangents[: call.floating] if not _is_zero(tangent)]
    moved = tangent_p.bind(*arrays, *kept, *moving, call=call)
    still = [ad.Zero(jax.typeof(array).to_tangent_aval()) for array in results[count:]]
    return results, [*moved, *still]


def _run_jvp_without_kept(arrays: Any, tangents: Any, *, call: Call) -> tuple[Any, Any]:
    results, moved = _run_jvp(arrays, tangents, call=call)
    if call.keeps:
        return results, moved
    count = 1 + call.facts.parts
    return results[:count], moved[:count]


def _linear_jvp(primitive: Primitive, meaning: Callable) -> Callable:
    """The derivative of a primitive that is linear in its last operands."""

    def rule(operands: Any, tangents: Any, *, call: Call) -> tuple[Any, Any]:
        results = primitive.bind(*operands, call=call)
        linear = call.arrays + call.kept
        if all(map(_is_zero, tangents[: call.floating])):
            moving = [ad.instantiate_zeros(tangent) for tangent in tangents[linear:]]
            return results, primitive.bind(*operands[:linear], *moving, call=call)
        # The derivative by the arrays is JAX's. None passes through the kept arrays.
        places = [*range(call.floating), *range(linear, len(operands))]
        places = [place for place in places if not _is_zero(tangents[place])]

        def function(*moving: Any) -> list[jax.Array]:
            merged = list(operands)
            for place, array in zip(places, moving, strict=True):
                merged[place] = array
            return meaning(*merged, call=call)

        primals = [operands[place] for place in places]
        return results, jax.jvp(function, primals, [tangents[place] for place in places])[1]

    return rule


def _tangent_transpose(cotangents: Any, *operands: Any, call: Call) -> list[Any]:
    linear = call.arrays + call.kept
    cotangents = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    gradients = transpose_p.bind(*operands[:linear], *cotangents, call=call)
    results = [None] * linear
    for operand, gradient in zip(operands[linear:], gradients, strict=True):
        results.append(gradient if ad.is_undefined_primal(operand) else None)
    return results


def _transpose_transpose(cotangents: Any, *operands: Any, call: Call) -> list[Any]:
    linear = call.arrays + call.kept
    cotangents = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
    tangents = tangent_p.bind(*operands[:linear], *cotangents, call=call)
    results = [None] * linear
    for operand, tangent in zip(operands[linear:], tangents, strict=True):
        results.append(tangent if ad.is_undefined_primal(operand) else None)
    return results


ad.primitive_jvps[run_p] = _run_jvp_without_kept
ad.primitive_jvps[tangent_p] = _linear_jvp(tangent_p, plain_tangent)
ad.primitive_jvps[transpose_p] = _linear_jvp(transpose_p, plain_transpose)
ad.primitive_transposes[tangent_p] = _tangent_transpose
ad.primitive_transposes[transpose_p] = _transpose_transpose


# `vmap`: the new axis joins the axis of rows, unless it is an axis of weights too.


def _row_axes(call: Call) -> list[int | None]:
    """The axis of rows of each array of a call; None for weights."""
    axes: list[int | None] = [1, None, None, None]
    axes += [0] * (call.floating - 4)
    axes += [1] * (call.arrays - call.floating)
    return axes


def _result_axes(call: Call) -> list[int]:
    return [1] + [0] * call.facts.parts


def _moving_axes(call: Call) -> list[int | None]:
    return [axis for axis, moves in zip(_row_axes(call), call.moves, strict=False) if moves]


def _fold(operand: Any, dim: int | None, axis: int | None, size: int) -> Any:
    """Joins the new axis with the axis of rows, `axis`."""
    if axis is None:
        return operand
    if dim is None:
        operand = jnp.broadcast_to(operand[None], (size, *operand.shape))
        dim = 0
    operand = jnp.moveaxis(operand, dim, axis)
    shape = operand.shape
    return operand.reshape(*shape[:axis], size * shape[axis + 1], *shape[axis + 2 :])


def _unfold(result: Any, axis: int, size: int) -> Any:
    shape = result.shape
    return result.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])


def _batched(
    primitive: Primitive, meaning: Callable, operand_axes: Callable, result_axes: Callable
) -> Callable:
    def rule(operands: Any, dims: Any, *, call: Call) -> tuple[Any, Any]:
        sizes = [o.shape[d] for o, d in zip(operands, dims, strict=True) if d is not None]
        # The axis of rows of each operand and result; None for a weight.
        axes, out_axes = operand_axes(call), result_axes(call)
        # A sum over rows would join the gradients of the weights too.
        folds = None not in out_axes
        for axis, dim in zip(axes, dims, strict=True):
            folds = folds and (axis is not None or dim is None)
        if not folds:
            by_meaning = functools.partial(meaning, call=call)
            results = jax.vmap(by_meaning, in_axes=tuple(dims))(*operands)
            return results, [0] * len(results)
        folded = [_fold(*each, sizes[0]) for each in zip(operands, dims, axes, strict=True)]
        results = primitive.bind(*folded, call=call)
        unfolded = [_unfold(r, a, sizes[0]) for r, a in zip(results, out_axes, strict=True)]
        return unfolded, out_axes

    return rule


def _kept_axes(call: Call) -> list[int]:
    return [1] * call.kept


def _run_results(call: Call) -> list[int]:
    return _result_axes(call) + ([1] * (call.kept - 1) if call.keeps else [])


def _tangent_operands(call: Call) -> list[int | None]:
    return [*_row_axes(call), *_kept_axes(call), *_moving_axes(call)]


def _transpose_operands(call: Call) -> list[int | None]:
    return [*_row_axes(call), *_kept_axes(call), *_result_axes(call)]


batching.primitive_batchers[run_p] = _batched(run_p, plain_run, _row_axes, _run_results)
batching.primitive_batchers[states_p] = _batched(states_p, states_of_run, _row_axes, _run_results)
batching.primitive_batchers[tangent_p] = _batched(
    tangent_p, plain_tangent, _tangent_operands, _result_axes
)
batching.primitive_batchers[transpose_p] = _batched(
    transpose_p, plain_transpose, _transpose_operands, _moving_axes
)
