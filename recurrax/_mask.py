"""Masks, lengths and segments: which steps are real, and where a new segment begins."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def lengths_to_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """The mask of right-padded sequences: True at the first `lengths` steps.

    Args:
        lengths: `int[*B]`; below 0 counts as 0, above `max_length` as `max_length`.
        max_length: the number of steps T.

    Returns:
        `bool[*B, T]`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> recurrax.lengths_to_mask(jnp.array([0, 2]), 3).tolist()
        [[False, False, False], [True, True, False]]
    """
    lengths = jnp.asarray(lengths)
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

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ids = jnp.array([1, 1, 2, 2, 0])
        >>> recurrax.segment_ids_to_reset(ids).tolist()
        [True, False, True, False, False]
    """
    segment_ids = jnp.asarray(segment_ids)
    previous = jnp.concatenate([jnp.zeros_like(segment_ids[..., :1]), segment_ids[..., :-1]], axis=-1)
    return (segment_ids != previous) & (segment_ids != 0)


def restarts(reset: jax.Array, reverse: bool) -> jax.Array:
    """The flags of `reset`, converted for the direction: before which steps the state returns to the initial state.

    Forwards the state returns before step t where `reset[t]` is set. Backwards it returns between the same two steps:
    after step t, before step t - 1. The flag of the first step then acts at the very end: see `restarts_last`.

    Args:
        reset: `bool[T, *B]`, True at the first step of each segment of the data.
        reverse: the direction.

    Returns:
        `bool[T, *B]`. A flag acts on masked steps too, so a sequence in parts gives what the sequence gives.
    """
    if not reverse:
        return reset
    return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])], axis=0)


def restarts_last(reset: jax.Array | None, reverse: bool) -> jax.Array | None:
    """Where the state returns to the initial state after all steps, `bool[*B]`: backwards, at the first step's flag."""
    if reset is None or not reverse or not reset.shape[0]:
        return None
    return reset[0]


def fill_masked(mask: jax.Array, xs: Any) -> Any:
    """Inputs whose masked steps hold ordinary numbers: those of the first real step of the same row.

    A masked step is computed like any other, and its outcome is not used. So it must be a step at which every function
    has a derivative: at zeros, `sqrt(abs(x))` or a norm have none, and 0 times NaN would reach the gradients of the
    parameters. A row without a real step gets distinct positive numbers. No gradient flows into what is filled in.

    Args:
        mask: `bool[T, *B]`.
        xs: a pytree of `[T, *B, ...]`.

    Returns:
        A pytree like `xs`; leaves that are not of a floating or complex dtype are left alone.
    """
    first = mask & (jnp.cumsum(mask, axis=0, dtype=jnp.int32) == 1)
    some = mask.any(axis=0)

    def fill(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        own = where(first, x, jnp.zeros_like(x)).sum(axis=0, dtype=x.dtype)
        shape = x.shape[mask.ndim :]
        ramp = jnp.linspace(1, 2, math.prod(shape), dtype=x.dtype).reshape(shape)
        ordinary = where(some, own, jnp.zeros_like(own) + jnp.expand_dims(ramp, tuple(range(mask.ndim - 1))))
        return where(mask, x, jnp.zeros_like(x) + lax.stop_gradient(ordinary)[None])

    return jax.tree.map(fill, xs)


def where(flags: jax.Array, yes: Any, no: Any) -> Any:
    """Takes the leaves of `yes` where a flag is set, those of `no` elsewhere; flags stand for the leading axes."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(flags, tuple(range(flags.ndim, a.ndim))), a, b)

    return jax.tree.map(pick, yes, no)
