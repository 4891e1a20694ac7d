"""Projections of weights, as `keras.constraints`: functions from an array to one that keeps the constraint."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Constraint = Callable[[jax.Array], jax.Array]
Axes = int | tuple[int, ...]


def min_max_norm(min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axes = 0) -> Constraint:
    """Rescales vectors of weights whose norm is outside an interval.

    w * ((1 - rate) * norm + rate * clip(norm, min_value, max_value)) / norm

    Args:
        min_value: the least norm.
        max_value: the largest norm.
        rate: how far towards the interval, from 0 for not at all to 1.
        axis: the axes that a vector lies along: 0 for the weights into a unit, (0, 1, 2) for a filter in the plane.

    Returns:
        The projection, a function of an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import constraints
        >>> w = constraints.min_max_norm(1.0, 2.0)(jnp.array([[3.0, 0.6], [4.0, 0.0]]))
        >>> jnp.linalg.norm(w, axis=0).round(3).tolist()
        [2.0, 1.0]

    References:
        Keras 3, `keras.constraints.MinMaxNorm`, 2024, https://keras.io/api/layers/constraints/
    """

    def constraint(w: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.square(w).sum(axis=axis, keepdims=True))
        return w * (((1 - rate) * norm + rate * jnp.clip(norm, min_value, max_value)) / (norm + _EPSILON))

    return constraint


def max_norm(max_value: float = 2.0, axis: Axes = 0) -> Constraint:
    """Rescales vectors of weights whose norm is over `max_value`.

    Args:
        max_value: the largest norm.
        axis: as in `min_max_norm`.

    Returns:
        The projection, a function of an array.

    Example:
        >>> from recurrax.compat.keras import LSTM, constraints
        >>> layer = LSTM(4, kernel_constraint=constraints.max_norm(3.0))

    References:
        Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (section 5.1), 2014,
        https://jmlr.org/papers/v15/srivastava14a.html
    """
    return min_max_norm(0.0, max_value, axis=axis)


def unit_norm(axis: Axes = 0) -> Constraint:
    """Rescales vectors of weights to norm 1.

    Args:
        axis: as in `min_max_norm`.

    Returns:
        The projection, a function of an array.

    Example:
        >>> from recurrax.compat.keras import LSTM, constraints
        >>> layer = LSTM(4, recurrent_constraint=constraints.unit_norm())

    References:
        Keras 3, `keras.constraints.UnitNorm`, 2024, https://keras.io/api/layers/constraints/
    """
    return lambda w: w / (jnp.sqrt(jnp.square(w).sum(axis=axis, keepdims=True)) + _EPSILON)


def non_neg() -> Constraint:
    """Sets negative weights to zero.

    Returns:
        The projection, a function of an array.

    Example:
        >>> from recurrax.compat.keras import LSTM, constraints
        >>> layer = LSTM(4, bias_constraint=constraints.non_neg())

    References:
        Keras 3, `keras.constraints.NonNeg`, 2024, https://keras.io/api/layers/constraints/
    """
    return lambda w: jnp.maximum(w, 0)


_EPSILON = 1e-7  # keras.config.epsilon()
