"""Linear recurrences, parallel over time: h_t = a_t * h_{t-1} + b_t.

Masks and resets go into the coefficients a and b.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._dtype import cast, cast_params, compute_dtype, promote
from recurrax._layer import Layer, Params, State, features
from recurrax._mask import Steps, where
from recurrax.cells.linear import LinearCell, Solver, linear_scan
from recurrax.implementations._registry import FunctionImplementation


def run(
    solve: Solver,
    cell: LinearCell,
    params: Params,
    state: State,
    xs: Any,
    steps: Steps,
    *,
    initial: State,
    keeps_states: bool = False,
    **_: Any,
) -> tuple[State, Any]:
    """Takes all steps at once: a masked step has a = 1, b = 0; at a restart h = a * initial + b.

    `keeps_states` adds the state after each step.
    """
    compute = compute_dtype(cell, params, xs)
    output = features(xs).dtype
    params = cast_params(cell, params, compute)
    a, b, rest = cell.project_inputs(params, cast(xs, compute))  # a and b: [T, *B, H]

    def result(state: State, hs: jax.Array) -> tuple[State, Any]:
        ys = steps.zero_masked(cell.outputs(params, hs, rest).astype(output))  # [T, *B, O]
        if not keeps_states:
            return state, ys
        # Other parts of a state than h never change.
        others = state._replace(h=None)
        others = jax.tree.map(lambda s: jnp.broadcast_to(s, (hs.shape[0], *s.shape)), others)
        return state, (ys, others._replace(h=hs.astype(state.h.dtype)), None)

    if not b.shape[0]:
        return result(state, b)
    # The state has at least float32, so its summands have it too.
    a = a.astype(promote(a.dtype, state.h.dtype))  # [T, *B, H]
    b = b.astype(promote(b.dtype, state.h.dtype))  # [T, *B, H]
    if steps.mask is not None:
        a = where(steps.mask, a, jnp.ones_like(a))  # [T, *B, H]
        b = where(steps.mask, b, jnp.zeros_like(b))  # [T, *B, H]
    first, last = (-1, 0) if steps.reverse else (0, -1)
    entering = state.h.astype(b.dtype)  # [*B, H]
    if steps.restart is not None:
        initial_h = initial.h.astype(b.dtype)  # [*B, H]
        b = where(steps.restart, a * initial_h[None] + b, b)  # [T, *B, H]
        # A restart before the first step hides the state that enters.
        entering = where(steps.restart[first], jnp.zeros_like(entering), entering)  # [*B, H]
    # The solver starts from zero, so the entering state joins the first summand.
    b = b.at[first].add(a[first] * entering)  # [T, *B, H]
    hs = linear_scan(solve, a, b, steps.restart, reverse=steps.reverse)  # [T, *B, H]
    return result(state._replace(h=hs[last].astype(state.h.dtype)), hs)


def sequential(a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool) -> jax.Array:
    """One step after another."""

    def advance(h: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        a, b, restart = at  # [*B, H], [*B, H], [*B]
        h = after(restart, a, h, b)  # [*B, H]
        return h, h

    zero = jnp.zeros_like(b[0])  # [*B, H]
    return lax.scan(advance, zero, (a, b, restart), reverse=reverse)[1]  # [T, *B, H]


def associative(a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool) -> jax.Array:
    """All steps in about 2 log T rounds."""
    return _combine(a, b, restart, reverse, axis=0)[1]  # [T, *B, H]


def blocked(
    a: jax.Array,
    b: jax.Array,
    restart: jax.Array | None,
    reverse: bool,
    *,
    length: int | None = None,
) -> jax.Array:
    """In parallel within blocks of steps, then one block after another.

    A block has `length` steps, by default about the square root of T.
    """
    steps = b.shape[0]
    length = length or max(1, round(math.sqrt(steps)))
    number = -(-steps // length)  # the number of blocks N, rounded up
    missing = number * length - steps

    def split_blocks(x: jax.Array) -> jax.Array:
        # Zeros fill the last block in the direction of the loop. No sum is read there.
        padding = [(0, 0)] * x.ndim
        padding[0] = (missing, 0) if reverse else (0, missing)
        return jnp.pad(x, padding).reshape(number, length, *x.shape[1:])  # [N, L, ...]

    a, b, restart = jax.tree.map(split_blocks, (a, b, restart))  # [N, L, *B, H], restart [N, L, *B]
    # Each step gets three facts about the steps of its block up to and including this step:
    # the product of a, the sum, and whether a restart lies among them.
    product, total, restarted = _combine(a, b, restart, reverse, axis=1)  # [N, L, *B, H]
    # The three facts of a block are the facts of its last step in the loop's direction.
    end = 0 if reverse else -1
    block_restarted = None if restarted is None else restarted[:, end]  # [N, *B]
    ends = sequential(product[:, end], total[:, end], block_restarted, reverse)  # [N, *B, H]
    # Each block begins with the end of the block before it; the first block begins with zero.
    zero = jnp.zeros_like(ends[:1])  # [1, *B, H]
    begins = [ends[1:], zero] if reverse else [zero, ends[:-1]]
    before = jnp.concatenate(begins)  # [N, *B, H]
    hs = after(restarted, product, before[:, None], total)  # [N, L, *B, H]
    hs = hs.reshape(number * length, *b.shape[2:])  # [N*L, *B, H]
    return hs[missing:] if reverse else hs[:steps]  # [T, *B, H]


def after(restart: jax.Array | None, a: jax.Array, h: jax.Array, b: jax.Array) -> jax.Array:
    """The new state a * h + b. Where `restart` is set, it is b alone: h may be NaN there."""
    h = a * h + b  # [..., *B, H]
    if restart is None:
        return h
    return where(restart, b, h)  # [..., *B, H]


def _combine(
    a: jax.Array, b: jax.Array, restart: jax.Array | None, reverse: bool, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """For each step: the product of a, the sum, and whether a restart came, from the first step."""

    def join(earlier: tuple, later: tuple) -> tuple:
        a1, b1, restart1 = earlier
        a2, b2, restart2 = later
        restart = None if restart2 is None else restart1 | restart2  # [..., *B]
        return a1 * a2, after(restart2, a2, b1, b2), restart

    return lax.associative_scan(join, (a, b, restart), reverse=reverse, axis=axis)


def refuses(cell: Layer, *_: Any) -> str | None:
    """Why a cell has no such form, or None."""
    if isinstance(cell, LinearCell) and cell.is_linear:
        return None
    return "it is no LinearCell, whose steps are h' = a * h + b with a and b from the inputs alone."


SOLVERS = {"sequential": sequential, "associative": associative, "blocked": blocked}
IMPLEMENTATIONS = {}
for _name, _solve in SOLVERS.items():
    _run = functools.partial(run, _solve)
    IMPLEMENTATIONS[_name] = FunctionImplementation(
        _run, refuses, run_states=functools.partial(_run, keeps_states=True)
    )
