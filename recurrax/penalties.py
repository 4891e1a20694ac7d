"""Penalties on what a layer puts out: on its size, and on its change from step to step."""

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
    """The mean square of the outputs: AR, to be added to the loss with a factor.

    mean(y_t²) over the real steps and all features

    Args:
        ys: the outputs, `[*B, T, O]`, or `[T, *B, O]` if `time_major`; what stands at masked steps has no influence.
        lengths: `int[*B]`, as in `scan`.
        mask: `bool[*B, T]`, as in `scan`.
        time_major: whether time is the first axis of `ys` and `mask`.
        feature_ndim: the number of axes of one output, as `layer.feature_ndim` says it.

    Returns:
        A scalar, in float32 at least; 0 where no step is real.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ys = jnp.array([[[1.0], [3.0], [9.0]]])
        >>> float(recurrax.penalties.activation_penalty(ys, lengths=jnp.array([2])))  # (1 + 9) / 2
        5.0

    References:
        Merity et al., Revisiting activation regularization for language RNNs, 2017, https://arxiv.org/abs/1708.01009
    """
    ys, real, _ = _time_first(ys, lengths, mask, None, time_major, feature_ndim)
    return _mean_square(ys, real)


def temporal_activation_penalty(
    ys: jax.Array,
    *,
    lengths: jax.Array | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    time_major: bool = False,
    feature_ndim: int = 1,
) -> jax.Array:
    """The mean square of the change of the outputs from step to step: TAR, to be added to the loss with a factor.

    mean((y_t - y_{t-1})²) over all features and all neighbouring steps that are real and of one segment

    Args:
        ys: as in `activation_penalty`.
        lengths: as in `activation_penalty`.
        mask: as in `activation_penalty`.
        reset: `bool[*B, T]`, as in `scan`: True at the first step of a segment, whose change does not count.
        time_major: as in `activation_penalty`.
        feature_ndim: as in `activation_penalty`.

    Returns:
        A scalar, in float32 at least; 0 where no two steps count.

    Raises:
        TypeError: as `scan`.
        ValueError: as `scan`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> ys = jnp.array([[[1.0], [3.0], [9.0], [8.0]]])
        >>> reset = jnp.array([[True, False, True, False]])
        >>> float(recurrax.penalties.temporal_activation_penalty(ys, reset=reset))  # ((3 - 1)² + (8 - 9)²) / 2
        2.5

    References:
        Merity et al., Revisiting activation regularization for language RNNs, 2017, https://arxiv.org/abs/1708.01009
    """
    ys, real, reset = _time_first(ys, lengths, mask, reset, time_major, feature_ndim)
    counts = None if real is None else real[1:] & real[:-1]
    if reset is not None:
        counts = ~reset[1:] if counts is None else counts & ~reset[1:]
    return _mean_square(ys[1:] - ys[:-1], counts)


def _time_first(ys: Any, lengths: Any, mask: Any, reset: Any, time_major: bool, feature_ndim: int) -> tuple:
    """The outputs, zero at masked steps and in float32 at least, the mask and the resets, each with time first."""
    ys = jnp.asarray(ys)
    steps = ys.shape[: max(ys.ndim - feature_ndim, 0)]
    if not steps:
        raise ValueError(f"`ys` must be [*B, T, O], at least {1 + feature_ndim} axes; got {describe(ys)}.")
    lengths, mask, reset = check_steps("ys", ys, steps, time_major, lengths, mask, reset)
    time = 0 if time_major else len(steps) - 1
    if lengths is not None:
        mask = jnp.moveaxis(lengths_to_mask(lengths, steps[time]), -1, time)
    ys = ys.astype(promote(ys.dtype, jnp.float32))
    ys, mask, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, time, 0), (ys, mask, reset))
    return ys if mask is None else where(mask, ys, jnp.zeros_like(ys)), mask, reset


def _mean_square(ys: jax.Array, counts: jax.Array | None) -> jax.Array:
    counts = jnp.ones((), bool) if counts is None else jnp.expand_dims(counts, tuple(range(counts.ndim, ys.ndim)))
    counts = jnp.broadcast_to(counts, ys.shape)
    return jnp.where(counts, jnp.square(ys), jnp.zeros_like(ys)).sum() / jnp.maximum(counts.sum(), 1).astype(ys.dtype)
