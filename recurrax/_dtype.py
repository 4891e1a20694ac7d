"""Which dtype what is computed in: products follow parameters and inputs, the state keeps its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Cell, Layer, Params, features


def compute_dtype(layer: Layer, params: Params, xs: Any) -> jnp.dtype:
    """The dtype of the layer's matrix products: its own, or that of the parameters and the inputs together."""
    if (dtype := getattr(layer, "dtype", None)) is not None:
        return jnp.dtype(dtype)
    floats = [leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return promote(features(xs).dtype, *floats)


def cast(tree: Any, dtype: jnp.dtype) -> Any:
    """The floating leaves of a pytree in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)


def cast_params(cell: Cell, params: Params, dtype: jnp.dtype) -> Params:
    """The parameters in another dtype, but for those that the cell says are no part of a matrix product."""
    exact = set(cell.exact)

    def one(path: tuple, leaf: Any) -> Any:
        # Where a layer adds arrays of its own, the parameters of the cell stand deeper than at the top.
        names = {getattr(key, "name", None) for key in path}
        return leaf if names & exact else cast(leaf, dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def widened(x: jax.Array) -> jax.Array:
    """At least float32: for what is summed up over time, and for the decays that say for how long."""
    return x.astype(promote(x.dtype, jnp.float32))


def default_state_dtype(params: Params, xs: Any) -> jnp.dtype:
    """The dtype of a state that nobody gave: float32, or float64 where parameters or inputs have it."""
    dtype = promote(jnp.float32, features(xs).dtype, *(leaf.dtype for leaf in jax.tree.leaves(params)))
    return jnp.finfo(dtype).dtype


def promote(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype that holds all of these, whatever the user's promotion rules."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*(jnp.dtype(dtype) for dtype in dtypes))
