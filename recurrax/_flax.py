"""Code for both Flax frontends: names of parameters, mesh axes, and errors that explain."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from recurrax._arguments import describe, short
from recurrax._check import check_kinds, expected_state
from recurrax._layer import Layer, Params, features
from recurrax._params import fitting

Sharding = Mapping[str, tuple] | Callable[[str, tuple[int, ...]], tuple | None]
Kind = TypeVar("Kind")


def names_of(path: Any) -> tuple[str, ...]:
    """Names a path in the parameters as Linen does: `("layers_0", "forward", "kernel")`."""
    names = []
    for key in path:
        if hasattr(key, "idx"):
            names.append(f"layers_{key.idx}")
        else:
            names.append(str(getattr(key, "name", key)))
    # The parameters of a layer may be a single array, whose path is empty.
    return tuple(names) or ("param",)


def by_name(params: Params) -> dict[tuple[str, ...], Any]:
    """Returns the leaves of a layer's parameters by name."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {names_of(path): leaf for path, leaf in leaves}


def from_names(layer: Layer, leaves: Mapping[tuple[str, ...], Any]) -> Params:
    """Builds the parameters of a layer from their leaves by name.

    Raises:
        ValueError: if the layer has parameters of these names and shapes for no input size.
        TypeError: if a leaf has another kind of dtype.
    """
    found = _fitting(layer, leaves)
    if found is None:
        held = []
        for name, leaf in leaves.items():
            axes = ", ".join(map(str, jax.numpy.shape(leaf)))
            held.append(f"{'.'.join(name)} [{axes}]")
        got = ", ".join(held) or "none"
        raise ValueError(f"parameters must be those of {layer}; got {got}.")
    _, expected = found
    # The leaves in the order of the layer's own parameters.
    ordered = map(leaves.get, by_name(expected))
    params = jax.tree.unflatten(jax.tree.structure(expected), ordered)
    check_kinds("params", params, expected, layer)
    return params


def input_size_of(layer: Layer, leaves: Mapping[tuple[str, ...], Any]) -> int | None:
    """Returns the input size for which a layer has these names and shapes, or None."""
    found = _fitting(layer, leaves)
    if found is None:
        return None
    return found[0]


def _fitting(layer: Layer, leaves: Mapping[tuple[str, ...], Any]) -> tuple[int, Params] | None:
    shapes = {}
    for name, leaf in leaves.items():
        shapes[name] = jax.numpy.shape(leaf)
    return fitting(layer, shapes, lambda params: by_name(params).items())


def mesh_axes(layer: Layer, params: Params, sharding: Sharding | None) -> list[tuple | None]:
    """Returns the mesh axes of each leaf of `params`.

    Args:
        layer: the layer, for errors.
        params: its parameters.
        sharding: mesh axes by the name of a parameter, `"kernel"`, or by the end of its path,
            `"layers_0/kernel"`. The longest fitting end counts. Or a function of path and shape.

    Raises:
        TypeError: if `sharding` is neither a mapping nor a function.
        ValueError: if it names a parameter that the layer does not have, or does not give one mesh
            axis for each array axis.
    """
    named = by_name(params)
    paths = list(map("/".join, named))
    shapes = [leaf.shape for leaf in named.values()]
    # Each form of `sharding` gives one entry for each leaf, in the order of the leaves.
    if callable(sharding):
        axes = list(map(sharding, paths, shapes))
    elif sharding is None or isinstance(sharding, Mapping):
        axes = _axes_by_name(layer, paths, sharding or {})
    else:
        raise TypeError(
            "`sharding` must be a mapping, such as {'kernel': (None, 'model')}, "
            "or a function of path and shape; "
            f"got {sharding!r}."
        )
    for path, shape, names in zip(paths, shapes, axes, strict=True):
        # None leaves an array without a sharding.
        if names is not None and len(names) != len(shape):
            name = path.split("/")[-1]
            sizes = ", ".join(map(str, shape))
            raise ValueError(
                f"`sharding[{name!r}]` must give {len(shape)} mesh axes, "
                f"one for each axis of {path} [{sizes}], "
                f"None for those that are not sharded; got {names}. "
                "Where parameters of one name differ in their axes, "
                f"name them by path, as {path!r}."
            )
    return axes


def _axes_by_name(
    layer: Layer, paths: list[str], sharding: Mapping[str, tuple]
) -> list[tuple | None]:
    """Looks up the mesh axes of each path by the longest key that ends it."""
    # The keys that end no path so far, and the axes of each path.
    unknown = set(sharding)
    axes: list[tuple | None] = []
    for path in paths:
        keys = [key for key in sharding if f"/{path}".endswith(f"/{key}")]
        unknown.difference_update(keys)
        longest = max(keys, key=len, default=None)
        if longest is None:
            axes.append(None)
        else:
            axes.append(sharding[longest])
    if unknown:
        names = [path.split("/")[-1] for path in paths]
        known = ", ".join(dict.fromkeys(names + paths))
        got = ", ".join(sorted(unknown))
        raise ValueError(f"`sharding` must name parameters of {layer}: {known}; got {got}.")
    return axes


def check_features(x: Any, input_size: int) -> None:
    """Checks that the inputs have the number of features of the parameters.

    Raises:
        ValueError: if they have another number.
    """
    x = features(x)
    size = jax.numpy.shape(x)[-1:]
    if size and size[0] != input_size:
        raise ValueError(
            f"`x` must have {input_size} features, got {size[0]}: it is {describe(x)}."
        )


def as_state(layer: Layer, state: Any) -> tuple[Any, bool]:
    """Takes a bare array for the state of a layer whose state is one array, such as a GRU.

    Returns:
        The state in the structure of the layer, and whether it was a bare array.
    """
    structure: Any = jax.tree.structure(expected_state(layer, ()))
    if structure.num_leaves != 1 or state is None or not jax.tree_util.all_leaves([state]):
        return state, False
    return jax.tree.unflatten(structure, [state]), True


def pair_of(inputs: Any) -> tuple[Any, jax.Array]:
    """Takes the pair `(xs, resets)` of a `ScannedRNN` apart. Flags may be numbers, 0 for False.

    Raises:
        TypeError: if it is no pair.
    """
    if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
        raise TypeError(
            "`inputs` must be a pair (xs, resets) of arrays [T, *B, I] and [T, *B]; "
            f"got {short(inputs)}. Without resets use `Recurrent`."
        )
    xs, resets = inputs
    return xs, jax.numpy.asarray(resets).astype(bool)


def teaches(kind: type[Kind]) -> type[Kind]:
    """Makes the constructor of a module explain arguments that it does not take."""
    init = kind.__init__
    parameters = inspect.signature(init).parameters
    known = [name for name in parameters if name not in ("self", "parent", "name")]
    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
    places = [name for name in known if parameters[name].kind is by_position]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in parameters:
                hint = _hint(name, known)
                raise TypeError(f"{kind.__name__} has no argument `{name}`. {hint}")
        if len(args) > len(places) == 1:
            # PyTorch's users write the input size first: `LSTM(input_size, hidden_size)`.
            example = ""
            if "num_layers" in known:
                example = f": {kind.__name__}(hidden_size={args[1]!r}, num_layers=...)"
            got = ", ".join(map(repr, args))
            raise TypeError(
                f"{kind.__name__} takes `{places[0]}` alone by position; got {got}. "
                f"In Linen the input size is inferred{example}."
            )
        init(self, *args, **options)

    kind.__init__ = checked  # type: ignore[method-assign]
    return kind


def _hint(name: str, known: list[str]) -> str:
    """Returns the argument that the user may have meant."""
    if name == "device":
        return (
            "JAX places arrays by itself: use `jax.device_put` for one device, "
            "`jax.default_device` for all, or `sharding` for a mesh."
        )
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"Is `{near[0]}` meant?"
    return f"It has {', '.join(known)}."
