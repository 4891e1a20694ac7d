"""What is wrong with an argument, said so that the reader knows what to do."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Layer, features


def describe(x: Any) -> str:
    """What an argument is, for an error: `float32[3, 7, 5]`, the names in a pytree, or the value itself."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}[{', '.join(map(str, x.shape))}]"
    if isinstance(x, (tuple, list, dict)):
        return f"a {type(x).__name__} with {', '.join(_leaves(x)) or 'nothing in it'}"
    return f"{x!r} of type {type(x).__name__}"


_HINTS = {
    "params": "Were the parameters drawn for another `input_size` or another layer?",
    "state": "Is it the state of another batch, or is one of them time-major (`time_major`, `batch_first`)?",
}


def check_tree(name: str, tree: Any, expected: Any, layer: Any, xs: Any) -> None:
    """Checks a pytree of arrays against the structure and the shapes that `layer` needs for `xs`.

    Raises:
        ValueError: that names the first leaf that is missing, left over or of another shape.
    """
    wanted, got = _leaves(expected), _leaves(tree)
    for path, leaf in wanted.items():
        must = f"`{name}{path}` must be [{', '.join(map(str, leaf.shape))}]"
        if path not in got:
            raise ValueError(f"{must} for `xs` {describe(xs)} and {layer}; got none in {describe(tree)}.")
        if jnp.shape(got[path]) != leaf.shape:
            came = f"got {describe(got[path])}. {_HINTS[name]}"
            raise ValueError(f"{must} for `xs` {describe(xs)} and {layer}; {came}")
    if left := got.keys() - wanted.keys():
        raise ValueError(
            f"`{name}` must hold only {', '.join(wanted)} for {layer}; got also {', '.join(sorted(left))}."
        )


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


# Layers are hashable, so what they expect is worked out once for each layer and size, not at every call.
@functools.lru_cache(maxsize=4096)
def expected_params(layer: Layer, input_size: int) -> Any:
    return jax.eval_shape(lambda: layer.init(jax.random.key(0), input_size))


@functools.lru_cache(maxsize=4096)
def expected_state(layer: Layer, batch_shape: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: layer.initial_state(batch_shape))


def check_inputs(layer: Layer, xs: Any) -> Any:
    if not isinstance(layer, Layer):
        kind, hint = type(layer), "Call a Flax module itself, or pass its `layer`."
        if isinstance(layer, type):
            kind, hint = layer, "Construct it first."
        raise TypeError(f"`layer` must be a recurrax.Layer, such as LSTMCell(128); got {kind}. {hint}")
    if not jax.tree.leaves(xs):
        raise ValueError(f"`xs` must hold at least one array; got {describe(xs)}.")
    inputs = jax.tree.map(jnp.asarray, xs)
    xs, ndim = features(inputs), layer.feature_ndim
    if not jnp.issubdtype(xs.dtype, jnp.inexact):
        raise TypeError(f"`xs` must be of a floating dtype; got {describe(xs)}. Embed or one-hot encode ids first.")
    if xs.ndim < 1 + ndim:
        axes = "I" if ndim == 1 else f"{'space, ' * (ndim - 1)}I"
        raise ValueError(
            f"`xs` must be [*B, T, {axes}], at least {1 + ndim} axes; got {describe(xs)}. For one step use `step`."
        )
    steps = xs.shape[: xs.ndim - ndim]
    for path, leaf in _leaves(inputs).items():
        if leaf.shape[: len(steps)] != steps:
            raise ValueError(
                f"`xs{path}` must begin with the axes of the features, [{', '.join(map(str, steps))}]; "
                f"got {describe(leaf)}."
            )
    return inputs


def check_steps(
    of: str, xs: jax.Array, steps: tuple[int, ...], time_major: bool, lengths: Any, mask: Any, reset: Any
) -> tuple[Any, Any, Any]:
    """Checks what is said about the steps of `xs`, an argument named `of` whose leading axes are `steps`.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if one has the wrong shape, or `lengths` and `mask` are both given.
    """
    if lengths is not None and mask is not None:
        raise ValueError("`lengths` and `mask` must not both be given; fold the lengths into the mask.")
    what = f"`{of}` {describe(xs)}"
    batch_shape = steps[1:] if time_major else steps[:-1]
    lengths = _check_flags("lengths", lengths, jnp.integer, batch_shape, f"one length per sequence of {what}")
    mask = _check_flags("mask", mask, jnp.bool_, steps, f"one flag per step of {what}")
    reset = _check_flags("reset", reset, jnp.bool_, steps, f"one flag per step of {what}")
    return lengths, mask, reset


def _check_flags(name: str, flags: Any, dtype: Any, shape: tuple[int, ...], meaning: str) -> Any:
    if flags is None:
        return None
    flags, kind = jnp.asarray(flags), "bool" if dtype is jnp.bool_ else "int"
    must = f"`{name}` must be {kind}[{', '.join(map(str, shape))}], {meaning}; got {describe(flags)}."
    if flags.shape != shape:
        swapped = flags.ndim > 1 and shape in (flags.shape[-1:] + flags.shape[:-1], flags.shape[1:] + flags.shape[:1])
        raise ValueError(must + (" Is one of them time-major and the other not?" if swapped else ""))
    if not jnp.issubdtype(flags.dtype, dtype):
        raise TypeError(must + (" Compare or `.astype(bool)` first." if kind == "bool" else ""))
    return flags


def check_number(name: str, value: Any) -> None:
    """Checks a number of steps."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be an int of at least 1; got {value!r}.")


def check_input_size(layer: Layer, input_size: int, expected: int) -> None:
    """Checks the number of features that a layer is given, where its own arguments say it."""
    if input_size != expected:
        raise ValueError(
            f"`input_size` of {layer} must be {expected}; got {input_size}. Project the inputs to {expected} features "
            f"first, as with Dense({expected})."
        )


def check_layer(name: str, layer: Any) -> None:
    """Checks a layer that is part of another."""
    if not isinstance(layer, Layer):
        raise TypeError(f"`{name}` must be a recurrax.Layer, such as LSTMCell(128); got {layer!r}.")


def check_rate(name: str, rate: float) -> None:
    """Checks a probability of dropping."""
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1; got {rate}.")
