"""The body of every loop over time: it handles resets, masks and dtypes, and calls the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._dtype import promote
from recurrax._layer import State

# Takes the state before a step and the input of that step.
# Returns the state after the step, the output, and anything else to keep.
Advance = Callable[[State, Any], tuple[State, jax.Array, Any]]


def loop_body(
    advance: Advance,
    initial: State,
    compute: jnp.dtype,
    output: jnp.dtype,
    keeps_states: bool = False,
) -> Callable:
    """A body for `lax.scan` over (z, steps), with `Steps` of the sequence.

    The body is linear in the state, z and `initial` if `advance` is linear.

    Args:
        advance: one step; its state has at least the precision of `compute`.
        initial: the state at a restart, in the dtypes of the loop's state.
        compute: the dtype of the matrix products.
        output: the dtype of the outputs.
        keeps_states: whether the state after each step is kept too.

    Returns:
        A body whose second result is the output, the state after the step or None, and the rest.
    """

    def body(before: State, at: tuple) -> tuple[State, tuple[jax.Array, State | None, Any]]:
        z, flags = at  # the flags of this step: `Steps` with bool[*B] or None
        # A flag acts at once, on a masked step too: the next unmasked step meets `initial`.
        before = flags.restarted(before, initial)
        # The loop keeps the state in the dtypes of `before`; the step may need a wider dtype.
        widened = jax.tree.map(lambda s: s.astype(promote(compute, s.dtype)), before)
        after, y, extra = advance(widened, z)  # leaves [*B, H]; y [*B, O]
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, before)
        y = y.astype(output)
        # A masked step keeps its state and outputs zero.
        after = flags.keep_masked(after, before)
        kept = after if keeps_states else None
        return after, (flags.zero_masked(y), kept, extra)

    return body
