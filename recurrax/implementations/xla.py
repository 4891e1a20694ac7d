"""The plain loop, `jax.lax.scan`, its derivative left to JAX: it serves every cell on every platform."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from recurrax._dtype import cast, cast_params, compute_dtype
from recurrax._layer import Cell, Params, State, features
from recurrax.implementations._loop import guarded
from recurrax.implementations._platform import projects_inside
from recurrax.implementations._registry import FunctionImplementation


def run(
    cell: Cell,
    params: Params,
    state: State,
    xs: Any,
    *,
    initial: State,
    mask: jax.Array | None,
    restart: jax.Array | None,
    reverse: bool,
    unroll: int,
    **_: Any,
) -> tuple[State, jax.Array]:
    """Takes one step after another."""
    compute = compute_dtype(cell, params, xs)
    params, zs, inside = cast_params(cell, params, compute), cast(xs, compute), projects_inside(features(xs))

    def advance(before: State, z: Any) -> tuple[State, jax.Array, None]:
        return *cell.step(params, before, cell.project_inputs(params, z) if inside else z), None

    zs = zs if inside else cell.project_inputs(params, zs)
    body = guarded(advance, initial, compute, features(xs).dtype)
    state, (ys, _) = lax.scan(body, state, (zs, mask, restart), reverse=reverse, unroll=unroll)
    return state, ys


XLA = FunctionImplementation(run, refuses=lambda *_, **__: None)
