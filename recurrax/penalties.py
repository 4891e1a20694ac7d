"""Penalties on the outputs of a layer: on their size, and on their change between steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from recurrax._check import check_steps, describe
from recurrax._dtype import promote
from recurrax._mask import lengths_to_mask, where


def activation_penalty(
    ys: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    time_major: bool = False,
    feature_ndim: int = 1,
) -> jax.Array:
    """Computes the mean square of the outputs (AR). Add it to the loss with a factor.

    mean(y_t²) over the unmasked steps and all features

    Args:
        ys: the outputs, `[*B, T, O]`, or `[T, *B, O]` if `time_major`. Values at masked steps have
            no influence.
        lengths: `int[*B]`, as in `scan`.
        mask: `bool[*B, T]`, as in `scan`.
        time_major: whether time is the first axis of `ys` and `mask`.
        feature_ndim: the number of axes of one output, `layer.feature_ndim`.

    Returns:
        A scalar, in float32 or wider; 0 if all steps are masked.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ys = jnp.array([[[1.0], [3.0], [9.0]]])
        >>> float(recurrax.penalties.activation_penalty(ys, lengths=jnp.array([2])))  # (1 + 9) / 2
        5.0

    References:
        Merity et al., Revisiting activation regularization for language RNNs, 2017,
        https://arxiv.org/abs/1708.01009
    """
    ys, mask, _ = _time_first(ys, lengths, mask, None, time_major, feature_ndim)
    return _mean_square(ys, mask)


def temporal_activation_penalty(
    ys: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    time_major: bool = False,
    feature_ndim: int = 1,
) -> jax.Array:
    """Computes the mean square change of the outputs between steps (TAR).

    Add it to the loss with a factor.

    mean((y_t - y_{t-1})²) over all features and all pairs of neighboring unmasked steps of one
    segment

    Args:
        ys: as in `activation_penalty`.
        lengths: as in `activation_penalty`.
        mask: as in `activation_penalty`.
        reset: `bool[*B, T]`, as in `scan`: True at the first step of a segment. The change at this
            step does not count.
        time_major: as in `activation_penalty`.
        feature_ndim: as in `activation_penalty`.

    Returns:
        A scalar, in float32 or wider; 0 if no pair of steps counts.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ys = jnp.array([[[1.0], [3.0], [9.0], [8.0]]])
        >>> reset = jnp.array([[True, False, True, False]])
        >>> penalty = recurrax.penalties.temporal_activation_penalty(ys, reset=reset)
        >>> float(penalty)  # ((3 - 1)² + (8 - 9)²) / 2
        2.5

    References:
        Merity et al., Revisiting activation regularization for language RNNs, 2017,
        https://arxiv.org/abs/1708.01009
    """
    ys, mask, reset = _time_first(ys, lengths, mask, reset, time_major, feature_ndim)
    # Entry t is the pair of step t and step t + 1, [T-1, *B].
    counts = None
    if mask is not None:
        counts = mask[1:] & mask[:-1]
    if reset is not None:
        same_segment = ~reset[1:]
        if counts is not None:
            same_segment = counts & same_segment
        counts = same_segment
    return _mean_square(ys[1:] - ys[:-1], counts)


def _time_first(
    ys: Any, lengths: Any, mask: Any, reset: Any, time_major: bool, feature_ndim: int
) -> tuple:
    """Returns the outputs, the mask and the resets with time first.

    The outputs are zero at masked steps, and in float32 or wider.
    """
    ys = jnp.asarray(ys)
    steps = ys.shape[: max(ys.ndim - feature_ndim, 0)]
    if not steps:
        raise ValueError(
            f"`ys` must be [*B, T, O], at least {1 + feature_ndim} axes; got {describe(ys)}."
        )
    lengths, mask, reset = check_steps("ys", ys, steps, time_major, lengths, mask, reset)
    # The axis of time.
    time = len(steps) - 1
    if time_major:
        time = 0
    if lengths is not None:
        mask = jnp.moveaxis(lengths_to_mask(lengths, steps[time]), -1, time)
    ys = ys.astype(promote(ys.dtype, jnp.float32))
    ys, mask, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time, 0), (ys, mask, reset))
    # NaN at a masked step must not reach the sum or its gradient.
    if mask is not None:
        ys = where(mask, ys, jnp.zeros_like(ys))
    return ys, mask, reset


def _mean_square(ys: jax.Array, counts: jax.Array | None) -> jax.Array:
    """Returns the mean square of `ys` where `counts` is True; `counts` has the leading axes."""
    if counts is None:
        counts = jnp.ones((), bool)
    else:
        counts = jnp.expand_dims(counts, tuple(range(counts.ndim, ys.ndim)))
    counts = jnp.broadcast_to(counts, ys.shape)
    total = jnp.where(counts, jnp.square(ys), jnp.zeros_like(ys)).sum()
    # At least 1, so that the mean of nothing is 0.
    return total / jnp.maximum(counts.sum(), 1).astype(ys.dtype)
