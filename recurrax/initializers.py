"""Initializers with names, for cells that compare equal and can be pickled.

Any function `(key, shape, dtype) -> array` is an initializer, such as the functions of
`jax.nn.initializers`. A cell calls it with the shape of one gate. A layer with a function without a
name, such as a lambda, cannot be pickled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def glorot_uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws from Glorot's uniform distribution, U(-a, a) with a = √(6 / (inputs + outputs)).

    Args:
        key: a PRNG key.
        shape: the shape of one gate.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import jax
        >>> from recurrax.initializers import glorot_uniform
        >>> glorot_uniform(jax.random.key(0), (3, 4)).shape
        (3, 4)

    References:
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, 2010, https://proceedings.mlr.press/v9/glorot10a.html
    """
    return jax.nn.initializers.glorot_uniform()(key, shape, dtype)


def lecun_normal(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws from LeCun's truncated normal distribution, with variance 1 / inputs.

    Args:
        key: a PRNG key.
        shape: the shape of one gate.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import jax
        >>> from recurrax.initializers import lecun_normal
        >>> lecun_normal(jax.random.key(0), (3, 4)).shape
        (3, 4)

    References:
        LeCun et al., Efficient backprop, 1998, https://doi.org/10.1007/3-540-49430-8_2
    """
    return jax.nn.initializers.lecun_normal()(key, shape, dtype)


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Draws an orthogonal matrix; if it is not square, its rows or its columns are orthonormal.

    Args:
        key: a PRNG key.
        shape: the shape of one gate.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import jax
        >>> from recurrax.initializers import orthogonal
        >>> orthogonal(jax.random.key(0), (4, 4)).shape
        (4, 4)

    References:
        Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural
        networks, 2013, https://arxiv.org/abs/1312.6120
    """
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Makes zeros; the key has no effect.

    Args:
        key: a PRNG key.
        shape: the shape of one gate.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import jax
        >>> from recurrax.initializers import zeros
        >>> zeros(jax.random.key(0), (4,)).shape
        (4,)
    """
    return jnp.zeros(shape, dtype)


def torch_uniform(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws as PyTorch does for every recurrent weight and bias, from U(-1/√H, 1/√H).

    Args:
        key: a PRNG key.
        shape: the shape of one gate; H is its last axis.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import recurrax
        >>> from recurrax.initializers import torch_uniform
        >>> cell = recurrax.LSTMCell(
        ...     128,
        ...     forget_bias=0.0,
        ...     recurrent_bias=True,
        ...     kernel_init=torch_uniform,
        ...     recurrent_kernel_init=torch_uniform,
        ...     bias_init=torch_uniform,
        ... )

    References:
        PyTorch, `torch.nn.LSTM`, 2024,
        https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """
    # H is the last axis of kernels and biases.
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
