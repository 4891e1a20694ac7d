"""The plain loop, `jax.lax.scan`: it serves every cell on every platform. JAX differentiates it."""

from __future__ import annotations

import functools
from typing import Any

from jax import lax

from recurrax._dtype import cast, cast_params, compute_dtype
from recurrax._layer import Cell, Params, State, features
from recurrax._mask import Steps
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
    """Takes one step after another; `keeps_states` adds the state after each step."""
    compute = compute_dtype(cell, params, xs)
    params = cast_params(cell, params, compute)
    in_loop = projects_in_loop(features(xs))
    zs = cast(xs, compute)  # [T, *B, I]
    if not in_loop:
        zs = cell.project_inputs(params, zs)  # [T, *B, G*H]

    def advance(before: State, z: Any) -> tuple[State, Any, None]:
        if in_loop:
            z = cell.project_inputs(params, z)  # [*B, I] -> [*B, G*H]
        return *cell.step(params, before, z), None

    body = loop_body(advance, initial, compute, features(xs).dtype, keeps_states)
    over = (zs, steps)
    state, (ys, states, _) = lax.scan(body, state, over, reverse=steps.reverse, unroll=unroll)
    if keeps_states:
        return state, (ys, states)  # leaves [*B, H]; ys [T, *B, O]; leaves [T, *B, H]
    return state, ys  # leaves [*B, H]; ys [T, *B, O]


XLA = FunctionImplementation(
    run, refuses=lambda *_: None, run_states=functools.partial(run, keeps_states=True)
)
