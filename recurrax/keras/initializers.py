"""Keras' initializers, as `keras.initializers`.

Each function here returns a function `(key, shape, dtype) -> array`.

With a `seed` an initializer draws the same values each time, as in Keras; else the layer gives the
key.

Example:
    >>> from recurrax.keras import LSTM, initializers
    >>> draw, constant = initializers.HeNormal(), initializers.Constant(0.1)
    >>> layer = LSTM(4, kernel_initializer=draw, bias_initializer=constant)
    >>> layer.build((None, None, 3))
    >>> layer.get_weights()[2][0].item()
    0.10000000149011612

References:
    Keras 3, `keras.initializers`, 2024, https://keras.io/api/layers/initializers/
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def _seeded(draw: Callable, seed: int | None) -> Initializer:
    if seed is None:
        return draw

    def initializer(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return draw(jax.random.key(seed), shape, dtype)

    return initializer


def variance_scaling(
    scale: float = 1.0,
    mode: Any = "fan_in",
    distribution: Any = "truncated_normal",
    seed: int | None = None,
) -> Initializer:
    """Random numbers of variance `scale / fan`, where `mode` names the fan."""
    kind: Any = "normal" if distribution == "untruncated_normal" else distribution
    return _seeded(jax.nn.initializers.variance_scaling(scale, mode, kind), seed)


# Of the seed alone; the variance is 2 / (fan_in + fan_out), 2 / fan_in and 1 / fan_in.
glorot_normal = functools.partial(variance_scaling, 1.0, "fan_avg", "truncated_normal")
glorot_uniform = functools.partial(variance_scaling, 1.0, "fan_avg", "uniform")
he_normal = functools.partial(variance_scaling, 2.0, "fan_in", "truncated_normal")
he_uniform = functools.partial(variance_scaling, 2.0, "fan_in", "uniform")
lecun_normal = functools.partial(variance_scaling, 1.0, "fan_in", "truncated_normal")
lecun_uniform = functools.partial(variance_scaling, 1.0, "fan_in", "uniform")


def orthogonal(gain: float = 1.0, seed: int | None = None) -> Initializer:
    """A random orthogonal matrix times `gain`."""
    return _seeded(jax.nn.initializers.orthogonal(gain), seed)


def random_normal(mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> Initializer:
    """A normal distribution."""
    return _seeded(
        lambda key, shape, dtype: mean + stddev * jax.random.normal(key, shape, dtype), seed
    )


def truncated_normal(
    mean: float = 0.0, stddev: float = 0.05, seed: int | None = None
) -> Initializer:
    """A normal distribution without what lies more than two standard deviations from its mean."""
    draw = jax.random.truncated_normal
    return _seeded(lambda key, shape, dtype: mean + stddev * draw(key, -2, 2, shape, dtype), seed)


def random_uniform(
    minval: float = -0.05, maxval: float = 0.05, seed: int | None = None
) -> Initializer:
    """A uniform distribution."""
    return _seeded(
        lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, minval, maxval), seed
    )


def constant(value: float = 0.0) -> Initializer:
    """The same value everywhere."""
    return lambda key, shape, dtype: jnp.full(shape, value, dtype)


def zeros() -> Initializer:
    """Zeros."""
    return constant(0.0)


def ones() -> Initializer:
    """Ones."""
    return constant(1.0)


def identity(gain: float = 1.0) -> Initializer:
    """The identity matrix times `gain`."""
    return lambda key, shape, dtype: gain * jnp.eye(shape[0], shape[1], dtype=dtype)


VarianceScaling, Orthogonal, OrthogonalInitializer = variance_scaling, orthogonal, orthogonal
GlorotNormal, GlorotUniform = glorot_normal, glorot_uniform
HeNormal, HeUniform = he_normal, he_uniform
LecunNormal, LecunUniform = lecun_normal, lecun_uniform
RandomNormal, normal = random_normal, random_normal
RandomUniform, uniform = random_uniform, random_uniform
TruncatedNormal, Constant = truncated_normal, constant
Identity, IdentityInitializer = identity, identity
Zeros, zero = zeros, zeros
Ones, one = ones, ones
