"""Masks, lengths and segments: which steps are real, and where a new segment begins."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recurrax._arguments import describe


def lengths_to_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """The mask of right-padded sequences: True at the first `lengths` steps.

    Args:
        lengths: `int[*B]`; below 0 counts as 0, above `max_length` as `max_length`.
        max_length: the number of steps T.

    Returns:
        `bool[*B, T]`.

    Raises:
        TypeError: if `lengths` or `max_length` are no ints.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> recurrax.lengths_to_mask(jnp.array([0, 2]), 3).tolist()
        [[False, False, False], [True, True, False]]
    """
    lengths = _ints("lengths", "int[*B]", lengths)
    if isinstance(max_length, (float, jax.Array, np.ndarray)):
        raise TypeError(f"`max_length` must be an int; got {describe(max_length)}.")
    if jnp.iinfo(lengths.dtype).bits < 32:  # in which T may not fit
        lengths = lengths.astype(jnp.int32)
    steps = lax.broadcasted_iota(lengths.dtype, (*lengths.shape, max_length), lengths.ndim)
    return steps < lengths[..., None]


def segment_ids_to_reset(segment_ids: jax.Array) -> jax.Array:
    """The `reset` flags of packed sequences: True at the first step of each segment.

    Segment id 0 is padding and gets no flag. Give `scan` the matching mask, `segment_ids != 0`, too, so that padding
    leaves no trace in the state.

    Args:
        segment_ids: `int[*B, T]`; steps of one segment stand together and share an id.

    Returns:
        `bool[*B, T]`.

    Raises:
        TypeError: if `segment_ids` are no ints.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ids = jnp.array([1, 1, 2, 2, 0])
        >>> recurrax.segment_ids_to_reset(ids).tolist()
        [True, False, True, False, False]
    """
    segment_ids = _ints("segment_ids", "int[*B, T]", segment_ids)
    previous = jnp.concatenate([jnp.zeros_like(segment_ids[..., :1]), segment_ids[..., :-1]], axis=-1)
    return (segment_ids != previous) & (segment_ids != 0)


def _ints(name: str, must: str, values: Any) -> jax.Array:
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must be {must}; got {describe(array)}.")
    return array


def resets_of_walk(reset: jax.Array, mask: jax.Array | None, reverse: bool) -> jax.Array:
    """Before which steps a walk sets its state back, from where the data's segments begin.

    A step's segment is the number of flags up to it. A walk resets where the segment of a real step differs from that
    of the real step before it: so a flag on a masked step takes effect at the next real one, flags in the padding have
    none, and going backwards the state is reset between the same two steps as going forwards.

    Args:
        reset: `bool[T, *B]`.
        mask: `bool[T, *B]`, or None.
        reverse: the direction of the walk.

    Returns:
        `bool[T, *B]`; its value at masked steps means nothing.
    """
    segment = jnp.cumsum(reset, axis=0, dtype=jnp.int32)
    if reverse:
        none = jnp.iinfo(jnp.int32).max
        seen = segment if mask is None else jnp.where(mask, segment, none)
        after = lax.cummin(seen, axis=0, reverse=True)
        after = jnp.concatenate([after[1:], jnp.full_like(after[:1], none)], axis=0)
        return (after != none) & (after != segment)
    seen = segment if mask is None else jnp.where(mask, segment, 0)
    before = lax.cummax(seen, axis=0)
    before = jnp.concatenate([jnp.zeros_like(before[:1]), before[:-1]], axis=0)
    return before != segment


def where(flags: jax.Array, yes: Any, no: Any) -> Any:
    """Takes the leaves of `yes` where a flag is set, those of `no` elsewhere; flags stand for the leading axes."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(flags, tuple(range(flags.ndim, a.ndim))), a, b)

    return jax.tree.map(pick, yes, no)
