"""A loop in C++ for LSTMs, GRUs and Elman's networks on a CPU, forward and backward.

`_library.py` loads it, `_foreign.py` calls it, `_rule.py` gives it every derivative, and `source/`
is the C++ source. A masked step costs nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Params, State
from recurrax._mask import Steps
from recurrax.cells.affine import AffineCell
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.implementations import hoisted
from recurrax.implementations._platform import reads_batch_major
from recurrax.implementations._registry import FunctionImplementation
from recurrax.implementations.native import _library
from recurrax.implementations.native._call import Call, bias_of

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
    # Under an Explicit mesh the axes of rows cannot be joined: the loop of JAX serves there.
    if any(any(jax.typeof(leaf).sharding.spec) for leaf in jax.tree.leaves((params, state, xs))):
        return hoisted.run(cell, params, state, xs, steps, initial=initial, unroll=unroll)
    # These modules of JAX take a while to load, so they load on first use.
    from recurrax.implementations.native._rule import run_p

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
    ys, *final = run_p.bind(*_placed_alike(arrays), call=call)
    ys = ys.reshape(number, *batch, ys.shape[-1])  # [T, *B, H]
    parts = [part.reshape(*batch, part.shape[-1]) for part in final[: call.facts.parts]]
    return jax.tree.unflatten(jax.tree.structure(state), parts), ys


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


NATIVE = FunctionImplementation(run, refuses, why_missing=why_missing)
