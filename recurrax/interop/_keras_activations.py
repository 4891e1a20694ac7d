"""Keras' activations, by the names that it has for them."""

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


_SAME_NAME = (
    "celu elu hard_sigmoid hard_silu hard_tanh log_sigmoid log_softmax mish relu relu6 selu sigmoid silu softmax "
    "softplus sparse_plus sparse_sigmoid squareplus"
)

# Where a function has several names, the first is the one that Keras is told.
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
