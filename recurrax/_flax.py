"""What parameters are called outside of the core, and where they are to lie on a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from recurrax._check import check_kinds
from recurrax._fitting import fitting
from recurrax._layer import Layer, Params


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
    shapes = {name: jax.numpy.shape(leaf) for name, leaf in leaves.items()}
    found = fitting(layer, shapes, lambda params: by_name(params).items())
    if found is not None:
        _, expected = found
        arrays = [leaves[name] for name in by_name(expected)]
        params = jax.tree.unflatten(jax.tree.structure(expected), arrays)
        check_kinds("params", params, expected, layer)
        return params
    held = ", ".join(f"{'.'.join(name)} [{', '.join(map(str, shape))}]" for name, shape in shapes.items())
    raise ValueError(f"parameters must be those of {layer}; got {held or 'none'}.")


def mesh_axes(layer: Layer, params: Params, sharding: Mapping[str, tuple] | None) -> list[tuple | None]:
    """The mesh axes of each leaf of `params`, as `sharding` gives them by the name of a field.

    Raises:
        ValueError: if `sharding` names a parameter that the layer does not have, or not one mesh axis per array axis.
    """
    sharding = sharding or {}
    fields = [(names_of(path)[-1], leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    if unknown := sharding.keys() - {name for name, _ in fields}:
        known = ", ".join(dict.fromkeys(name for name, _ in fields))
        raise ValueError(f"`sharding` must name parameters of {layer}: {known}; got {', '.join(sorted(unknown))}.")
    for name, leaf in fields:
        if name in sharding and len(sharding[name]) != leaf.ndim:
            raise ValueError(
                f"`sharding[{name!r}]` must give {leaf.ndim} mesh axes, one for each axis of "
                f"[{', '.join(map(str, leaf.shape))}], None for those that are not sharded; got {sharding[name]}."
            )
    return [sharding.get(name) for name, _ in fields]
