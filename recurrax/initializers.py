"""Initialisers with stable identities, so that two cells with equal hyper-parameters compare and hash as equal.

Any function `(key, shape, dtype) -> array` will do, those of `jax.nn.initializers` among them; a cell shows it the
shape of one gate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

glorot_uniform = jax.nn.initializers.glorot_uniform()
lecun_normal = jax.nn.initializers.lecun_normal()
orthogonal = jax.nn.initializers.orthogonal()
zeros = jax.nn.initializers.zeros


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
