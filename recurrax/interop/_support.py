"""Tools for all formats: imports, and errors that say what a library cannot express."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer


def library(name: str, install: str) -> Any:
    """Imports a library that recurrax itself does not need.

    Args:
        name: the library, or a module in it.
        install: the name for pip, such as `recurrax[interop]`.

    Raises:
        ImportError: says how to install the library.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # The library is installed, but it lacks a library itself.
        message = (
            f"this needs {package}, which is not installed. Install it by: pip install '{install}'"
        )
        raise ImportError(message, name=package) from error


def input_shape(layer: Layer) -> tuple[int, ...]:
    """The spatial shape of a layer's inputs; empty for features without space.

    The first part with an `input_shape` tells it: the other parts keep the space.

    Raises:
        ValueError: if no part tells it, though the features lie in space.
    """
    shape = _shape_of(layer)
    if len(shape) + 1 != layer.feature_ndim:
        raise ValueError(
            f"`layer` must have a part with an `input_shape` of {layer.feature_ndim - 1} spatial "
            f"axes; got {layer}."
        )
    return shape


def _shape_of(layer: Layer) -> tuple[int, ...]:
    if shape := getattr(layer, "input_shape", ()):
        return shape
    return next(filter(None, map(_shape_of, layer.parts)), ())


def unsupported(name: str, got: Any, supported: Iterable[str], hint: str = "") -> TypeError:
    """The error for a layer that has no counterpart."""
    # A layer shows its arguments. A foreign module shows its type alone.
    if hasattr(got, "feature_ndim"):
        shown = repr(got)
    else:
        shown = f"{type(got).__module__}.{type(got).__name__}"
    names = list(supported)
    expected = names[0]
    if len(names) > 1:
        expected = f"one of {', '.join(names)}"
    message = f"`{name}` must be {expected}; got {shown}."
    return TypeError(f"{message} {hint}".rstrip())


def require(layer: Any, target: str, **fields: Any) -> None:
    """Checks the options of a layer for which `target` knows only one value.

    Raises:
        ValueError: names the first option with another value.
    """
    for name, value in fields.items():
        got = getattr(layer, name)
        if got != value:
            raise ValueError(
                f"`{name}` of `layer` must be {_shown(value)} for {target}; "
                f"got {_shown(got)} in {layer}."
            )


def require_plain_conv_lstm(layer: Any, target: str) -> None:
    """Checks that a `ConvLSTMCell` has no option that other libraries lack.

    Raises:
        ValueError: if it has strides, dilation, padding, a projection or other activations.
    """
    require(
        layer,
        target,
        proj_size=0,
        padding="SAME",
        activation=jnp.tanh,
        gate_activation=jax.nn.sigmoid,
    )
    if not {layer.strides, layer.dilation} <= {1, (1,) * len(layer.input_shape)}:
        raise ValueError(
            f"`strides` and `dilation` of `layer` must be 1 for {target}; got {layer}."
        )


def _shown(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def refuse_loss(name: str, weight: Any, target: str) -> None:
    """Checks a weight for which `target` has no place: it must be zero.

    Raises:
        ValueError: names the weight and its largest value.
    """
    lost = float(jnp.abs(weight).max())
    if lost != 0:
        raise ValueError(
            f"{name} must be zero for {target}, which has no place for it; "
            f"the largest value is {lost}."
        )


def to_jax(array: Any) -> jax.Array:
    """A NumPy array as an array of JAX, in the same dtype. An array of JAX may be traced.

    Raises:
        TypeError: if JAX would round it.
    """
    if isinstance(array, jax.Array):
        return array
    # A copy, as the other library may change its own array. `jnp.asarray` would compile a program
    # for each shape.
    array = np.asarray(array).copy()
    if (converted := jax.device_put(array)).dtype != array.dtype:
        raise TypeError(
            f"weights must be float32 or narrower; got {array.dtype}. "
            "Set `jax_enable_x64` to keep them exact."
        )
    return converted
