"""Keras' projections of weights, as `keras.constraints`.

Each function here returns a function from an array to an array. `axis` names the axes of one vector
of weights: 0 for the weights into a unit, (0, 1, 2) for a filter in the plane. A layer's
`apply_constraints()` does the projection; call it after each update.

Example:
    >>> import jax.numpy as jnp
    >>> from recurrax.keras import LSTM, constraints
    >>> layer = LSTM(4, kernel_constraint=constraints.MaxNorm(3.0))
    >>> w = constraints.MinMaxNorm(1.0, 2.0)(jnp.array([[3.0, 0.6], [4.0, 0.0]]))
    >>> jnp.linalg.norm(w, axis=0).round(3).tolist()
    [2.0, 1.0]
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Constraint = Callable[[jax.Array], jax.Array]
Axes = int | tuple[int, ...]
_EPSILON = 1e-7  # keras.config.epsilon()


def min_max_norm(
    min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axes = 0
) -> Constraint:
    """Brings each norm closer to the interval.

    w * ((1 - rate) * norm + rate * clip(norm, min_value, max_value)) / norm
    """
    # Keras' configurations have a list.
    if isinstance(axis, list):
        axis = tuple(axis)

    def constraint(w: jax.Array) -> jax.Array:
        norm = jnp.sqrt(jnp.square(w).sum(axis, keepdims=True))
        target = (1 - rate) * norm + rate * jnp.clip(norm, min_value, max_value)
        return w * target / (norm + _EPSILON)

    return constraint


def max_norm(max_value: float = 2.0, axis: Axes = 0) -> Constraint:
    """Brings each norm above `max_value` down to it."""
    return min_max_norm(0.0, max_value, axis=axis)


def unit_norm(axis: Axes = 0) -> Constraint:
    """Brings each norm to 1."""
    return min_max_norm(1.0, 1.0, axis=axis)


def non_neg() -> Constraint:
    """Sets negative weights to zero."""
    return lambda w: jnp.maximum(w, 0)


MinMaxNorm, MaxNorm, UnitNorm, NonNeg = min_max_norm, max_norm, unit_norm, non_neg
