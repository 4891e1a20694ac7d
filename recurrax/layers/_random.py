"""Random masks. All random numbers of the layers come from here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def bernoulli(
    key: jax.Array, probability: float, like: jax.Array, shape: tuple[int, ...] | None = None
) -> jax.Array:
    """Draws flags that have the placement of `like`, as a mesh with Explicit axes requires.

    The flags depend on the key and the shape alone, not on the mesh.

    Args:
        key: the source of randomness.
        probability: the probability of True.
        like: the array that the flags will meet.
        shape: the shape of the flags; by default the shape of `like`. Its last axes are the axes of
            `like`. Other axes may come before them. An axis is spread over devices only if it has
            the same size in `like`.

    Returns:
        `bool` of this shape.
    """
    shape = like.shape if shape is None else shape
    sharding = jax.typeof(like).sharding
    if not any(sharding.spec):
        return jax.random.bernoulli(key, probability, shape)

    # The axes before those of `like` lie on every device.
    names = [None] * (len(shape) - like.ndim)
    for size, size_of_like, name in zip(
        shape[len(names) :], like.shape, sharding.spec, strict=True
    ):
        names.append(name if size == size_of_like else None)
    placement = NamedSharding(sharding.mesh, PartitionSpec(*names))
    return jax.random.bernoulli(key, probability, shape, out_sharding=placement)


def dropped(
    key: jax.Array, rate: float, x: jax.Array, shape: tuple[int, ...] | None = None
) -> jax.Array:
    """Sets numbers of `x` to zero at random and divides the others by 1 - rate.

    Args:
        key: the source of randomness.
        rate: the probability of zero.
        x: any array.
        shape: the shape of the mask; by default the shape of `x`. An axis of size 1 means one
            choice for all of that axis of `x`.

    Returns:
        An array like `x`.
    """
    kept = bernoulli(key, 1 - rate, x, shape)
    if kept.shape != x.shape:
        # An axis of size 1 lies on every device. The zeros give it the placement of `x`.
        kept = kept | jnp.zeros_like(x, dtype=bool)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
