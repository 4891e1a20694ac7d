"""Keras' initializers, as `keras.initializers`.

Each function here returns a function `(key, shape, dtype) -> array`. With a `seed` it draws the
same values each time, as in Keras; else the layer gives the key.

Example:
    >>> from recurrax.keras import LSTM, initializers
    >>> draw, constant = initializers.HeNormal(), initializers.Constant(0.1)
    >>> layer = LSTM(4, kernel_initializer=draw, bias_initializer=constant)
    >>> layer.build((None, None, 3))
    >>> layer.get_weights()[2][0].item()
    0.10000000149011612
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]
Seed = int | None


def _seeded(draw: Callable, seed: Seed) -> Initializer:
    if seed is None:
        return draw
    return lambda key, shape, dtype: draw(jax.random.key(seed), shape, dtype)


def _shifted(mean: float, draw: Callable, seed: Seed) -> Initializer:
    return _seeded(lambda key, shape, dtype: mean + draw(key, shape, dtype), seed)


def variance_scaling(
    scale: float = 1.0,
    mode: Any = "fan_in",
    distribution: Any = "truncated_normal",
    seed: Seed = None,
) -> Initializer:
    """Random numbers of variance `scale / fan`, where `mode` names the fan."""
    if distribution == "untruncated_normal":
        distribution = "normal"
    draw = jax.nn.initializers.variance_scaling(scale, mode, distribution)
    return _seeded(draw, seed)


# Each takes a seed. The variance is 2 / (fan_in + fan_out), 2 / fan_in or 1 / fan_in.
glorot_normal = partial(variance_scaling, 1.0, "fan_avg", "truncated_normal")
glorot_uniform = partial(variance_scaling, 1.0, "fan_avg", "uniform")
he_normal = partial(variance_scaling, 2.0, "fan_in", "truncated_normal")
he_uniform = partial(variance_scaling, 2.0, "fan_in", "uniform")
lecun_normal = partial(variance_scaling, 1.0, "fan_in", "truncated_normal")
lecun_uniform = partial(variance_scaling, 1.0, "fan_in", "uniform")


def orthogonal(gain: float = 1.0, seed: Seed = None) -> Initializer:
    """A random orthogonal matrix times `gain`."""
    return _seeded(jax.nn.initializers.orthogonal(gain), seed)


def random_normal(mean: float = 0.0, stddev: float = 0.05, seed: Seed = None) -> Initializer:
    """A normal distribution."""
    return _shifted(mean, jax.nn.initializers.normal(stddev), seed)


def truncated_normal(mean: float = 0.0, stddev: float = 0.05, seed: Seed = None) -> Initializer:
    """A normal distribution without what lies more than two standard deviations from its mean."""
    draw = jax.nn.initializers.truncated_normal(stddev)
    return _shifted(mean, draw, seed)


def random_uniform(minval: float = -0.05, maxval: float = 0.05, seed: Seed = None) -> Initializer:
    """A uniform distribution."""
    draw = partial(jax.random.uniform, minval=minval, maxval=maxval)
    return _seeded(draw, seed)


def constant(value: float = 0.0) -> Initializer:
    """The same value everywhere."""
    return lambda key, shape, dtype: jnp.full(shape, value, dtype)


def identity(gain: float = 1.0) -> Initializer:
    """The identity matrix times `gain`."""
    return lambda key, shape, dtype: gain * jnp.eye(shape[0], shape[1], dtype=dtype)


zeros = partial(constant, 0.0)
ones = partial(constant, 1.0)

# Keras has more than one name for each.
VarianceScaling, Orthogonal, OrthogonalInitializer = variance_scaling, orthogonal, orthogonal
GlorotNormal, GlorotUniform = glorot_normal, glorot_uniform
HeNormal, HeUniform = he_normal, he_uniform
LecunNormal, LecunUniform = lecun_normal, lecun_uniform
RandomNormal, normal = random_normal, random_normal
RandomUniform, uniform = random_uniform, random_uniform
TruncatedNormal, Constant = truncated_normal, constant
Identity, IdentityInitializer = identity, identity
Zeros, zero, Ones, one = zeros, zeros, ones, ones
