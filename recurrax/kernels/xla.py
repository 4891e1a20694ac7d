"""The plain loop, `jax.lax.scan`: it serves every cell on every platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._dtype import compute_dtype, default_state_dtype, promote
from recurrax._layer import Cell, Params, State
from recurrax._mask import where
from recurrax.kernels import Kernel, register


def run(
    cell: Cell,
    params: Params,
    state: State,
    xs: jax.Array,
    *,
    mask: jax.Array | None,
    reset: jax.Array | None,
    reverse: bool,
    unroll: int,
) -> tuple[State, jax.Array]:
    """Projects all inputs at once, then takes one step after another."""
    compute, output_dtype = compute_dtype(cell, params, xs), xs.dtype
    params = jax.tree.map(lambda p: p.astype(compute) if jnp.issubdtype(p.dtype, jnp.floating) else p, params)
    batch_shape = xs.shape[1:-1]
    initial = jax.tree.map(
        lambda i, s: i.astype(s.dtype), cell.initial_state(batch_shape, default_state_dtype(params, xs)), state
    )

    def body(kept: State, at: tuple) -> tuple[State, jax.Array]:
        z, real, fresh = at
        before = kept if fresh is None else where(fresh, initial, kept)
        after, y = cell.step(params, jax.tree.map(lambda s: s.astype(promote(compute, s.dtype)), before), z)
        after = jax.tree.map(lambda a, k: a.astype(k.dtype), after, kept)
        y = y.astype(output_dtype)
        if real is not None:
            after, y = where(real, after, kept), where(real, y, jnp.zeros_like(y))
        return after, y

    zs = cell.project_inputs(params, xs.astype(compute))
    return lax.scan(body, state, (zs, mask, reset), reverse=reverse, unroll=unroll)


register("xla", Kernel(run, refuses=lambda cell: None))
