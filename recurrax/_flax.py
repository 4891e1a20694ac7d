"""What both Flax frontends need beside the core: the names of parameters, and where these are to lie on a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from recurrax._layer import Layer, Params


def names_of(path: Any) -> tuple[str, ...]:
    """`("layers_0", "forward", "kernel")`: a path in a layer's parameters, in Linen's way of naming."""
    names = (f"layers_{key.idx}" if hasattr(key, "idx") else str(getattr(key, "name", key)) for key in path)
    return tuple(names) or ("param",)


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
