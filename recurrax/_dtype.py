"""Dtypes: products follow the parameters and the inputs; the state keeps its dtype."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Cell, Layer, Params, features


def compute_dtype(layer: Layer, params: Params, xs: Any) -> jnp.dtype:
    """Returns the dtype of matrix products: `layer.dtype`, else from parameters and inputs."""
    dtype = getattr(layer, "dtype", None)
    if dtype is not None:
        return jnp.dtype(dtype)
    dtypes = [features(xs).dtype]
    for leaf in jax.tree.leaves(params):
        # Complex parameters have no part in this: they keep their dtype.
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            dtypes.append(leaf.dtype)
    return promote(*dtypes)


def cast(tree: Any, dtype: jnp.dtype) -> Any:
    """Casts the floating leaves of a pytree."""

    def cast_leaf(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.astype(dtype)
        return leaf

    return jax.tree.map(cast_leaf, tree)


def cast_params(cell: Cell, params: Params, dtype: jnp.dtype) -> Params:
    """Casts the parameters of a cell, except those that `cell.exact` names."""
    exact = set(cell.exact)

    def cast_leaf(path: tuple, leaf: Any) -> Any:
        # A layer may add arrays to the parameters of its cell. So a name may stand anywhere in the
        # path.
        names = {getattr(key, "name", None) for key in path}
        if names & exact:
            return leaf
        return cast(leaf, dtype)

    return jax.tree_util.tree_map_with_path(cast_leaf, params)


def widened(x: jax.Array) -> jax.Array:
    """Casts to float32 or wider, for sums over time and for decays."""
    return x.astype(promote(x.dtype, jnp.float32))


def default_state_dtype(params: Params, xs: Any) -> jnp.dtype:
    """Returns the dtype of a default state: float32, or float64 if parameters or inputs have it."""
    leaves = [features(xs), *jax.tree.leaves(params)]
    dtype = promote(jnp.float32, *(leaf.dtype for leaf in leaves))
    # `finfo` maps a complex dtype to the dtype of its parts.
    return jnp.finfo(dtype).dtype


def promote(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """Returns the dtype that holds all of these, under any promotion rules of the user."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*[jnp.dtype(dtype) for dtype in dtypes])
