"""What stands behind the names that Keras' arguments take: activations, initialisers, regularisers and constraints."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrax import initializers
from recurrax.compat.keras import constraints, regularizers
from recurrax.interop._keras_activations import ACTIVATIONS


def _identity(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.eye(shape[0], shape[1], dtype=dtype)


_normal = jax.nn.initializers.normal(0.05)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


_INITIALIZERS: dict[str, Callable] = {
    "glorot_normal": jax.nn.initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform,
    "he_normal": jax.nn.initializers.he_normal(),
    "he_uniform": jax.nn.initializers.he_uniform(),
    "identity": _identity,
    "lecun_normal": initializers.lecun_normal,
    "lecun_uniform": jax.nn.initializers.lecun_uniform(),
    "normal": _normal,
    "one": jax.nn.initializers.ones,
    "ones": jax.nn.initializers.ones,
    "orthogonal": initializers.orthogonal,
    "random_normal": _normal,
    "random_uniform": _uniform,
    "truncated_normal": jax.nn.initializers.truncated_normal(0.05),
    "uniform": _uniform,
    "variance_scaling": jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"),
    "zero": initializers.zeros,
    "zeros": initializers.zeros,
}

# Those of a regulariser and a constraint by name: Keras' own defaults.
_REGULARIZERS: dict[str, Callable] = {
    "l1": regularizers.l1(),
    "l2": regularizers.l2(),
    "l1_l2": regularizers.l1_l2(),
}
_CONSTRAINTS: dict[str, Callable] = {
    "max_norm": constraints.max_norm(),
    "min_max_norm": constraints.min_max_norm(),
    "non_neg": constraints.non_neg(),
    "unit_norm": constraints.unit_norm(),
}
_KINDS = {
    "activation": ACTIVATIONS,
    "initializer": _INITIALIZERS,
    "regularizer": _REGULARIZERS,
    "constraint": _CONSTRAINTS,
}


def kind_of(argument: str) -> str | None:
    """What the argument of a layer takes, as its name says: `"initializer"` for `kernel_initializer`; or None."""
    kind = argument.rsplit("_", 1)[-1]
    return kind if kind in _KINDS else None


def meaning(argument: str, value: Any) -> Any:
    """The function that a name stands for; a function is itself, and None is None, or the identity for an activation.

    Raises:
        TypeError: if it is neither a name nor a function.
        ValueError: if nothing has that name.
    """
    table = _KINDS[kind := kind_of(argument) or ""]
    if value is None:
        return jax.nn.identity if kind == "activation" else None
    if isinstance(value, str):
        name = value if value in table else _snake_case(value)
        if name not in table:
            raise ValueError(f"`{argument}` must be one of {', '.join(sorted(table))}, or a function; got {value!r}.")
        return table[name]
    if not callable(value):
        raise TypeError(f"`{argument}` must be a name or a function; got {value!r} of type {type(value).__name__}.")
    return value


def _snake_case(name: str) -> str:
    """`GlorotUniform` and `L1L2`, the names of Keras' classes, as `glorot_uniform` and `l1_l2`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
