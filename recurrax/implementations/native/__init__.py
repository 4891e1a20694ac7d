"""A loop in C++ for LSTMs, GRUs and Elman's networks on a CPU, forward and backward.

`_library.py` loads it, `_foreign.py` calls it, `_rule.py` gives it every derivative, and `source/`
is the C++ source. A masked step costs nothing. The states and the pre-activations of a trace come
from the same loop.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Gate, Params, State
from recurrax._mask import Steps
from recurrax.cells.affine import AffineCell
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.implementations import hoisted, xla
from recurrax.implementations._platform import accumulates_in_loop, reads_batch_major
from recurrax.implementations._registry import FunctionImplementation
from recurrax.implementations.native import _library
from recurrax.implementations.native._call import GATES, Call, bias_of, gates_of, gates_shown

# The fields in which a cell may differ from the plain cell. They do not change the equations.
_FREE_FIELDS = {
    "hidden_size",
    "dtype",
    "forget_bias",
    "bias",
    "recurrent_bias",
    "kernel_init",
    "recurrent_kernel_init",
    "bias_init",
    "activation",  # of an Elman cell; see `_kind_of`
}


_CELLS: dict[Any, str] = {LSTMCell: "lstm", GRUCell: "gru"}
_ACTIVATIONS: dict[Any, str] = {jnp.tanh: "tanh", jax.nn.relu: "relu"}


def _kind_of(cell: Any) -> str | None:
    """The key of this cell in `KINDS`, or None."""
    if type(cell) is ElmanCell:
        return _ACTIVATIONS.get(cell.activation)
    kind = _CELLS.get(type(cell))
    if kind is None or cell.activation is not jnp.tanh:
        return None
    for field in dataclasses.fields(cell):
        if field.name not in _FREE_FIELDS and getattr(cell, field.name) != field.default:
            return None
    return kind


def why_missing() -> str | None:
    """Why the library cannot run on this machine, or None."""
    if jax.default_backend() != "cpu":
        return f"it runs on a CPU, and JAX runs on {jax.default_backend()!r} here."
    return _library.why_missing()


def refuses(
    cell: Any, params: Params, state: State, xs: Any, steps: Steps | None = None
) -> str | None:
    """Why the library cannot serve these arguments, or None."""
    if missing := why_missing():
        return missing
    if _kind_of(cell) is None:
        return (
            "it takes an LSTMCell without projection, a GRUCell with `reset_after`, or an"
            " ElmanCell with tanh or relu; each with its default activations."
        )
    # The library has no other dtype, and casts nothing.
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((params, state, xs))}
    if cell.dtype is not None:
        dtypes.add(jnp.dtype(cell.dtype))
    others = sorted(map(str, dtypes - {jnp.dtype(jnp.float32)}))
    if others:
        return f"parameters, state and inputs must be float32 throughout; got {', '.join(others)}."
    return None


def run(
    cell: AffineCell,
    params: Params,
    state: State,
    xs: jax.Array,
    steps: Steps,
    *,
    initial: State,
    unroll: int,
) -> tuple[State, jax.Array]:
    """Takes one step after another in C++."""
    if _is_spread((params, state, xs)):
        return hoisted.run(cell, params, state, xs, steps, initial=initial, unroll=unroll)
    # These modules of JAX take a while to load, so they load on first use.
    from recurrax.implementations.native._rule import run_p

    call, arrays = _call_and_arrays(cell, params, state, initial, xs, steps)
    ys, *final = run_p.bind(*arrays, call=call)
    return _state_like(state, final), _with_batch(ys, state)


def run_states(
    cell: AffineCell,
    params: Params,
    state: State,
    xs: jax.Array,
    steps: Steps,
    *,
    initial: State,
    unroll: int,
) -> tuple[State, Any]:
    """`run`, with the state after each step and the gates.

    Every derivative is the derivative of the loop of JAX.
    """
    if _is_spread((params, state, xs)):
        return _states_by_loop(cell, unroll, params, state, initial, xs, steps)
    return _states(cell, unroll, params, state, initial, xs, steps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _states(
    cell: AffineCell,
    unroll: int,
    params: Params,
    state: State,
    initial: State,
    xs: jax.Array,
    steps: Steps,
) -> tuple[State, Any]:
    from recurrax.implementations.native._rule import states_p

    call, arrays = _call_and_arrays(cell, params, state, initial, xs, steps)
    results = states_p.bind(*arrays, call=dataclasses.replace(call, keeps=True))
    parts = call.facts.parts
    ys, final, rest = results[0], results[1 : 1 + parts], results[1 + parts :]
    gates: dict[str, Gate] = {}
    if call.kind in GATES:
        gates = gates_shown(call, rest.pop())
    # h is the output, and c comes next: leaves [T, B, H].
    states = jax.tree.unflatten(jax.tree.structure(state), [ys, *rest])
    ys, states, gates = jax.tree.map(lambda leaf: _with_batch(leaf, state), (ys, states, gates))
    states = steps.filled(states, state, initial)  # leaves [T, *B, H]
    return _state_like(state, final), (ys, states, gates)


@_states.defjvp
def _states_jvp(cell: AffineCell, unroll: int, primals: tuple, tangents: tuple) -> tuple:
    return jax.jvp(functools.partial(_states_by_loop, cell, unroll), primals, tangents)


def _states_by_loop(
    cell: AffineCell,
    unroll: int,
    params: Params,
    state: State,
    initial: State,
    xs: jax.Array,
    steps: Steps,
) -> tuple[State, Any]:
    """The meaning of `_states`, by the faster of the two loops of JAX."""
    run = hoisted.run
    if accumulates_in_loop(xs):
        run = xla.run
    final, (ys, states, a) = run(
        cell, params, state, xs, steps, initial=initial, unroll=unroll, keeps_states=True
    )
    return final, (ys, states, gates_of(cell, params, a, states))


def _is_spread(arrays: Any) -> bool:
    """Whether an Explicit mesh spreads an array: then the loop of JAX serves.

    There the axes of rows cannot be joined.
    """
    return any(any(jax.typeof(leaf).sharding.spec) for leaf in jax.tree.leaves(arrays))


def _with_batch(sequence: jax.Array, state: State) -> jax.Array:
    """`[T, B, H]` with the axes of the batch of the state, `[T, *B, H]`."""
    batch = jax.tree.leaves(state)[0].shape[:-1]
    return sequence.reshape(sequence.shape[0], *batch, sequence.shape[-1])


def _state_like(state: State, parts: list[jax.Array]) -> State:
    """The final state, with the axes of the batch of the given state."""
    leaves, structure = jax.tree.flatten(state)
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def _call_and_arrays(
    cell: AffineCell, params: Params, state: State, initial: State, xs: jax.Array, steps: Steps
) -> tuple[Call, list[jax.Array]]:
    """The call of the library for these arguments."""
    kind = _kind_of(cell)
    assert kind is not None, "`refuses` is asked first"
    number, *batch, features = xs.shape
    rows = math.prod(batch)

    def flat_parts(state: State) -> list[jax.Array]:
        return [part.reshape(rows, part.shape[-1]) for part in jax.tree.leaves(state)]

    mask, restart = steps.mask, steps.restart
    # The static facts, then the arrays in the order of `_call.py`.
    call = Call(
        kind,
        steps.reverse,
        steps.batch_major and reads_batch_major(xs),
        masked=mask is not None,
        restarts=restart is not None,
    )
    arrays = [xs.reshape(number, rows, features), params.kernel, params.recurrent_kernel]
    arrays += [bias_of(kind, params), *flat_parts(state)]
    if call.restarts:
        arrays += flat_parts(initial)
    for flags in (mask, restart):
        if flags is not None:
            arrays.append(flags.reshape(number, rows))
    return call, _placed_alike(arrays)


def _placed_alike(arrays: list[jax.Array]) -> list[jax.Array]:
    """Inside `shard_map`, arrays that are equal on all devices become arrays of each device."""
    axes: frozenset[Any] = frozenset()
    for array in arrays:
        axes |= _varies_over(array)
    placed = []
    for array in arrays:
        missing = tuple(axes - _varies_over(array))
        if missing:
            array = jax.lax.pcast(array, missing, to="varying")
        placed.append(array)
    return placed


def _varies_over(array: jax.Array) -> frozenset[Any]:
    """The axes of a mesh over which an array differs from device to device."""
    kind = jax.typeof(array)
    # JAX renamed this attribute.
    if hasattr(kind, "vma"):
        return kind.vma
    return kind.manual_axis_type.varying


NATIVE = FunctionImplementation(run, refuses, why_missing=why_missing, run_states=run_states)
