"""A layer in words: JSON that says which layer it is and with what arguments, and the layer that such JSON means."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import recurrax
from recurrax import initializers
from recurrax._layer import Layer
from recurrax.cells import min_gated
from recurrax.interop._keras_activations import ACTIVATIONS

_ACTIVATIONS = (
    "celu elu gelu glu hard_sigmoid hard_silu hard_tanh identity leaky_relu log_sigmoid mish relu relu6 selu sigmoid "
    "silu soft_sign softmax softplus squareplus"
)
_DEEPEST = 64


def _functions() -> dict[str, Any]:
    """What a description may call by name, and nothing else."""
    named = {f"jax.nn.{name}": getattr(jax.nn, name) for name in _ACTIVATIONS.split()}
    named |= {f"jax.numpy.{name}": getattr(jnp, name) for name in ("tanh", "sin", "cos", "arctan", "exp")}
    named |= {f"recurrax.initializers.{name}": f for name, f in vars(initializers).items() if callable(f)}
    named |= {f"keras.activations.{name}": function for name, function in ACTIVATIONS.items()}
    return named | {"recurrax.cells.min_gated.positive": min_gated.positive}


def _classes() -> dict[str, type]:
    public = (value for value in vars(recurrax).values() if isinstance(value, type))
    return {value.__name__: value for value in public if dataclasses.is_dataclass(value)}


def describe(layer: Layer) -> str:
    """The JSON of a layer: `{"LSTMCell": {"hidden_size": 4}}`, arguments that have their default value left out.

    Raises:
        ValueError: if an argument has no name, such as a lambda, a closure or a `functools.partial`.
    """
    return json.dumps(_written(layer, type(layer).__name__))


def _written(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_written(entry, where) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: _arguments(value, where)}
    for name, function in _functions().items():
        if value is function:
            return {"function": name}
    if callable(value) and not isinstance(value, type) and _has_own_name(value):
        return {"function": value.__name__}
    try:
        return {"dtype": np.dtype(value).name}
    except TypeError:
        raise ValueError(
            f"`{where}` must have a name to be written down, as jax.nn.relu or a function defined by `def` in a module "
            f"has one; got {value!r}."
        ) from None


def _arguments(value: Any, where: str) -> dict[str, Any]:
    arguments = {}
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if not field.init or argument == field.default:
            continue
        if field.name.endswith("_init") and not isinstance(argument, Layer) and not _named(argument):
            continue  # An initialiser has done its work.
        arguments[field.name] = _written(argument, f"{where}.{field.name}")
    return arguments


def _named(value: Any) -> bool:
    return any(value is function for function in _functions().values()) or _has_own_name(value)


def _has_own_name(value: Any) -> bool:
    return getattr(value, "__name__", "<").isidentifier() and "<" not in getattr(value, "__qualname__", "<")


def understand(text: str, known: Iterable[Any] = ()) -> Layer:
    """The layer that `describe` wrote down.

    Args:
        text: the JSON.
        known: classes and functions of one's own, which it may name beside those of recurrax.

    Raises:
        ValueError: if it is no description, or names what is not known.
    """
    own = {value.__name__: value for value in known}
    try:
        layer = _read(json.loads(text), _classes() | own, _functions() | own, 0)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the description of the layer must be JSON; got {text[:80]!r}.") from error
    if not isinstance(layer, Layer):
        raise ValueError(f"the description must be that of a layer; got {layer!r}.")
    return layer


def _read(value: Any, classes: dict[str, Any], functions: dict[str, Any], depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"the description must be at most {_DEEPEST} levels deep.")
    if isinstance(value, list):
        return tuple(_read(entry, classes, functions, depth + 1) for entry in value)
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError(f"the description must have one name at each level; got {', '.join(value) or 'none'}.")
    [(name, content)] = value.items()
    if name == "dtype":
        return _dtype(content)
    if name == "function":
        return _known(content, functions)
    kind = _known(name, classes)
    if not isinstance(content, dict):
        raise ValueError(f"the description of {name} must hold its arguments; got {content!r}.")
    arguments = {key: _read(entry, classes, functions, depth + 1) for key, entry in content.items()}
    try:
        return kind(**arguments)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the description of {name} must have arguments that it takes; {error}.") from error


def _known(name: Any, known: dict[str, Any]) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"the description must name what recurrax has, or what is given as `known`; got {name!r}. "
            "Is it a cell or a function of your own, or was the file written by a later version?"
        )
    return known[name]


def _dtype(name: Any) -> np.dtype:
    try:
        return jnp.dtype(name)
    except TypeError as error:
        raise ValueError(f"the description must name a dtype; got {name!r}.") from error
