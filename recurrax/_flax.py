"""What both Flax frontends share: names of parameters, their places on a mesh, and errors that teach."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from recurrax._arguments import describe
from recurrax._check import check_kinds
from recurrax._layer import Layer, Params, features
from recurrax._params import fitting

Sharding = Mapping[str, tuple] | Callable[[str, tuple[int, ...]], tuple | None]
Kind = TypeVar("Kind")


def names_of(path: Any) -> tuple[str, ...]:
    """`("layers_0", "forward", "kernel")`: a path in a layer's parameters, in Linen's way of naming."""
    names = (f"layers_{key.idx}" if hasattr(key, "idx") else str(getattr(key, "name", key)) for key in path)
    return tuple(names) or ("param",)


def by_name(params: Params) -> dict[tuple[str, ...], Any]:
    """The leaves of a layer's parameters, each by its name."""
    return {names_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def from_names(layer: Layer, leaves: Mapping[tuple[str, ...], Any]) -> Params:
    """The parameters of a layer from their leaves by name.

    Raises:
        ValueError: if for no input size the layer has parameters of these names and shapes.
        TypeError: if they are of another kind of dtype.
    """
    found = _fitting(layer, leaves)
    if found is None:
        shapes = {".".join(name): jax.numpy.shape(leaf) for name, leaf in leaves.items()}
        held = ", ".join(f"{name} [{', '.join(map(str, shape))}]" for name, shape in shapes.items())
        raise ValueError(f"parameters must be those of {layer}; got {held or 'none'}.")
    _, expected = found
    params = jax.tree.unflatten(jax.tree.structure(expected), [leaves[name] for name in by_name(expected)])
    check_kinds("params", params, expected, layer)
    return params


def input_size_of(layer: Layer, leaves: Mapping[tuple[str, ...], Any]) -> int | None:
    """For inputs of how many features a layer has parameters of these names and shapes, or None."""
    found = _fitting(layer, leaves)
    return None if found is None else found[0]


def _fitting(layer: Layer, leaves: Mapping[tuple[str, ...], Any]) -> tuple[int, Params] | None:
    shapes = {name: jax.numpy.shape(leaf) for name, leaf in leaves.items()}
    return fitting(layer, shapes, lambda params: by_name(params).items())


def mesh_axes(layer: Layer, params: Params, sharding: Sharding | None) -> list[tuple | None]:
    """The mesh axes of each leaf of `params`.

    Args:
        layer: the layer, for errors.
        params: its parameters.
        sharding: mesh axes by the name of a parameter, `"kernel"`, or by the end of its path, `"layers_0/kernel"`, of
            which the longest counts; or a function of path and shape.

    Raises:
        TypeError: if `sharding` is neither a mapping nor a function.
        ValueError: if it names a parameter that the layer does not have, or not one mesh axis per array axis.
    """
    leaves = [("/".join(name), leaf) for name, leaf in by_name(params).items()]
    if callable(sharding):
        axes = [sharding(path, leaf.shape) for path, leaf in leaves]
    elif sharding is None or isinstance(sharding, Mapping):
        axes = _axes_by_name(layer, [path for path, _ in leaves], sharding or {})
    else:
        raise TypeError(
            "`sharding` must be a mapping, such as {'kernel': (None, 'model')}, or a function of path and shape; "
            f"got {sharding!r}."
        )
    for (path, leaf), names in zip(leaves, axes, strict=True):
        if names is not None and len(names) != leaf.ndim:
            name = path.split("/")[-1]
            raise ValueError(
                f"`sharding[{name!r}]` must give {leaf.ndim} mesh axes, one for each axis of {path} "
                f"[{', '.join(map(str, leaf.shape))}], None for those that are not sharded; got {names}. Where "
                f"parameters of one name differ in their axes, name them by path, as {path!r}."
            )
    return axes


def _axes_by_name(layer: Layer, paths: list[str], sharding: Mapping[str, tuple]) -> list[tuple | None]:
    def meant(path: str) -> list[str]:
        return [key for key in sharding if f"/{path}".endswith(f"/{key}")]

    if unknown := sharding.keys() - {key for path in paths for key in meant(path)}:
        known = ", ".join(dict.fromkeys([path.split("/")[-1] for path in paths] + paths))
        raise ValueError(f"`sharding` must name parameters of {layer}: {known}; got {', '.join(sorted(unknown))}.")
    keys = [max(meant(path), key=len, default=None) for path in paths]
    return [None if key is None else sharding[key] for key in keys]


def check_features(x: Any, input_size: int) -> None:
    """Checks that inputs have the number of features for which there are parameters.

    Raises:
        ValueError: if they have another.
    """
    size = jax.numpy.shape(features(x))[-1:]
    if size and size[0] != input_size:
        raise ValueError(f"`x` must have {input_size} features, got {size[0]}: it is {describe(features(x))}.")


def teaches(kind: type[Kind]) -> type[Kind]:
    """Lets the constructor of a module say what is wrong with arguments that it does not take."""
    init = kind.__init__
    parameters = inspect.signature(init).parameters
    known = [name for name in parameters if name not in ("self", "parent", "name")]
    places = [name for name in known if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in parameters:
                raise TypeError(f"{kind.__name__} has no argument `{name}`. {_hint(name, known)}")
        if len(args) > len(places) == 1:
            example = f": {kind.__name__}(hidden_size={args[1]!r}, num_layers=...)" if "num_layers" in known else ""
            raise TypeError(
                f"{kind.__name__} takes `{places[0]}` alone by position; got {', '.join(map(repr, args))}. In Linen "
                f"the input size is inferred{example}."
            )
        init(self, *args, **options)

    kind.__init__ = checked  # type: ignore[method-assign]
    return kind


def _hint(name: str, known: list[str]) -> str:
    if name == "device":
        return (
            "JAX places arrays by itself: use `jax.device_put` for one device, `jax.default_device` for all, or "
            "`sharding` for a mesh."
        )
    near = difflib.get_close_matches(name, known, n=1)
    return f"Is `{near[0]}` meant?" if near else f"It has {', '.join(known)}."
