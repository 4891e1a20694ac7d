"""What a library cannot express, said so that the reader knows what to do."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Layer


def library(name: str, install: str) -> Any:
    """A library that recurrax itself does not need, imported.

    Args:
        name: of the library, or of a module in it.
        install: what to give to pip where it is missing, such as `recurrax[interop]`.

    Raises:
        ImportError: that says how to install it.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # The library is there; what it needs itself is not.
        message = (
            f"this needs {package}, which is not installed. Install it by: pip install '{install}'"
        )
        raise ImportError(message, name=package) from error


def input_shape(layer: Layer) -> tuple[int, ...]:
    """The spatial shape of the inputs of a layer, which is empty for features that do not lie in space.

    The first part in space tells it: only such parts change the space, and layers read their inputs
        part by part.

    Raises:
        ValueError: if no part tells it, though the features lie in space.
    """
    shape = _shape_of(layer)
    if len(shape) + 1 != layer.feature_ndim:
        raise ValueError(
            f"`layer` must have a part with an `input_shape` of {layer.feature_ndim - 1} spatial axes; got {layer}."
        )
    return shape


def _shape_of(layer: Layer) -> tuple[int, ...]:
    return getattr(layer, "input_shape", ()) or next(filter(None, map(_shape_of, layer.parts)), ())


def unsupported(name: str, got: Any, supported: Iterable[str], hint: str = "") -> TypeError:
    """The error for a layer that has no counterpart."""
    shown = (
        repr(got)
        if hasattr(got, "feature_ndim")
        else f"{type(got).__module__}.{type(got).__name__}"
    )
    return TypeError(
        f"`{name}` must be one of {', '.join(supported)}; got {shown}.{' ' if hint else ''}{hint}"
    )


def require(layer: Any, target: str, **fields: Any) -> None:
    """Checks the hyper-parameters of which `target` knows one value alone.

    Raises:
        ValueError: that names the first one with another value.
    """
    for name, value in fields.items():
        if (got := getattr(layer, name)) != value:
            raise ValueError(
                f"`{name}` of `layer` must be {_shown(value)} for {target}; got {_shown(got)} in {layer}."
            )


def require_plain_conv_lstm(layer: Any, target: str) -> None:
    """Checks that a `ConvLSTMCell` is the one that every library has.

    Raises:
        ValueError: if it has strides, dilation, a padding, a projection or activations of its own.
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
    """Checks a weight that `target` has no place for: only zeros may be left out.

    Raises:
        ValueError: that names the weight and the largest value that would be lost.
    """
    if (lost := float(jnp.abs(weight).max())) != 0:
        raise ValueError(
            f"{name} must be zero for {target}, which has no place for it; the largest value is {lost}."
        )


def to_jax(array: Any) -> jax.Array:
    """A NumPy array as JAX's, of the same dtype; one of JAX, traced or not, stands for itself.

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
            f"weights must be float32 or narrower; got {array.dtype}. Set `jax_enable_x64` to keep them exact."
        )
    return converted
