"""What is wrong with an argument, said so that the reader knows what to do."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._arguments import check_number as check_number
from recurrax._arguments import describe, is_floating, is_number, named_leaves, short
from recurrax._layer import Layer, features

_HINTS = {
    "params": "Were the parameters drawn for another `input_size` or another layer?",
    "state": ("Is it the state of another batch, or is one of them time-major (`time_major`, `batch_first`)?"),
}


def check_tree(name: str, tree: Any, expected: Any, layer: Any, xs: Any, of: str = "xs") -> None:
    """Checks a pytree of arrays against what `layer` needs for the inputs `xs`, an argument named `of`.

    Structure, shapes and kinds of dtype must be the same; the width of a dtype is free.

    Raises:
        ValueError: that names the first part of another structure or shape.
        TypeError: that names the first leaf of another kind of dtype.
    """
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    wanted, needed = jax.tree.flatten(expected)
    if structure == needed and all(map(_fits, leaves, wanted)):
        return
    _check_nodes(name, tree, expected, layer)
    _check_leaves(name, tree, expected, layer, f"for `{of}` {describe(xs)} and {layer}")
    raise ValueError(f"`{name}` must have the structure {needed} for {layer}; got {structure}.")


def _fits(leaf: Any, wanted: Any) -> bool:
    return np.shape(leaf) == wanted.shape and kind(leaf) == kind(wanted)


def kind(x: Any) -> str:
    """What sort of numbers an array holds, whatever their width."""
    if hasattr(x, "dtype"):
        return _kind(x.dtype)
    numbers = isinstance(x, (bool, int, float, complex))
    return _kind(jnp.result_type(x)) if numbers else type(x).__name__


@functools.lru_cache(maxsize=256)
def _kind(dtype: Any) -> str:
    if is_floating(dtype):
        return "floating"
    kinds = (name for name, of in _KINDS.items() if jnp.issubdtype(dtype, of))
    return next(kinds, str(dtype))


_KINDS = {
    "complex": jnp.complexfloating,
    "integer": jnp.integer,
    "bool": jnp.bool_,
    "key": jax.dtypes.prng_key,
}


def _check_leaves(name: str, tree: Any, expected: Any, layer: Any, why: str) -> None:
    got, wanted = named_leaves(tree), named_leaves(expected)
    for path, leaf in wanted.items():
        must = f"`{name}{path}` must be [{', '.join(map(str, leaf.shape))}]"
        if path not in got:
            raise ValueError(f"{must} {why}; got none in {describe(tree)}.")
        if np.shape(got[path]) != leaf.shape:
            raise ValueError(f"{must} {why}; got {describe(got[path])}. {_HINTS[name]}")
        _check_kind(f"{name}{path}", got[path], leaf, layer)
    if left := got.keys() - wanted.keys():
        names = ", ".join(sorted(left))
        raise ValueError(f"`{name}` must hold only {', '.join(wanted)} for {layer}; got also {names}.")


def check_kinds(name: str, tree: Any, expected: Any, layer: Any) -> None:
    """Checks the kinds of dtype alone, of a pytree with the leaves of `expected`.

    Raises:
        TypeError: that names the first leaf of another kind of dtype.
    """
    wanted = named_leaves(expected)
    for path, leaf in named_leaves(tree).items():
        _check_kind(f"{name}{path}", leaf, wanted.get(path, leaf), layer)


def _check_kind(name: str, leaf: Any, wanted: Any, layer: Any) -> None:
    if kind(leaf) != kind(wanted):
        narrow = " Floats of 8 bits are for storage: cast them first." if _is_narrow(leaf) else ""
        raise TypeError(
            f"`{name}` must be of a {kind(wanted)} dtype, as {describe(wanted)} is, for {layer}; "
            f"got {describe(leaf)}.{narrow}"
        )


def _is_narrow(leaf: Any) -> bool:
    return kind(leaf).startswith("float") and kind(leaf) != "floating"


def _check_nodes(name: str, tree: Any, expected: Any, layer: Any) -> None:
    """Checks that tuples are tuples, and each `NamedTuple` is of its class."""
    if tree is None or expected is None:  # A leaf that is missing or left over is told of as such.
        return
    if type(tree) is not type(expected) and not (_is_leaf(tree) and _is_leaf(expected)):
        raise ValueError(
            f"`{name}` must be {_node(expected)} for {layer}; got {_node(tree)}.{_node_hint(name, tree, expected)}"
        )
    if not isinstance(expected, tuple):
        return
    if len(tree) != len(expected):
        raise ValueError(f"`{name}` must have {len(expected)} entries for {layer}; got {len(tree)}.")
    fields = getattr(expected, "_fields", None)
    for number, (part, wanted) in enumerate(zip(tree, expected, strict=True)):
        way = f".{fields[number]}" if fields else f"[{number}]"
        _check_nodes(f"{name}{way}", part, wanted, layer)


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.all_leaves([node])


def _node(node: Any) -> str:
    if fields := getattr(node, "_fields", None):
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, (tuple, list, dict)):
        return f"a {type(node).__name__} of {len(node)}"
    return f"{describe(node)}, an array" if _is_leaf(node) else f"a {type(node).__name__}"


def _node_hint(name: str, tree: Any, expected: Any) -> str:
    """How to write what was meant."""
    name_of_class, fields = type(expected).__name__, getattr(expected, "_fields", ())
    if type(tree) in (tuple, list) and len(tree) == len(fields):
        return f" Write `{name_of_class}(*{name})`."
    if len(fields) == 1 and _is_leaf(tree):
        return f" Wrap it: `{_node(expected)}`."
    if fields and _is_leaf(tree):
        return f" Give all of them: `{_node(expected)}`."
    if type(expected) is tuple and isinstance(tree, list):
        return f" Write `tuple({name})`."
    if fields and type(tree).__name__ == name_of_class:
        return " They are two classes of one name: was its module loaded again?"
    return ""


# Layers are hashable, so what they expect is worked out once for each layer and size, not at every call.
@functools.lru_cache(maxsize=4096)
def expected_params(layer: Layer, input_size: int) -> Any:
    return layer.param_shapes(input_size)


@functools.lru_cache(maxsize=4096)
def expected_state(layer: Layer, batch_shape: tuple[int, ...]) -> Any:
    return jax.eval_shape(lambda: layer.initial_state(batch_shape))


def check_inputs(layer: Layer, xs: Any, of: str = "xs") -> Any:
    """Checks the inputs by themselves: those of all steps, `xs`, or those of one, `x`.

    Raises:
        TypeError: if `layer` is no layer, or the features are no real or complex numbers.
        ValueError: if axes are missing.
    """
    if not isinstance(layer, Layer):
        what, hint = type(layer), "Call a Flax module itself, or pass its `layer`."
        if isinstance(layer, type):
            what, hint = layer, "Construct it first."
        raise TypeError(f"`layer` must be a recurrax.Layer, such as LSTMCell(128); got {what}. {hint}")
    if not jax.tree.leaves(xs):
        raise ValueError(f"`{of}` must hold at least one array; got {describe(xs)}.")
    inputs = jax.tree.map(jnp.asarray, xs)
    xs, ndim = features(inputs), layer.feature_ndim
    if kind(xs) not in ("floating", "complex"):
        hint = "Embed or one-hot encode ids first."
        raise TypeError(f"`{of}` must be of a floating dtype; got {describe(xs)}. {hint}")
    time = 1 if of == "xs" else 0
    if xs.ndim < time + ndim:
        axes = f"{'T, ' * time}{'space, ' * (ndim - 1)}I"
        hint = " For one step use `step`." if time else ""
        raise ValueError(f"`{of}` must be [*B, {axes}], at least {time + ndim} axes; got {describe(xs)}.{hint}")
    if not xs.shape[-1]:
        raise ValueError(f"`{of}` must have at least 1 feature; got {describe(xs)}.")
    steps = xs.shape[: xs.ndim - ndim]
    if inputs is not xs:
        _check_beside(inputs, steps, of)
    return inputs


def _check_beside(inputs: Any, steps: tuple[int, ...], of: str) -> None:
    for path, leaf in named_leaves(inputs).items():
        if leaf.shape[: len(steps)] != steps:
            axes = ", ".join(map(str, steps))
            raise ValueError(f"`{of}{path}` must begin with the axes of the features, [{axes}]; got {describe(leaf)}.")


def check_features(layer: Layer, xs: jax.Array, params: Any, state: Any, of: str) -> None:
    """Checks that features which are complex meet a layer that is, too; `params` and `state` are its own."""
    held = jax.tree.leaves((params, state))
    if kind(xs) != "complex" or not held or any(kind(leaf) == "complex" for leaf in held):
        return
    raise TypeError(
        f"`{of}` must be of a floating dtype for {layer}, which has no complex numbers; "
        f"got {describe(xs)}. Give real and imaginary parts as features."
    )


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
    lengths = check_flags("lengths", lengths, jnp.integer, batch_shape, f"one length per sequence of {what}")
    mask = check_flags("mask", mask, jnp.bool_, steps, f"one flag per step of {what}")
    reset = check_flags("reset", reset, jnp.bool_, steps, f"one flag per step of {what}")
    return lengths, mask, reset


def check_flags(name: str, flags: Any, dtype: Any, shape: tuple[int, ...], meaning: str) -> Any:
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
        hint = " Construct it first." if isinstance(layer, type) else ""
        raise TypeError(f"`{name}` must be a recurrax.Layer, such as LSTMCell(128); got {short(layer)}.{hint}")


def check_rate(name: str, rate: float) -> None:
    """Checks a probability of dropping."""
    if not is_number(rate):
        raise TypeError(f"`{name}` must be a number; got {short(rate)}.")
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1; got {rate}.")


def check_axes(name: str, first: Layer, second: Layer) -> None:
    """Checks that two layers, of which one sees what the other sees or puts out, take as many axes.

    A layer without a state may take any number, or change it.
    """
    if first.feature_ndim == second.feature_ndim:
        return
    axes = [{cell.feature_ndim for cell in _with_state(layer)} for layer in (first, second)]
    if len(axes[0]) == len(axes[1]) == 1 and axes[0] != axes[1]:
        raise ValueError(
            f"`{name}` must take inputs with one number of axes of features; got {axes[0].pop()} "
            f"for {first} and {axes[1].pop()} for {second}."
        )


def _with_state(layer: Layer) -> list[Layer]:
    """The layers within that are made of no others, and have a state."""
    if layer.parts:
        return [end for part in layer.parts for end in _with_state(part)]
    return [layer] if jax.tree.leaves(expected_state(layer, ())) else []
