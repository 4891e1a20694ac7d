"""Initializers that have names, so that cells with equal hyper-parameters are equal, and can be pickled.

Any function `(key, shape, dtype) -> array` will do, those of `jax.nn.initializers` among them; a cell shows it the
shape of one gate. A layer with a function that has no name, such as a lambda, cannot be pickled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def glorot_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Glorot's uniform distribution: `jax.nn.initializers.glorot_uniform()`, as a function with a name of its own."""
    return jax.nn.initializers.glorot_uniform()(key, shape, dtype)


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """LeCun's normal distribution: `jax.nn.initializers.lecun_normal()`, as a function with a name of its own."""
    return jax.nn.initializers.lecun_normal()(key, shape, dtype)


def orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """An orthogonal matrix: `jax.nn.initializers.orthogonal()`, as a function with a name of its own."""
    return jax.nn.initializers.orthogonal()(key, shape, dtype)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Zeros: `jax.nn.initializers.zeros`."""
    return jnp.zeros(shape, dtype)


def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """PyTorch's initialisation of every recurrent weight and bias, U(-1/√H, 1/√H).

    Args:
        key: a PRNG key.
        shape: the shape of one gate; H is its last axis.
        dtype: the dtype of the result.

    Returns:
        An array of the given shape and dtype.

    Example:
        >>> import recurrax
        >>> from recurrax.initializers import torch_uniform
        >>> cell = recurrax.LSTMCell(128, kernel_init=torch_uniform, recurrent_kernel_init=torch_uniform,
        ...                          bias_init=torch_uniform, forget_bias=0.0, recurrent_bias=True)

    References:
        PyTorch, `torch.nn.LSTM`, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """
    bound = shape[-1] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
