"""Checks of arguments. Each error says what to do."""

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
    "state": (
        "Is it the state of another batch, or is one of them time-major (`time_major`, "
        "`batch_first`)?"
    ),
}


def check_tree(name: str, tree: Any, expected: Any, layer: Any, xs: Any, of: str = "xs") -> None:
    """Checks a pytree of arrays against the arrays that `layer` needs.

    `xs` are the inputs, and `of` is the name of that argument.

    Structure, shapes and kinds of dtype must agree. The width of a dtype is free.

    Raises:
        ValueError: if structures or shapes differ; the error names the first part that does.
        TypeError: if a kind of dtype differs; the error names the first such leaf.
    """
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    wanted, needed = jax.tree.flatten(expected)
    if structure == needed and all(map(_fits, leaves, wanted)):
        return
    # The first of these that finds a fault raises.
    _check_nodes(name, tree, expected, layer)
    _check_leaves(name, tree, expected, layer, f"for `{of}` {describe(xs)} and {layer}")
    raise ValueError(f"`{name}` must have the structure {needed} for {layer}; got {structure}.")


def _fits(leaf: Any, wanted: Any) -> bool:
    return np.shape(leaf) == wanted.shape and kind(leaf) == kind(wanted)


def kind(x: Any) -> str:
    """Returns the kind of numbers in an array, such as "floating", without their width."""
    if hasattr(x, "dtype"):
        return _kind(x.dtype)
    if isinstance(x, (bool, int, float, complex)):
        return _kind(jnp.result_type(x))
    return type(x).__name__


@functools.lru_cache(maxsize=256)
def _kind(dtype: Any) -> str:
    if is_floating(dtype):
        return "floating"
    for name, family in _KINDS.items():
        if jnp.issubdtype(dtype, family):
            return name
    return str(dtype)


_KINDS = {
    "complex": jnp.complexfloating,
    "integer": jnp.integer,
    "bool": jnp.bool_,
    "key": jax.dtypes.prng_key,
}


def _check_leaves(name: str, tree: Any, expected: Any, layer: Any, why: str) -> None:
    got, wanted = named_leaves(tree), named_leaves(expected)
    for path, leaf in wanted.items():
        sizes = ", ".join(map(str, leaf.shape))
        must = f"`{name}{path}` must be [{sizes}]"
        if path not in got:
            raise ValueError(f"{must} {why}; got none in {describe(tree)}.")
        if np.shape(got[path]) != leaf.shape:
            raise ValueError(f"{must} {why}; got {describe(got[path])}. {_HINTS[name]}")
        _check_kind(f"{name}{path}", got[path], leaf, layer)
    # All expected leaves are there, so any other leaf is too much.
    if left := got.keys() - wanted.keys():
        must = f"must hold only {', '.join(wanted)} for {layer}"
        raise ValueError(f"`{name}` {must}; got also {', '.join(sorted(left))}.")


def check_kinds(name: str, tree: Any, expected: Any, layer: Any) -> None:
    """Checks only the kinds of dtype of a pytree with the leaves of `expected`.

    Raises:
        TypeError: if a kind of dtype differs; the error names the first such leaf.
    """
    wanted = named_leaves(expected)
    for path, leaf in named_leaves(tree).items():
        _check_kind(f"{name}{path}", leaf, wanted.get(path, leaf), layer)


def _check_kind(name: str, leaf: Any, wanted: Any, layer: Any) -> None:
    if kind(leaf) != kind(wanted):
        narrow = ""
        if _is_narrow(leaf):
            narrow = " Floats of 8 bits are for storage: cast them first."
        must = f"must be of a {kind(wanted)} dtype, as {describe(wanted)} is, for {layer}"
        raise TypeError(f"`{name}` {must}; got {describe(leaf)}.{narrow}")


def _is_narrow(leaf: Any) -> bool:
    """Whether an array holds floats of 8 bits or fewer: their kind is the name of their dtype."""
    return kind(leaf).startswith("float") and kind(leaf) != "floating"


def _check_nodes(name: str, tree: Any, expected: Any, layer: Any) -> None:
    """Checks that tuples are tuples, and that each `NamedTuple` has the expected class."""
    # `_check_leaves` reports a leaf that is missing or too much.
    if tree is None or expected is None:
        return
    both_leaves = _is_leaf(tree) and _is_leaf(expected)
    if type(tree) is not type(expected) and not both_leaves:
        must = f"must be {_node(expected)} for {layer}"
        hint = _node_hint(name, tree, expected)
        raise ValueError(f"`{name}` {must}; got {_node(tree)}.{hint}")
    if not isinstance(expected, tuple):
        return
    if len(tree) != len(expected):
        must = f"must have {len(expected)} entries for {layer}"
        raise ValueError(f"`{name}` {must}; got {len(tree)}.")
    fields = getattr(expected, "_fields", None)
    for number, (part, wanted) in enumerate(zip(tree, expected, strict=True)):
        entry = f"[{number}]"
        if fields:
            entry = f".{fields[number]}"
        _check_nodes(name + entry, part, wanted, layer)


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.all_leaves([node])


def _node(node: Any) -> str:
    """Describes one node of a pytree for an error."""
    if fields := getattr(node, "_fields", None):
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, (tuple, list, dict)):
        return f"a {type(node).__name__} of {len(node)}"
    if _is_leaf(node):
        return f"{describe(node)}, an array"
    return f"a {type(node).__name__}"


def _node_hint(name: str, tree: Any, expected: Any) -> str:
    """Returns a hint: the code that the user may have meant."""
    name_of_class = type(expected).__name__
    fields = getattr(expected, "_fields", ())
    # A plain tuple in the place of a `NamedTuple`.
    if type(tree) in (tuple, list) and len(tree) == len(fields):
        return f" Write `{name_of_class}(*{name})`."
    # An array in the place of a `NamedTuple`.
    if len(fields) == 1 and _is_leaf(tree):
        return f" Wrap it: `{_node(expected)}`."
    if fields and _is_leaf(tree):
        return f" Give all of them: `{_node(expected)}`."
    if type(expected) is tuple and isinstance(tree, list):
        return f" Write `tuple({name})`."
    if fields and type(tree).__name__ == name_of_class:
        return " They are two classes of one name: was its module loaded again?"
    return ""


# A layer is hashable. So the work is done once for each layer and size, not at every call.
@functools.lru_cache(maxsize=4096)
def expected_params(layer: Layer, input_size: int) -> Any:
    """Returns the parameters of a layer as shapes."""
    return layer.param_shapes(input_size)


@functools.lru_cache(maxsize=4096)
def expected_state(layer: Layer, batch_shape: tuple[int, ...]) -> Any:
    """Returns the state of a layer as shapes."""
    return jax.eval_shape(lambda: layer.initial_state(batch_shape))


def _as_array(leaf: Any) -> jax.Array:
    # `asarray` takes a part of a step's time, also where it has nothing to do.
    if isinstance(leaf, jax.Array):
        return leaf
    return jnp.asarray(leaf)


def check_inputs(layer: Layer, xs: Any, of: str = "xs") -> Any:
    """Checks the inputs without other arguments: `xs` for all steps, or `x` for one step.

    Raises:
        TypeError: if `layer` is no layer, or the features are neither floating nor complex.
        ValueError: if axes are missing.
    """
    # A class, a Flax module or any other object in the place of a layer.
    if not isinstance(layer, Layer):
        what, hint = type(layer), "Call a Flax module itself, or pass its `layer`."
        if isinstance(layer, type):
            what, hint = layer, "Construct it first."
        raise TypeError(
            f"`layer` must be a recurrax.Layer, such as LSTMCell(128); got {what}. {hint}"
        )
    if not jax.tree.leaves(xs):
        raise ValueError(f"`{of}` must hold at least one array; got {describe(xs)}.")
    inputs = jax.tree.map(_as_array, xs)
    xs, ndim = features(inputs), layer.feature_ndim
    if kind(xs) not in ("floating", "complex"):
        hint = "Embed or one-hot encode ids first."
        raise TypeError(f"`{of}` must be of a floating dtype; got {describe(xs)}. {hint}")
    # `xs` has an axis of time, `x` has none.
    time = int(of == "xs")
    if xs.ndim < time + ndim:
        axes = f"{'T, ' * time}{'space, ' * (ndim - 1)}I"
        hint = ""
        if time:
            hint = " For one step use `step`."
        raise ValueError(
            f"`{of}` must be [*B, {axes}], at least {time + ndim} axes; got {describe(xs)}.{hint}"
        )
    if not xs.shape[-1]:
        raise ValueError(f"`{of}` must have at least 1 feature; got {describe(xs)}.")
    steps = xs.shape[: xs.ndim - ndim]
    # The inputs are a pytree, such as `TimedInputs`.
    if inputs is not xs:
        _check_beside(inputs, steps, of)
    return inputs


def _check_beside(inputs: Any, steps: tuple[int, ...], of: str) -> None:
    """Checks the leading axes of every leaf beside the features."""
    for path, leaf in named_leaves(inputs).items():
        if leaf.shape[: len(steps)] != steps:
            axes = ", ".join(map(str, steps))
            must = f"must begin with the axes of the features, [{axes}]"
            raise ValueError(f"`{of}{path}` {must}; got {describe(leaf)}.")


def check_features(layer: Layer, xs: jax.Array, params: Any, state: Any, of: str) -> None:
    """Checks that a layer with complex features has complex parameters or a complex state."""
    kinds = set(map(kind, jax.tree.leaves((params, state))))
    if kind(xs) != "complex" or not kinds or "complex" in kinds:
        return
    raise TypeError(
        f"`{of}` must be of a floating dtype for {layer}, which has no complex numbers; "
        f"got {describe(xs)}. Give real and imaginary parts as features."
    )


def check_steps(
    of: str,
    xs: jax.Array,
    steps: tuple[int, ...],
    time_major: bool,
    lengths: Any,
    mask: Any,
    reset: Any,
) -> tuple[Any, Any, Any]:
    """Checks `lengths`, `mask` and `reset` against the inputs.

    `of` is the name of the inputs, and `steps` are their leading axes.

    Raises:
        TypeError: if an argument has the wrong dtype.
        ValueError: if one has the wrong shape, or `lengths` and `mask` are both given.
    """
    if lengths is not None and mask is not None:
        hint = "fold the lengths into the mask"
        raise ValueError(f"`lengths` and `mask` must not both be given; {hint}.")
    what = f"`{of}` {describe(xs)}"
    # The batch axes have no axis of time.
    batch = steps[:-1]
    if time_major:
        batch = steps[1:]
    per_sequence = f"one length per sequence of {what}"
    per_step = f"one flag per step of {what}"
    lengths = check_flags("lengths", lengths, jnp.integer, batch, per_sequence)
    mask = check_flags("mask", mask, jnp.bool_, steps, per_step)
    reset = check_flags("reset", reset, jnp.bool_, steps, per_step)
    return lengths, mask, reset


def check_flags(name: str, flags: Any, dtype: Any, shape: tuple[int, ...], meaning: str) -> Any:
    """Checks the shape and the dtype of flags or lengths; returns them as an array, or None."""
    if flags is None:
        return None
    flags = jnp.asarray(flags)
    kind = "int"
    if dtype is jnp.bool_:
        kind = "bool"
    sizes = ", ".join(map(str, shape))
    must = f"`{name}` must be {kind}[{sizes}], {meaning}; got {describe(flags)}."
    if flags.shape != shape:
        # Moves the last axis to the front, or the first axis to the back.
        time_first = flags.shape[-1:] + flags.shape[:-1]
        time_last = flags.shape[1:] + flags.shape[:1]
        if flags.ndim > 1 and shape in (time_first, time_last):
            must += " Is one of them time-major and the other not?"
        raise ValueError(must)
    if not jnp.issubdtype(flags.dtype, dtype):
        if kind == "bool":
            must += " Compare or `.astype(bool)` first."
        raise TypeError(must)
    return flags


def check_input_size(layer: Layer, input_size: int, expected: int) -> None:
    """Checks the number of input features against the number that the layer was made for."""
    if input_size != expected:
        hint = f"Project the inputs to {expected} features first, as with Dense({expected})."
        raise ValueError(f"`input_size` of {layer} must be {expected}; got {input_size}. {hint}")


def check_layer(name: str, layer: Any) -> None:
    """Checks a layer that is a part of another layer."""
    if not isinstance(layer, Layer):
        hint = ""
        if isinstance(layer, type):
            hint = " Construct it first."
        must = "must be a recurrax.Layer, such as LSTMCell(128)"
        raise TypeError(f"`{name}` {must}; got {short(layer)}.{hint}")


def check_rate(name: str, rate: float) -> None:
    """Checks a probability of dropping."""
    if not is_number(rate):
        raise TypeError(f"`{name}` must be a number; got {short(rate)}.")
    if not 0 <= rate < 1:
        raise ValueError(f"`{name}` must be at least 0 and below 1; got {rate}.")


def check_axes(name: str, first: Layer, second: Layer) -> None:
    """Checks that two parts of a layer take inputs with the same number of axes.

    A layer without a state may take any number of axes, or change it.
    """
    if first.feature_ndim == second.feature_ndim:
        return
    # Where a layer mixes several numbers of axes, its own check raises.
    axes, other = _axes_of_cells(first), _axes_of_cells(second)
    if len(axes) == len(other) == 1 and axes != other:
        must = "must take inputs with one number of axes of features"
        got = f"{axes.pop()} for {first} and {other.pop()} for {second}"
        raise ValueError(f"`{name}` {must}; got {got}.")


def _axes_of_cells(layer: Layer) -> set[int]:
    """Returns the numbers of feature axes of all cells in a layer."""
    if layer.parts:
        return set().union(*map(_axes_of_cells, layer.parts))
    if jax.tree.leaves(expected_state(layer, ())):
        return {layer.feature_ndim}
    return set()
