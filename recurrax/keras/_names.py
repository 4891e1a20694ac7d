"""Keras' arguments for functions: a name, a configuration, an object of Keras, or a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import jax

from recurrax.interop._keras_activations import ACTIVATIONS, hard_sigmoid_keras2
from recurrax.keras import constraints, initializers, regularizers

Named = str | dict | Callable | None  # what stands for a function


def _factories(module: ModuleType) -> dict[str, Callable]:
    found = {}
    for name, value in vars(module).items():
        is_factory = isinstance(value, FunctionType | functools.partial)
        if is_factory and not name.startswith("_"):
            found[name] = value
    return found


# For each kind of argument, the functions by Keras' names.
_TABLES: dict[str, dict[str, Callable]] = {
    "initializer": _factories(initializers),
    "regularizer": _factories(regularizers),
    "constraint": _factories(constraints),
    "activation": ACTIVATIONS | {"hard_sigmoid_keras2": hard_sigmoid_keras2},
}


def kind_of(argument: str) -> str | None:
    """The kind of an argument, by its name: `"initializer"` for `kernel_initializer`, or None."""
    kind = argument.rsplit("_", 1)[-1]
    if kind in _TABLES:
        return kind
    return None


def meaning(argument: str, value: Any) -> Any:
    """The function that the value of an argument stands for.

    None stays None; for an activation it means the identity.

    Raises:
        TypeError: if the value is nothing of the kind.
        ValueError: if nothing has its name, or its configuration does not fit.
    """
    kind = kind_of(argument) or ""
    if value is None and kind == "activation":
        return jax.nn.identity
    if value is None:
        return None
    # What Keras knows has a name. All else is a function.
    name, config = _description(value)
    if name is not None:
        return _named(argument, kind, name, config)
    if not callable(value):
        must = "must be a name, a configuration of Keras or a function"
        raise TypeError(f"`{argument}` {must}; got {value!r} of type {type(value).__name__}.")
    if kind == "initializer":
        return _with_key(value)
    return value


def _description(value: Any) -> tuple[str | None, dict[str, Any]]:
    """The name and the configuration of what Keras knows; no name for anything else."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and "class_name" in value:
        return value["class_name"], value.get("config") or {}
    if isinstance(value, type) and hasattr(value, "get_config"):
        return value.__name__, {}
    if hasattr(value, "get_config"):
        # Keras' `Identity` leaves its gain out of its configuration, and has it as an attribute.
        return type(value).__name__, value.get_config() or vars(value)
    # A function of Keras', such as `keras.activations.relu`, needs the backend that Keras chose.
    package = str(getattr(value, "__module__", "")).split(".")[0]
    if package == "keras" and hasattr(value, "__name__"):
        return value.__name__, {}
    return None, {}


def _named(argument: str, kind: str, name: str, config: dict[str, Any]) -> Callable:
    table = _TABLES[kind]
    if name not in table:
        names = ", ".join(sorted(filter(str.islower, table)))
        form = ""
        if kind == "initializer":
            form = " `(key, shape, dtype) -> array`"
        raise ValueError(f"`{argument}` must be one of {names}, or a function{form}; got {name!r}.")
    if kind == "activation":
        return table[name]
    # Keras writes None for a value that is not set, such as the seed.
    options = {key: entry for key, entry in config.items() if entry is not None}
    try:
        return table[name](**options)
    except TypeError as error:
        must = f"must be a {name} with Keras' arguments"
        raise ValueError(f"`{argument}` {must}; got {options}: {error}.") from None


def _with_key(initializer: Callable) -> Callable:
    """An initializer `(key, shape, dtype)`. Keras' form, `(shape, dtype)`, has no key."""
    names = list(inspect.signature(initializer).parameters)
    if names[:1] != ["shape"]:
        return initializer
    return lambda key, shape, dtype: initializer(shape, dtype=dtype)
