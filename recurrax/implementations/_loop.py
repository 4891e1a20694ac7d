"""What every step of every loop does around the cell: resets, masks, dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._dtype import promote
from recurrax._layer import State
from recurrax._mask import where

# From the state before a step and what stands at that step to the state after it, the output, and anything to keep.
Advance = Callable[[State, Any], tuple[State, jax.Array, Any]]


def guarded(advance: Advance, initial: State, compute: jnp.dtype, output: jnp.dtype) -> Callable:
    """A body for `lax.scan` over (z, mask, reset); linear in the state, z and `initial` if `advance` is.

    Args:
        advance: the step itself; it sees a state that has at least the precision of `compute`.
        initial: the state at a reset, in the dtypes of the loop's state.
        compute: the dtype of the matrix products.
        output: the dtype of the outputs.
    """

    def body(kept: State, at: tuple) -> tuple[State, tuple[jax.Array, Any]]:
        z, real, restart = at
        # A flag on a masked step acts at once: whatever comes next, the state is the initial state.
        kept = kept if restart is None else where(restart, initial, kept)
        after, y, extra = advance(jax.tree.map(lambda s: s.astype(promote(compute, s.dtype)), kept), z)
        after = jax.tree.map(lambda a, k: a.astype(k.dtype), after, kept)
        y = y.astype(output)
        if real is not None:
            after, y = where(real, after, kept), where(real, y, jnp.zeros_like(y))
        return after, (y, extra)

    return body
