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
from recurrax._linear import LinearCell, Solver, linear_scan
from recurrax._mask import where
from recurrax.kernels import Kernel, register


def run(
    solve: Solver,
    cell: LinearCell,
    params: Params,
    state: State,
    xs: Any,
    *,
    initial: State,
    mask: jax.Array | None,
    reset: jax.Array | None,
    reverse: bool,
    **_: Any,
) -> tuple[State, jax.Array]:
    """Takes all steps at once: a masked step has a = 1, b = 0; a reset has a = 0 and starts from the initial state."""
    compute, output = compute_dtype(cell, params, xs), features(xs).dtype
    params = cast_params(cell, params, compute)
    a, b, rest = cell.project_inputs(params, cast(xs, compute))
    if not b.shape[0]:
        return state, cell.outputs(params, b, rest).astype(output)
    # The state has at least float32, and so has all that is summed up into it.
    a, b = (part.astype(promote(part.dtype, state.h.dtype)) for part in (a, b))
    if reset is not None:
        b = where(reset, a * initial.h[None].astype(b.dtype) + b, b)
        a = where(reset, jnp.zeros_like(a), a)
    if mask is not None:
        a, b = where(mask, a, jnp.ones_like(a)), where(mask, b, jnp.zeros_like(b))
    first, last = (-1, 0) if reverse else (0, -1)
    b = b.at[first].add(a[first] * state.h.astype(b.dtype))
    hs = linear_scan(solve, a, b, reverse=reverse)
    ys = cell.outputs(params, hs, rest).astype(output)
    ys = ys if mask is None else where(mask, ys, jnp.zeros_like(ys))
    return state._replace(h=hs[last].astype(state.h.dtype)), ys


def sequential(a: jax.Array, b: jax.Array, reverse: bool) -> jax.Array:
    """One step after another."""

    def advance(h: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        a, b = at
        h = a * h + b
        return h, h

    return lax.scan(advance, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def associative(a: jax.Array, b: jax.Array, reverse: bool) -> jax.Array:
    """In about 2 log T rounds over all steps."""
    return _products_and_sums(a, b, reverse, axis=0)[1]


def chunked(a: jax.Array, b: jax.Array, reverse: bool, *, length: int | None = None) -> jax.Array:
    """In parallel within chunks of `length` steps, about the root of T by default, and one chunk after another."""
    steps = b.shape[0]
    length = length or max(1, round(math.sqrt(steps)))
    number = -(-steps // length)

    def folded(x: jax.Array) -> jax.Array:
        # Steps of zeros after the last, or before the first going backwards, are no steps: there a sum is not read.
        missing = [(0, 0)] * x.ndim
        missing[0] = (number * length - steps, 0) if reverse else (0, number * length - steps)
        return jnp.pad(x, missing).reshape(number, length, *x.shape[1:])

    kept, added = _products_and_sums(folded(a), folded(b), reverse, axis=1)
    end = 0 if reverse else -1
    carried = sequential(kept[:, end], added[:, end], reverse)
    nothing = jnp.zeros_like(carried[:1])
    before = jnp.concatenate([carried[1:], nothing] if reverse else [nothing, carried[:-1]])
    hs = (added + kept * before[:, None]).reshape(number * length, *b.shape[1:])
    return hs[number * length - steps :] if reverse else hs[:steps]


def _products_and_sums(a: jax.Array, b: jax.Array, reverse: bool, axis: int) -> tuple[jax.Array, jax.Array]:
    def then(before: tuple, after: tuple) -> tuple[jax.Array, jax.Array]:
        (a1, b1), (a2, b2) = before, after
        return a1 * a2, a2 * b1 + b2

    return lax.associative_scan(then, (a, b), reverse=reverse, axis=axis)


def refuses(cell: Layer, *_: Any, **__: Any) -> str | None:
    """Why a cell has no such form, or None."""
    if isinstance(cell, LinearCell):
        return None
    return "it is no LinearCell, whose steps are h' = a * h + b with a and b from the inputs alone."


SOLVERS = {"sequential": sequential, "associative": associative, "chunked": chunked}
for _name, _solve in SOLVERS.items():
    register(_name, Kernel(functools.partial(run, _solve), refuses))
