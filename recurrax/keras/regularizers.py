"""Keras' penalties on weights and outputs, as `keras.regularizers`.

Each function here returns a function from an array to a number.

Example:
    >>> import jax.numpy as jnp
    >>> from recurrax.keras import LSTM, regularizers
    >>> layer = LSTM(4, kernel_regularizer=regularizers.L2(1e-4))
    >>> float(regularizers.L1L2(l1=1.0, l2=0.5)(jnp.array([1.0, -2.0])))
    5.5
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Regularizer = Callable[[jax.Array], jax.Array]


def l1_l2(l1: float = 0.0, l2: float = 0.0) -> Regularizer:
    """The penalty l1 * sum(abs(w)) + l2 * sum(w²)."""
    return lambda w: l1 * jnp.abs(w).sum() + l2 * jnp.square(w).sum()


def l1(l1: float = 0.01) -> Regularizer:
    """The penalty l1 * sum(abs(w))."""
    return l1_l2(l1=l1)


def l2(l2: float = 0.01) -> Regularizer:
    """The penalty l2 * sum(w²)."""
    return l1_l2(l2=l2)


L1, L2, L1L2 = l1, l2, l1_l2
