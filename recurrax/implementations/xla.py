"""The plain loop, `jax.lax.scan`: it serves every cell on every platform. JAX differentiates it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._dtype import cast, cast_params, compute_dtype
from recurrax._layer import Cell, Params, State, features
from recurrax._mask import Steps
from recurrax.cells.affine import AffineCell
from recurrax.implementations._loop import loop_body
from recurrax.implementations._platform import projects_in_loop
from recurrax.implementations._registry import FunctionImplementation


def run(
    cell: Cell,
    params: Params,
    state: State,
    xs: Any,
    steps: Steps,
    *,
    initial: State,
    unroll: int,
    keeps_states: bool = False,
) -> tuple[State, Any]:
    """Takes one step after another.

    `keeps_states` adds the state after each step, and the pre-activations of an affine cell.
    """
    compute = compute_dtype(cell, params, xs)
    params = cast_params(cell, params, compute)
    in_loop = projects_in_loop(features(xs))
    zs = cast(xs, compute)  # [T, *B, I]
    if not in_loop:
        zs = cell.project_inputs(params, zs)  # [T, *B, G*H]

    def advance(before: State, z: Any) -> tuple[State, jax.Array, Any]:
        if in_loop:
            z = cell.project_inputs(params, z)  # [*B, I] -> [*B, G*H]
        if not keeps_states or not isinstance(cell, AffineCell) or not cell.is_affine:
            return *cell.step(params, before, z), None
        # The same step, in its two parts.
        a = cell.step_preactivations(params, before, z)  # G arrays [*B, H]
        after = cell.pointwise(cell.other_params(params), a, before)
        return *after, jnp.concatenate(a, axis=-1)  # [*B, G*H]

    body = loop_body(advance, initial, compute, features(xs).dtype, keeps_states)
    over = (zs, steps)
    state, outs = lax.scan(body, state, over, reverse=steps.reverse, unroll=unroll)
    if keeps_states:
        return state, outs  # leaves [*B, H]; ys [T, *B, O], leaves [T, *B, H], [T, *B, G*H]
    return state, outs[0]  # leaves [*B, H]; ys [T, *B, O]


XLA = FunctionImplementation(
    run, refuses=lambda *_: None, run_states=functools.partial(run, keeps_states=True)
)
