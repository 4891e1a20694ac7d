"""Checks of the fields of a layer and of the arguments of its `init`, for every layer."""

from __future__ import annotations

import dataclasses
import functools
import numbers
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def describe(x: Any) -> str:
    """Describes an argument for an error, such as `float32[3, 7, 5]`."""
    if isinstance(getattr(x, "shape", None), tuple) and hasattr(x, "dtype"):
        return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
    if isinstance(x, (tuple, list, dict)):
        return f"a {type(x).__name__} with {', '.join(named_leaves(x)) or 'nothing in it'}"
    return f"{short(x)} of type {type(x).__name__}"


def short(value: Any) -> str:
    """Returns the text of a value, or its type if the text is long, as for arrays and modules."""
    text = repr(value)
    if len(text) > 100 or "\n" in text:
        return f"an object of {type(value)}"
    return text


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by their paths, such as `[0].h`."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in pairs}


def check_number(name: str, value: Any) -> int:
    """Checks a number that must be at least 1, and returns it as a Python int."""
    number = as_int(value)
    if number is None or number < 1:
        raise ValueError(f"`{name}` must be an int of at least 1; got {short(value)}.")
    return number


# The fields of a dataclass ----------------------------------------------------------------------

# Says in the `metadata` of a field with an int how small the int may be.
SIZE = {"least": 1}
OPTIONAL_SIZE = {"least": 0}  # 0 means that there is no such part.


def check_fields(of: Any) -> None:
    """Checks the fields of a frozen dataclass by the types and the metadata that they declare.

    A NumPy number is stored as a Python number, so that it compares, prints and saves as one.

    Raises:
        TypeError: if a field has a wrong type; the error names the first such field.
        ValueError: if a size is too small.
    """
    for field in dataclasses.fields(of):
        value = getattr(of, field.name)
        kind, optional = _declared(field.type)
        # The default needs no check. It may be a placeholder, such as None for a field filled in
        # later.
        if value is field.default or (value is None and optional):
            continue
        if kind in _CHECKS:
            where = f"`{field.name}` of {type(of).__name__}"
            object.__setattr__(of, field.name, _CHECKS[kind](where, value))
        if "least" in field.metadata:
            _check_least(of, field.name, field.metadata["least"])


def _declared(annotation: Any) -> tuple[str, bool]:
    """Returns the name of a field's type, and whether the field may be None."""
    # An annotation is a string in this package. In a user's module it may be a type.
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    kind = text.removesuffix(" | None")
    optional = kind != text
    if "Callable[" in kind:
        kind = "Callable"
    return kind, optional


def _check_least(of: Any, name: str, least: int) -> None:
    if getattr(of, name) < least:
        kind, value = type(of).__name__, getattr(of, name)
        raise ValueError(f"`{name}` of {kind} must be at least {least}; got {value}.")


def _int(where: str, value: Any) -> int:
    if (number := as_int(value)) is None:
        raise TypeError(f"{where} must be an int; got {short(value)}.")
    return number


def as_int(value: Any) -> int | None:
    """Returns an int such as `np.int64(3)` as a Python int; None for a bool and any other value."""
    # A bool is an index for Python, but True is no number of steps.
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _bool(where: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{where} must be True or False; got {short(value)}.")
    return bool(value)


def _number(where: str, value: Any) -> Any:
    if not is_number(value):
        raise TypeError(f"{where} must be a number; got {short(value)}.")
    if isinstance(value, np.generic):
        return value.item()
    return value


def is_number(value: Any) -> bool:
    """Whether a value is a real Python or NumPy number. An array is none, since it has no hash."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _pair(where: str, value: Any) -> tuple:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{where} must be a pair of numbers; got {short(value)}.")
    return tuple(_number(where, number) for number in value)


def _numbers(where: str, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(_number(where, number) for number in value)
    return _number(where, value)


def _names(where: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(
            f"{where} must be a tuple of names; got {short(value)}. Write ({value!r},)."
        )
    if not isinstance(value, (tuple, list)) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{where} must be a tuple of names; got {short(value)}.")
    return tuple(value)


def _function(where: str, value: Any) -> Callable:
    if callable(value):
        return value
    hint = ""
    if isinstance(value, str) and hasattr(jax.nn, value):
        hint = f" Write jax.nn.{value}."
    raise TypeError(f"{where} must be a function, such as jax.nn.relu; got {short(value)}.{hint}")


def _initializer(where: str, value: Any) -> Callable:
    must = f"{where} must be a function `(key, shape, dtype) -> array`"
    if not callable(value):
        such = "recurrax.initializers.glorot_uniform or jax.nn.initializers.he_normal()"
        raise TypeError(f"{must}, such as {such}; got {short(value)}.")
    if value in _MAKERS:
        name = f"jax.nn.initializers.{value.__name__}"
        raise TypeError(f"{must}; got {name}, which makes such functions. Call it: {name}().")
    return value


# The functions of `jax.nn.initializers` that return an initializer. `zeros` and `ones` are
# initializers themselves.
_PUBLIC = {name: f for name, f in vars(jax.nn.initializers).items() if name.islower()}
_MAKERS = [f for name, f in _PUBLIC.items() if callable(f) and name not in ("zeros", "ones")]

# Short names of dtypes, and the names that JAX knows.
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64"}


def _floating(where: str, value: Any) -> Any:
    try:
        known = is_floating(jnp.dtype(value))
    except TypeError:
        known = False
    if not known:
        hint = ""
        if isinstance(value, str) and value in _SHORT:
            hint = f' Write "{_SHORT[value]}".'
        such = "jnp.bfloat16 or jnp.float32"
        raise TypeError(
            f"{where} must be a floating dtype, such as {such}; got {short(value)}.{hint}"
        )
    return value


def is_floating(dtype: Any) -> bool:
    """Whether a dtype is for computing. JAX promotes no floats of 8 bits: they are for storage."""
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > 1


# The check for each declared type. A class checks its fields of other types by itself.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "int": _int,
    "bool": _bool,
    "float": _number,
    "tuple[float, float]": _pair,
    "float | tuple[float, ...]": _numbers,
    "tuple[str, ...]": _names,
    "Callable": _function,
    "Initializer": _initializer,
    "DTypeLike": _floating,
}


# The arguments of `init` -------------------------------------------------------------------------


def checks_arguments(init: Callable) -> Callable:
    """Returns the `init` of a layer with checks of its arguments."""

    @functools.wraps(init)
    def checked(self: Any, key: Any, input_size: Any, *args: Any, **kwargs: Any) -> Any:
        check_key("key", key)
        return init(self, key, _features(input_size), *args, **kwargs)

    return checked


def check_key(name: str, key: Any) -> None:
    """Checks a source of randomness.

    Raises:
        TypeError: if the argument is not a key.
        ValueError: if the argument is an array of keys.
    """
    shape = getattr(key, "shape", None)
    must = f"`{name}` must be one PRNG key, such as jax.random.key(0)"
    if isinstance(shape, tuple):
        # A key of `jax.random.PRNGKey` is an array of numbers: its last axis is part of the key.
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        axes = len(shape) - int(not typed)
        if (typed or key.dtype == jnp.uint32) and axes >= 0:
            if axes > 0:
                raise ValueError(
                    f"{must}; got {describe(key)}. Take one of these keys: `{name}[0]`."
                )
            return
    # `nnx.Rngs` of Flax and its streams are callable, and their text is long.
    if callable(key):
        raise TypeError(f"{must}; got {type(key).__name__}. Draw a key from it: `rngs.params()`.")
    raise TypeError(f"{must}; got {describe(key)}.")


def _features(input_size: Any) -> int:
    must = "`input_size` must be an int of at least 1, the number of features of one input"
    size = as_int(input_size)
    if size is None:
        # The inputs themselves are a common mistake.
        shape, hint = getattr(input_size, "shape", ()), ""
        if shape:
            hint = f" Give the size of its last axis, {shape[-1]}."
        raise TypeError(f"{must}; got {describe(input_size)}.{hint}")
    if size < 1:
        raise ValueError(f"{must}; got {input_size}.")
    return size
