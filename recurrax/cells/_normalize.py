"""The two normalizations of features. The cells and the layers share them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.cells.affine import broadcast_to_rank


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float) -> jax.Array:
    """`(x - mean) / √(variance + epsilon) * scale + bias`, over the last axis.

    The sums over the features need float32, so `x` is `widened`.
    """
    centered = x - jnp.mean(x, axis=-1, keepdims=True)  # [..., H]
    return rms_norm(centered, scale, bias, epsilon)


def rms_norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float) -> jax.Array:
    """`x / √(mean(x²) + epsilon) * scale + bias`, over the last axis of a `widened` x."""
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)  # [..., 1]
    y = x * lax.rsqrt(mean_square + epsilon) * broadcast_to_rank(scale, x)  # [..., H]
    if bias is None:
        return y
    return y + broadcast_to_rank(bias, y)
