"""The calls of the compiled library, as lowering rules: XLA's foreign-function interface.

The library takes a fixed number of arrays. An array that a call does not have is empty there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from recurrax.implementations.native._call import Call
from recurrax.implementations.native._library import BACKWARD, FORWARD, STATES

_NO_FLOATS = np.zeros(0, np.float32)
_NO_FLAGS = np.zeros(0, np.bool_)


def is_native(context: Any) -> bool:
    """Whether a computation may call the library: on one device, and not for an export.

    The partitioner of JAX cannot see into a foreign call, so it cannot spread one over devices.
    """
    module = context.module_context
    if module.lowering_parameters.for_export:
        return False
    axes = module.axis_context
    if isinstance(axes, mlir.ShardingContext):
        return axes.num_devices == 1
    if isinstance(axes, mlir.SPMDAxisContext):
        return axes.manual_axes == frozenset(axes.mesh.axis_names)
    return False


# The places of `xs`, `ys` and their gradients among the operands and the results of each call. The
# states and the pre-activations of a trace lie in memory as these do.
_SEQUENCES = {
    FORWARD: ((0,), (0,)),
    STATES: ((0,), (0, 3, 4)),
    BACKWARD: ((0, 10, 13), (0,)),
}


def _layouts(types: list[Any], places: tuple[int, ...], batch_major: bool) -> list[Any]:
    """The axes of each array from the fastest to the slowest in memory, as XLA names layouts."""
    layouts = []
    for place, aval in enumerate(types):
        axes = tuple(reversed(range(len(aval.shape))))
        # [T, B, ...] that lies in memory as [B, T, ...]
        if batch_major and place in places and len(axes) == 3:
            axes = (2, 0, 1)
        layouts.append(axes)
    return layouts


def _foreign_call(
    name: str, context: Any, call: Call, operands: list[Any], results: list[Any]
) -> list[Any]:
    """Lowers one foreign call. An operand without a value is a constant, an array of NumPy."""
    types, values = [], []
    # A call always has all operands, so a constant stands for an absent one.
    for operand, aval in operands:
        if operand is None:
            types.append(jax.core.ShapedArray(aval.shape, aval.dtype))
            values.append(mlir.ir_constant(aval))
        else:
            types.append(aval)
            values.append(operand)
    of_operands, of_results = _SEQUENCES[name]
    # XLA would copy a result in another layout to the default layout. So a result has the axes in
    # the order of memory, and is transposed. The transposition back by the caller cancels this.
    lying = list(results)
    transposed = []
    for place in of_results:
        shape = results[place].shape
        if call.batch_major and len(shape) == 3:
            transposed.append(place)
            lying[place] = jax.core.ShapedArray((shape[1], shape[0], shape[2]), jnp.float32)
    layouts = _layouts(types, of_operands, call.batch_major)
    rule = jax.ffi.ffi_lowering(name, operand_layouts=layouts)
    of_call = context.replace(avals_in=types, avals_out=lying)
    # The attributes of the call, by the names that `handlers.cc` reads.
    facts = {"kind": np.int64(call.facts.number), "reverse": call.reverse}
    facts["batch_major"] = call.batch_major
    lowered = list(rule(of_call, *values, **facts))
    swap = mlir.lower_fun(lambda array: jnp.swapaxes(array, 0, 1), multiple_results=False)
    for place in transposed:
        of_swap = context.replace(avals_in=[lying[place]], avals_out=[results[place]])
        (lowered[place],) = swap(of_swap, lowered[place])
    return lowered


def _arguments(call: Call, operands: list[Any]) -> list[Any]:
    """The first ten arrays that every function of the library takes."""
    state, initial = call.states(operands)
    mask, restart = call.flags(operands)
    no_floats, no_flags = (None, _NO_FLOATS), (None, _NO_FLAGS)

    def two_parts(parts: Any) -> list[Any]:
        return [*parts, *[no_floats] * (2 - len(parts))]

    arguments = [*operands[:4], *two_parts(state), *two_parts(initial)]
    arguments.append(no_flags if mask is None else mask)
    arguments.append(no_flags if restart is None else restart)
    return arguments


def _pairs(context: Any, operands: tuple[Any, ...]) -> list[Any]:
    return list(zip(operands, context.avals_in, strict=True))


def _empty() -> Any:
    return jax.core.ShapedArray((0,), jnp.float32)


def lower_forward(context: Any, *operands: Any, call: Call, name: str = FORWARD) -> list[Any]:
    """Lowers the forward pass; its results are those of `plain`, then the kept arrays."""
    arguments = _arguments(call, _pairs(context, operands))
    out = list(context.avals_out)
    ys, state, kept = out[0], out[1 : 1 + call.facts.parts], out[1 + call.facts.parts :]
    # The library has five results: ys, h, c, every c, and the gates.
    results = [ys, state[0], _empty(), _empty(), _empty()]
    wanted = [0, 1]
    if call.facts.parts == 2:
        results[2] = state[1]
        wanted.append(2)
    if call.keeps and call.facts.parts == 2:
        results[3] = kept.pop(0)
        wanted.append(3)
    if call.keeps and call.facts.blocks > 1:
        results[4] = kept.pop(0)
        wanted.append(4)
    lowered = _foreign_call(name, context, call, arguments, results)
    return [lowered[k] for k in wanted]


def lower_states(context: Any, *operands: Any, call: Call) -> list[Any]:
    """Lowers the forward pass; its results are those of `plain_states`."""
    return lower_forward(context, *operands, call=call, name=STATES)


def lower_backward(context: Any, *operands: Any, call: Call) -> list[Any]:
    """Lowers the backward pass; its results are the gradients of the arrays that move."""
    pairs = _pairs(context, operands)
    arrays, rest = pairs[: call.arrays], pairs[call.arrays :]
    kept, cotangents = rest[: call.kept], rest[call.kept :]
    arguments = _arguments(call, arrays)
    no_floats = (None, _NO_FLOATS)
    # ys, every c and the gates; then the cotangents of ys, h and c.
    ys = kept.pop(0)
    cs = kept.pop(0) if call.facts.parts == 2 else no_floats
    gates = kept.pop(0) if call.facts.blocks > 1 else no_floats
    cotangents += [no_floats] * (3 - len(cotangents))
    arguments += [ys, cs, gates, *cotangents]
    # The library has eight results, in the order of the floating arrays.
    parts = call.facts.parts
    places = [0, 1, 2, 3, *range(4, 4 + parts)]
    if call.restarts:
        places += range(6, 6 + parts)
    results = [_empty()] * 8
    wanted = []
    for position, place in enumerate(places):
        moves = call.moves[position]
        # Gradients of the inputs cost a product, so they are left out where nobody wants them.
        if moves or place > 0:
            results[place] = _like(arrays[position][1])
        if moves:
            wanted.append(place)
    lowered = _foreign_call(BACKWARD, context, call, arguments, results)
    return [lowered[k] for k in wanted]


def _like(aval: Any) -> Any:
    return jax.core.ShapedArray(aval.shape, aval.dtype)
