"""Masks, lengths and segments: which steps count, and where a new segment begins."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recurrax._arguments import describe


def lengths_to_mask(lengths: jax.Array, max_length: int) -> jax.Array:
    """Makes the mask of right-padded sequences: True at the first `lengths` steps.

    Args:
        lengths: `int[*B]`. Lengths below 0 count as 0, lengths above `max_length` as `max_length`.
        max_length: the number of steps T.

    Returns:
        `bool[*B, T]`.

    Raises:
        TypeError: if `lengths` or `max_length` is not of ints.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> recurrax.lengths_to_mask(jnp.array([0, 2]), 3).tolist()
        [[False, False, False], [True, True, False]]
    """
    lengths = _ints("lengths", "int[*B]", lengths)
    if isinstance(max_length, (float, jax.Array, np.ndarray)):
        raise TypeError(f"`max_length` must be an int; got {describe(max_length)}.")
    # T may not fit into a narrow dtype.
    if jnp.iinfo(lengths.dtype).bits < 32:
        lengths = lengths.astype(jnp.int32)
    steps = lax.broadcasted_iota(lengths.dtype, (*lengths.shape, max_length), lengths.ndim)
    return steps < lengths[..., None]  # [*B, T]


def segment_ids_to_reset(segment_ids: jax.Array) -> jax.Array:
    """Makes the `reset` flags of packed sequences: True at the first step of each segment.

    Segment id 0 is padding and gets no flag. Give `scan` the mask `segment_ids != 0` too. Then the
    padding does not change the state.

    Args:
        segment_ids: `int[*B, T]`. The steps of one segment are neighbors and share an id.

    Returns:
        `bool[*B, T]`.

    Raises:
        TypeError: if `segment_ids` is not of ints.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ids = jnp.array([1, 1, 2, 2, 0])
        >>> recurrax.segment_ids_to_reset(ids).tolist()
        [True, False, True, False, False]
    """
    segment_ids = _ints("segment_ids", "int[*B, T]", segment_ids)
    # The first step has no step before it: id 0 stands for none.
    none = jnp.zeros_like(segment_ids[..., :1])
    previous = jnp.concatenate([none, segment_ids[..., :-1]], axis=-1)
    return (segment_ids != previous) & (segment_ids != 0)


def _ints(name: str, must: str, values: Any) -> jax.Array:
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must be {must}; got {describe(array)}.")
    return array


class Marks(NamedTuple):
    """The marks on the steps of a sequence: the arguments of `scan` of these names, as arrays.

    Attributes:
        lengths: `int[*B]`, or None.
        mask: `bool[*B, T]`, or None. After `time_first` it is `bool[T, *B]`, and it is made of
            `lengths` if these are given.
        reset: bools with the axes of `mask`, or None.
    """

    lengths: jax.Array | None = None
    mask: jax.Array | None = None
    reset: jax.Array | None = None

    def steps(self, reverse: bool) -> Steps:
        """Converts the marks, with time first, for a run in this direction."""
        restart = None
        if self.reset is not None:
            restart = restarts(self.reset, reverse)
        return Steps(self.mask, restart, reverse, right_padded=self.lengths is not None)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mask", "restart"],
    meta_fields=["reverse", "right_padded", "batch_major"],
)
@dataclasses.dataclass(frozen=True)
class Steps:
    """What an implementation knows of the steps, beside their inputs.

    The two arrays are the leaves of a pytree. So a loop over time hands its body a `Steps` with the
    flags of one step, `bool[*B]`.

    Attributes:
        mask: `bool[T, *B]`, True at the unmasked steps; None if every step is unmasked.
        restart: `bool[T, *B]`, True where the state returns to the initial state before the step,
            in the direction of the run; None without resets.
        reverse: whether the last step comes first.
        right_padded: whether `mask` is made of lengths: all masked steps of a row are at its end.
        batch_major: whether the caller's sequences have the axis of time after the batch. So they
            lie in memory. An implementation gets them with time first in any case.

    Example:
        The flags of one step of two rows. The first row restarts, and the second row is masked.

        >>> import jax.numpy as jnp
        >>> from recurrax.implementations import Steps
        >>> flags = Steps(mask=jnp.array([True, False]), restart=jnp.array([True, False]))
        >>> state = flags.restarted(jnp.array([1.0, 2.0]), initial=jnp.zeros(2))
        >>> state.tolist()
        [0.0, 2.0]
        >>> flags.keep_masked(state + 5, state).tolist()
        [5.0, 2.0]
        >>> flags.zero_masked(jnp.array([7.0, 8.0])).tolist()
        [7.0, 0.0]
    """

    mask: jax.Array | None = None
    restart: jax.Array | None = None
    reverse: bool = False
    right_padded: bool = False
    batch_major: bool = False

    def restarted(self, state: Any, initial: Any) -> Any:
        """Returns the state before the step, with `initial` where the step restarts."""
        if self.restart is None:
            return state
        return where(self.restart, initial, state)

    def keep_masked(self, new: Any, old: Any) -> Any:
        """Returns the state after the step: `old` where the step is masked, else `new`."""
        if self.mask is None:
            return new
        return where(self.mask, new, old)

    def filled(self, states: Any, entering: Any, initial: Any) -> Any:
        """Returns the state after every step, from the states after the unmasked steps.

        Args:
            states: leaves `[T, *B, ...]`, of any value at masked steps.
            entering: the state before the first step, leaves `[*B, ...]`.
            initial: the state at a restart.
        """
        if self.mask is None or not self.mask.shape[0]:
            return states
        # At each step, the last step so far that has set the state; -1 if none has.
        sets = self.mask
        if self.restart is not None:
            sets = sets | self.restart
        # The steps are counted in the direction of the run.
        order = lax.broadcasted_iota(jnp.int32, sets.shape, 0)  # [T, *B]
        last = sets.shape[0] - 1
        if self.reverse:
            order = last - order
        source = lax.cummax(jnp.where(sets, order, -1), axis=0, reverse=self.reverse)
        unset = source < 0
        source = jnp.maximum(source, 0)
        if self.reverse:
            source = last - source
        take = functools.partial(jnp.take_along_axis, axis=0, mode="promise_in_bounds")
        restarted = None
        if self.restart is not None:
            restarted = take(self.restart & ~self.mask, source)

        def fill(after: jax.Array, first: jax.Array, at_restart: jax.Array) -> jax.Array:
            index = jnp.expand_dims(source, tuple(range(source.ndim, after.ndim)))
            kept = take(after, index)
            if restarted is not None:
                kept = where(restarted, at_restart[None], kept)
            return where(unset, first[None], kept)

        return jax.tree.map(fill, states, entering, initial)

    def zero_masked(self, ys: Any) -> Any:
        """Returns the outputs, with zeros at masked steps."""
        if self.mask is None:
            return ys
        return where(self.mask, ys, jax.tree.map(jnp.zeros_like, ys))


def restarts(reset: jax.Array, reverse: bool) -> jax.Array:
    """Converts `reset` for the direction: True where the state returns before the step.

    Forward, the state returns before step t if `reset[t]` is set. In reverse it returns between the
    same two steps: after step t, before step t - 1. The flag of the first step then acts after all
    steps: see `restarts_last`.

    Args:
        reset: `bool[T, *B]`, True at the first step of each segment of the data.
        reverse: the direction.

    Returns:
        `bool[T, *B]`. A flag acts on masked steps too. So a run over parts of a sequence equals one
        run.
    """
    if not reverse:
        return reset
    # The last step comes first: nothing lies before it.
    return jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])], axis=0)


def restarts_last(reset: jax.Array | None, reverse: bool) -> jax.Array | None:
    """Returns where the state returns after all steps, `bool[*B]`: in reverse, the first flag."""
    if reset is None or not reverse or not reset.shape[0]:
        return None
    return reset[0]


def fill_masked(mask: jax.Array, xs: Any) -> Any:
    """Fills masked steps with ordinary numbers: the inputs of the first unmasked step of the row.

    A masked step is computed like any other step, and its result is not used. But every function
    must have a derivative there. Zeros are not safe: `sqrt(abs(x))` and norms have no derivative at
    0. Then 0 times NaN would reach the gradients of the parameters. A row without an unmasked step
    gets distinct positive numbers. No gradient flows into the filling.

    Args:
        mask: `bool[T, *B]`.
        xs: a pytree of `[T, *B, ...]`.

    Returns:
        A pytree like `xs`. Leaves of a dtype that is neither floating nor complex stay the same.
    """
    # [T, *B], True at the first unmasked step of each row.
    first = mask & (jnp.cumsum(mask, axis=0, dtype=jnp.int32) == 1)
    has_step = mask.any(axis=0)  # [*B]

    def fill(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        # The sum over time has one term that is not zero.
        example = where(first, x, jnp.zeros_like(x)).sum(axis=0, dtype=x.dtype)  # [*B, I]
        shape = x.shape[mask.ndim :]
        ramp = jnp.linspace(1, 2, math.prod(shape), dtype=x.dtype).reshape(shape)  # [I]
        ramp = jnp.expand_dims(ramp, tuple(range(mask.ndim - 1)))
        # Adding to zeros made of the inputs keeps their placement on a mesh.
        filling = where(has_step, example, jnp.zeros_like(example) + ramp)
        return where(mask, x, jnp.zeros_like(x) + lax.stop_gradient(filling)[None])

    return jax.tree.map(fill, xs)


def where(flags: jax.Array, yes: Any, no: Any) -> Any:
    """Takes leaves of `yes` where a flag is True, else of `no`. The flags have the leading axes."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(jnp.expand_dims(flags, tuple(range(flags.ndim, a.ndim))), a, b)

    return jax.tree.map(pick, yes, no)
