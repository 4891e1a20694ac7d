"""Keras' activations, by Keras' names."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _hard_shrink(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) > 0.5, x, jnp.zeros_like(x))


def _soft_shrink(x: jax.Array) -> jax.Array:
    return x - jnp.clip(x, -0.5, 0.5)


def _tanh_shrink(x: jax.Array) -> jax.Array:
    return x - jnp.tanh(x)


def hard_sigmoid_keras2(x: jax.Array) -> jax.Array:
    """The hard sigmoid of Keras 1 and 2, and ONNX' default: max(0, min(1, 0.2 * x + 0.5)).

    Keras 3, PyTorch and JAX have the slope 1/6 instead of 0.2: `jax.nn.hard_sigmoid`.

    Args:
        x: any array.

    Returns:
        An array of the same shape and dtype.

    Example:
        >>> import jax, recurrax
        >>> from recurrax.keras import LSTM, hard_sigmoid_keras2
        >>> hard_sigmoid_keras2(jax.numpy.array([-3.0, 0.0, 1.0])).tolist()
        [0.0, 0.5, 0.699999988079071]
        >>> cell = recurrax.LSTMCell(4, gate_activation=hard_sigmoid_keras2)  # in the core
        >>> layer = LSTM(4, recurrent_activation="hard_sigmoid_keras2")  # in Keras' layers

    References:
        Courbariaux et al., BinaryConnect: training deep neural networks with binary weights during
        propagations, 2015, https://arxiv.org/abs/1511.00363
    """
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


_SAME_NAME = (
    "celu elu hard_sigmoid hard_silu hard_tanh log_sigmoid log_softmax mish relu relu6 selu "
    "sigmoid silu softmax softplus sparse_plus sparse_sigmoid squareplus"
)

# A function may have several names here. `to_keras` writes the first.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    **{name: getattr(jax.nn, name) for name in _SAME_NAME.split()},
    "exponential": jnp.exp,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "hard_shrink": _hard_shrink,
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "linear": jax.nn.identity,
    "soft_shrink": _soft_shrink,
    "softsign": jax.nn.soft_sign,
    "tanh_shrink": _tanh_shrink,
    "hard_swish": jax.nn.hard_silu,
    "swish": jax.nn.silu,
}
