"""What gates and activations keep for their derivative: outputs and gates, not every term."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

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


def closes_over_tracer(value: Any, depth: int = 4) -> bool:
    """Whether a function among the fields of a layer reads a traced value from outside, as `lambda x: a * x` may."""
    if isinstance(value, jax.core.Tracer):
        return True
    within: list[Any] = []
    if dataclasses.is_dataclass(value):
        within = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, functools.partial):
        within = [value.func, *value.args, *value.keywords.values()]
    elif inspect.isfunction(value):
        within = list(inspect.getclosurevars(value).nonlocals.values())
    return depth > 0 and any(closes_over_tracer(part, depth - 1) for part in within)
