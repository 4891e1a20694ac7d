"""What gates and activations keep for their derivative: outputs and gates, not every term."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]


def _from_output(activation: Activation, slope: Activation) -> Activation:
    @jax.custom_jvp
    def frugal(x: jax.Array) -> jax.Array:
        return activation(x)

    # Left to itself, the linear part of a step would keep the slope beside the output that later products keep anyway.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def push(y: jax.Array, dx: jax.Array) -> jax.Array:
        return dx * slope(y)

    @frugal.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        y = frugal(*primals)
        return y, push(y, *tangents)

    return frugal


_FRUGAL: dict[Callable, Activation] = {
    jnp.tanh: _from_output(jnp.tanh, lambda y: 1 - y * y),
    jax.nn.sigmoid: _from_output(jax.nn.sigmoid, lambda y: y * (1 - y)),
    jax.nn.relu: _from_output(jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
}


def frugal(activation: Activation) -> Activation:
    """The same function with its derivative taken from its output, where that is known; else the function itself."""
    return _FRUGAL.get(activation, activation)


# For its derivative this keeps what goes in, not each of its terms.
@functools.partial(jax.checkpoint, prevent_cse=False)
def mixture(gate: jax.Array, opened: jax.Array, closed: jax.Array) -> jax.Array:
    """`opened` as far as the gate is open, `closed` as far as it is not."""
    return gate * opened + (1 - gate) * closed
