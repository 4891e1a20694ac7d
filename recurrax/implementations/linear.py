"""Linear recurrences, parallel over time: h_t = a_t * h_{t-1} + b_t, with masks and resets in the coefficients."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._dtype import cast, cast_params, compute_dtype, promote
from recurrax._layer import Layer, Params, State, features
from recurrax._mask import where
from recurrax.cells.linear import LinearCell, Solver, linear_scan
from recurrax.implementations._registry import FunctionImplementation


def run(
    solve: Solver,
    cell: LinearCell,
    params: Params,
    state: State,
    xs: Any,
    *,
    initial: State,
    mask: jax.Array | None,
    restart: jax.Array | None,
    reverse: bool,
    **_: Any,
) -> tuple[State, jax.Array]:
    """Takes all steps at once: a masked step has a = 1, b = 0; at a restart h = a * initial + b."""
    compute, output = compute_dtype(cell, params, xs), features(xs).dtype
    params = cast_params(cell, params, compute)
    a, b, rest = cell.project_inputs(params, cast(xs, compute))
    if not b.shape[0]:
        return state, cell.outputs(params, b, rest).astype(output)
    # The state has at least float32, and so has all that is summed up into it.
    a, b = (part.astype(promote(part.dtype, state.h.dtype)) for part in (a, b))
    if mask is not None:
        a, b = where(mask, a, jnp.ones_like(a)), where(mask, b, jnp.zeros_like(b))
    first, last = (-1, 0) if reverse else (0, -1)
    entering = state.h.astype(b.dtype)
    if restart is not None:
        initial = initial.h.astype(b.dtype)
        b = where(restart, a * initial[None] + b, b)
        entering = where(restart[first], jnp.zeros_like(entering), entering)
    b = b.at[first].add(a[first] * entering)
    hs = linear_scan(solve, a, b, restart, reverse=reverse)
    ys = cell.outputs(params, hs, rest).astype(output)
    ys = ys if mask is None else where(mask, ys, jnp.zeros_like(ys))
    return state._replace(h=hs[last].astype(state.h.dtype)), ys


def sequential(a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool) -> jax.Array:
    """One step after another."""

    def advance(h: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        a, b, restart = at
        h = after(restart, a, h, b)
        return h, h

    return lax.scan(advance, jnp.zeros_like(b[0]), (a, b, restart), reverse=reverse)[1]


def associative(a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool) -> jax.Array:
    """In about 2 log T rounds over all steps."""
    return _combined(a, b, restart, reverse, axis=0)[1]


def blocked(
    a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool, *, length: int | None = None
) -> jax.Array:
    """In parallel within blocks of `length` steps, about the root of T by default, and one block after another."""
    steps = b.shape[0]
    length = length or max(1, round(math.sqrt(steps)))
    number = -(-steps // length)

    def folded(x: jax.Array) -> jax.Array:
        # Steps of zeros after the last, or before the first going backwards, are no steps: there a sum is not read.
        missing = [(0, 0)] * x.ndim
        missing[0] = (number * length - steps, 0) if reverse else (0, number * length - steps)
        return jnp.pad(x, missing).reshape(number, length, *x.shape[1:])

    # Of each step: the product of a, the sum, and whether a restart stands, from the block's first step up to it.
    a, b, restart = jax.tree.map(folded, (a, b, restart))
    kept, added, cut = _combined(a, b, restart, reverse, axis=1)
    end = 0 if reverse else -1
    cut_at_end = None if cut is None else cut[:, end]
    carried = sequential(kept[:, end], added[:, end], cut_at_end, reverse)
    nothing = jnp.zeros_like(carried[:1])
    before = jnp.concatenate([carried[1:], nothing] if reverse else [nothing, carried[:-1]])
    hs = after(cut, kept, before[:, None], added).reshape(number * length, *b.shape[2:])
    return hs[number * length - steps :] if reverse else hs[:steps]


def after(restart: jax.Array | None, a: jax.Array, h: jax.Array, b: jax.Array) -> jax.Array:
    """The new state a * h + b, or b alone where `restart` is set: h may be NaN there."""
    return a * h + b if restart is None else where(restart, b, a * h + b)


def _combined(
    a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The product of a, the sum and whether there was a restart, from the first step up to each."""

    def then(one: tuple, two: tuple) -> tuple:
        (a1, b1, restart1), (a2, b2, restart2) = one, two
        restart = None if restart2 is None else restart1 | restart2
        return a1 * a2, after(restart2, a2, b1, b2), restart

    return lax.associative_scan(then, (a, b, restart), reverse=reverse, axis=axis)


def refuses(cell: Layer, *_: Any, **__: Any) -> str | None:
    """Why a cell has no such form, or None."""
    if isinstance(cell, LinearCell):
        return None
    return "it is no LinearCell, whose steps are h' = a * h + b with a and b from the inputs alone."


SOLVERS = {"sequential": sequential, "associative": associative, "blocked": blocked}
SOLVED_BY = {name: FunctionImplementation(functools.partial(run, solve), refuses) for name, solve in SOLVERS.items()}
