"""Masks drawn at random: the one place where a layer draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def drawn(key: jax.Array, probability: float, like: jax.Array, shape: tuple[int, ...] | None = None) -> jax.Array:
    """Bernoulli draws that lie where `like` lies, so that both can meet under a mesh with Explicit axes.

    The numbers depend on the key and the shape alone, not on the mesh.

    Args:
        key: the source of randomness.
        probability: that of True.
        like: the array that the draws will meet.
        shape: that of the draws, by default that of `like`. Its last axes stand for those of `like`, and others may
            come before them. An axis of another size than in `like` is not spread over devices, nor is one before them.

    Returns:
        `bool` of this shape.
    """
    shape = like.shape if shape is None else shape
    placed = jax.typeof(like).sharding
    if not any(placed.spec):
        return jax.random.bernoulli(key, probability, shape)
    added = [None] * (len(shape) - like.ndim)
    axes = zip(shape, [*added, *like.shape], [*added, *placed.spec], strict=True)
    spec = PartitionSpec(*(name if size == of_like else None for size, of_like, name in axes))
    return jax.random.bernoulli(key, probability, shape, out_sharding=NamedSharding(placed.mesh, spec))


def dropped(key: jax.Array, rate: float, x: jax.Array, shape: tuple[int, ...] | None = None) -> jax.Array:
    """`x` with numbers set to zero at random, and the others divided by 1 - rate.

    Args:
        key: the source of randomness.
        rate: the probability of zero.
        x: any array.
        shape: that of the mask, with an axis of size 1 where one choice serves the whole axis; by default that of `x`.

    Returns:
        An array like `x`.
    """
    kept = drawn(key, 1 - rate, x, shape)
    if kept.shape != x.shape:  # An axis that was not spread takes the place of that of `x`.
        kept = kept | jnp.zeros_like(x, dtype=bool)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
