"""Saturated gates: how often a unit's gate is nearly shut, and nearly open."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from recurrax._arguments import describe
from recurrax._check import check_flags


class Saturation(NamedTuple):
    """How often the gate of each unit is saturated.

    Attributes:
        shut: `[H]`, the share of steps at which the gate is below `low`.
        open: `[H]`, the share of steps at which the gate is above `high`.
    """

    shut: jax.Array
    open: jax.Array


def gate_saturation(
    values: jax.Array, *, mask: jax.Array | None = None, low: float = 0.1, high: float = 0.9
) -> Saturation:
    """Computes how often the gate of each unit is nearly shut and nearly open.

    shut = mean(value < low),  open = mean(value > high), over all unmasked steps

    A forget gate that is nearly always open is a long memory. A gate that is never saturated leaks.

    Args:
        values: the values of a gate with a sigmoid, `[..., H]`, such as
            `trace(...).gates["forget"]`.
        mask: `bool[...]`, True at the unmasked steps.
        low: the largest value of a gate that is shut.
        high: the smallest value of a gate that is open.

    Returns:
        A `Saturation`.

    Raises:
        ValueError: if a shape is wrong.
        TypeError: if the mask is not of bools.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.analysis import gate_saturation
        >>> values = jnp.array([[0.0, 0.5], [0.95, 0.5], [1.0, 0.05], [0.99, 0.5]])  # [T, H]
        >>> saturation = gate_saturation(values)
        >>> saturation.shut.tolist(), saturation.open.tolist()
        ([0.25, 0.25], [0.75, 0.0])

    References:
        Karpathy et al., Visualizing and understanding recurrent networks, 2015,
        https://arxiv.org/abs/1506.02078
    """
    values = jnp.asarray(values)
    if values.ndim < 2:
        raise ValueError(f"`values` must be [..., H], at least 2 axes; got {describe(values)}.")
    steps = values.shape[:-1]
    mask = check_flags("mask", mask, jnp.bool_, steps, f"one flag per step of {describe(values)}")
    if mask is None:
        mask = jnp.ones(steps, bool)
    counts = mask[..., None]
    total = jnp.maximum(mask.sum(), 1)
    axes = tuple(range(len(steps)))
    shut = (counts & (values < low)).sum(axis=axes) / total
    open_ = (counts & (values > high)).sum(axis=axes) / total
    return Saturation(shut, open_)
