"""Penalties on weights and outputs, as `keras.regularizers`: functions of an array that return a scalar."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Regularizer = Callable[[jax.Array], jax.Array]


def l1_l2(l1: float = 0.0, l2: float = 0.0) -> Regularizer:
    """A penalty on absolute values and on squares, l1 * sum(abs(w)) + l2 * sum(w²).

    Args:
        l1: the factor of the absolute values.
        l2: the factor of the squares.

    Returns:
        The penalty, a function of an array.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import regularizers
        >>> float(regularizers.l1_l2(l1=1.0, l2=0.5)(jnp.array([1.0, -2.0])))
        5.5

    References:
        Zou and Hastie, Regularization and variable selection via the elastic net, 2005,
        https://doi.org/10.1111/j.1467-9868.2005.00503.x
    """
    return lambda w: l1 * jnp.abs(w).sum() + l2 * jnp.square(w).sum()


def l1(l1: float = 0.01) -> Regularizer:
    """A penalty on absolute values, l1 * sum(abs(w)).

    Args:
        l1: the factor.

    Returns:
        The penalty, a function of an array.

    Example:
        >>> from recurrax.compat.keras import LSTM, regularizers
        >>> layer = LSTM(4, kernel_regularizer=regularizers.l1(1e-4))

    References:
        Tibshirani, Regression shrinkage and selection via the lasso, 1996, https://www.jstor.org/stable/2346178
    """
    return l1_l2(l1=l1)


def l2(l2: float = 0.01) -> Regularizer:
    """A penalty on squares, l2 * sum(w²).

    Args:
        l2: the factor.

    Returns:
        The penalty, a function of an array.

    Example:
        >>> from recurrax.compat.keras import LSTM, regularizers
        >>> layer = LSTM(4, recurrent_regularizer=regularizers.l2(1e-4))

    References:
        Krogh and Hertz, A simple weight decay can improve generalization, 1991,
        https://proceedings.neurips.cc/paper/1991/hash/8eefcfdf5990e441f0fb6f3fad709e21-Abstract.html
    """
    return l1_l2(l2=l2)
