"""Activations and mixtures whose derivatives store few arrays: only outputs and gates."""

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
    def from_output(x: jax.Array) -> jax.Array:
        return activation(x)

    # Later products store the output y anyway. Without this checkpoint JAX also stores the slope.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def tangent_of(y: jax.Array, dx: jax.Array) -> jax.Array:
        return dx * slope(y)

    @from_output.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        y = from_output(*primals)
        return y, tangent_of(y, *tangents)

    return from_output


# The slope of each function, as a function of its output y.
_KEEPS_OUTPUT: dict[Callable, Activation] = {
    jnp.tanh: _from_output(jnp.tanh, lambda y: 1 - y * y),
    jax.nn.sigmoid: _from_output(jax.nn.sigmoid, lambda y: y * (1 - y)),
    jax.nn.relu: _from_output(jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
}


def keeps_output(activation: Activation) -> Activation:
    """The same function, with a derivative from its output if `_KEEPS_OUTPUT` knows one."""
    return _KEEPS_OUTPUT.get(activation, activation)


# The derivative stores the three arguments and computes both products again.
@functools.partial(jax.checkpoint, prevent_cse=False)
def mixture(gate: jax.Array, opened: jax.Array, closed: jax.Array) -> jax.Array:
    """The mean of `opened` and `closed`, with weights `gate` and `1 - gate`."""
    return gate * opened + (1 - gate) * closed


def closes_over_tracer(value: Any, depth: int = 4) -> bool:
    """Whether a function in a field of a layer reads a traced value, as `lambda x: a * x` may."""
    if isinstance(value, jax.core.Tracer):
        return True
    # The search goes into dataclasses, partial functions and closures, `depth` levels deep.
    parts: list[Any] = []
    if dataclasses.is_dataclass(value):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif inspect.isfunction(value):
        parts = list(inspect.getclosurevars(value).nonlocals.values())
    return depth > 0 and any(closes_over_tracer(part, depth - 1) for part in parts)
