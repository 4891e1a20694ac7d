"""Random masks and noise. All random numbers of the layers come from here."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
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
    sample = functools.partial(jax.random.bernoulli, p=probability)
    return _draw.get()(sample, key, like, shape)


def normal(key: jax.Array, like: jax.Array, shape: tuple[int, ...] | None = None) -> jax.Array:
    """Draws standard normal numbers in float32, with the placement of `like`.

    Args:
        key: the source of randomness.
        like: as in `bernoulli`.
        shape: as in `bernoulli`.

    Returns:
        `float32` of this shape.
    """
    shape = like.shape if shape is None else shape
    sample = functools.partial(jax.random.normal, dtype=jnp.float32)
    return _draw.get()(sample, key, like, shape)


def _placed_draw(
    sample: Callable, key: jax.Array, like: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Calls `sample` of `jax.random` for an array of this shape, with the placement of `like`."""
    sharding = jax.typeof(like).sharding
    if not any(sharding.spec):
        return sample(key, shape=shape)

    # The axes before those of `like` lie on every device.
    names = [None] * (len(shape) - like.ndim)
    for size, size_of_like, name in zip(
        shape[len(names) :], like.shape, sharding.spec, strict=True
    ):
        names.append(name if size == size_of_like else None)
    placement = NamedSharding(sharding.mesh, PartitionSpec(*names))
    return sample(key, shape=shape, out_sharding=placement)


# What `bernoulli` and `normal` call.
_draw: contextvars.ContextVar[Callable] = contextvars.ContextVar("draw", default=_placed_draw)


@contextlib.contextmanager
def _drawing_by(draw: Callable) -> Iterator[None]:
    token = _draw.set(draw)
    try:
        yield
    finally:
        _draw.reset(token)


class Draws:
    """The random numbers of a layer for all steps of a sequence, to be used a few steps at a time.

    So steps that run one by one drop what a run over the sequence drops. Numbers that serve all
    steps serve each part of the steps too.

    Args:
        run: runs the layer over the sequence. Only its random numbers are kept.
    """

    def __init__(self, run: Callable[[], Any]):
        """Draws all numbers."""
        self._drawn: list[jax.Array] = []

        def record(*args: Any) -> jax.Array:
            self._drawn.append(_placed_draw(*args))
            return self._drawn[-1]

        with _drawing_by(record):
            run()

    def at(self, first: Any, number: int) -> contextlib.AbstractContextManager:
        """Lets a layer that runs over `number` steps use the numbers from step `first` on."""
        numbers = iter(self._drawn)

        def replay(sample: Callable, key: jax.Array, like: Any, shape: tuple) -> jax.Array:
            drawn = next(numbers)
            # Numbers with an axis of time have another size than those of a part.
            if drawn.shape == shape:
                return drawn
            return lax.dynamic_slice_in_dim(drawn, first, number)

        return _drawing_by(replay)


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
    # Made of `x`, so it has the placement of `x`. `zeros_like` loses it if no mesh is set.
    false = (x != x) & False
    if kept.shape != x.shape:
        # An axis of size 1 lies on every device.
        kept = kept | false
    return jnp.where(kept, x / (1 - rate), false.astype(x.dtype))
