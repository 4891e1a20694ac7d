"""A state as one vector of real numbers, and one step as a function of this vector."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._arguments import describe, named_leaves
from recurrax._check import check_inputs, expected_state
from recurrax._dtype import promote
from recurrax._layer import Layer, Params, State, features
from recurrax._scan import step


def flatten_state(layer: Layer, state: State) -> jax.Array:
    """Joins the parts of a state to one vector of real numbers.

    Args:
        layer: the layer of the state.
        state: its state with any leading axes, such as batch and time.

    Returns:
        `[*B, S]`: the parts in the order of `jax.tree.leaves`. A complex part has its real numbers
        before its imaginary ones.

    Raises:
        ValueError: if the state is not of this layer, or the layer has no state.

    Example:
        >>> import recurrax
        >>> from recurrax.analysis import flatten_state
        >>> layer = recurrax.Stack((recurrax.LSTMCell(4), recurrax.GRUCell(3)))
        >>> flatten_state(layer, layer.initial_state((2, 5))).shape  # h and c, then h
        (2, 5, 11)
    """
    batch_shape = state_batch_shape(layer, state, "state")
    parts = []
    # A part may have several axes, such as a matrix memory or an image.
    for leaf, wanted in _pairs(layer, state):
        part = leaf.reshape(*batch_shape, math.prod(wanted.shape))
        if jnp.iscomplexobj(part):
            parts += [part.real, part.imag]
        else:
            parts.append(part)
    dtype = promote(*[part.dtype for part in parts])
    return jnp.concatenate([part.astype(dtype) for part in parts], axis=-1)  # [*B, S]


def unflatten_state(layer: Layer, vector: jax.Array) -> State:
    """Splits a vector into the parts of a state: the inverse of `flatten_state`.

    Args:
        layer: the layer of the state.
        vector: `[*B, S]`, real.

    Returns:
        The state, with leaves `[*B, ...]`.

    Raises:
        ValueError: if S is not the size of the state.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from recurrax.analysis import unflatten_state
        >>> unflatten_state(recurrax.LSTMCell(2), jnp.arange(4.0)).c
        Array([2., 3.], dtype=float32)
    """
    vector = jnp.asarray(vector)
    wanted, structure = jax.tree.flatten(expected_state(layer, ()))
    total = vector_size(layer)
    if not vector.ndim or vector.shape[-1] != total:
        raise ValueError(
            f"`vector` must be [*B, {total}] for the state of {layer}; got {describe(vector)}."
        )
    batch_shape = vector.shape[:-1]
    leaves = []
    # Each part takes the next numbers of the vector.
    begin = 0
    for part in wanted:
        number = math.prod(part.shape)
        leaf = vector[..., begin : begin + number]
        begin += number
        if jnp.issubdtype(part.dtype, jnp.complexfloating):
            # The imaginary parts follow the real ones.
            leaf = lax.complex(leaf, vector[..., begin : begin + number])
            begin += number
        leaves.append(leaf.reshape(*batch_shape, *part.shape))
    return jax.tree.unflatten(structure, leaves)


def vector_size(layer: Layer) -> int:
    """Returns the number S of real numbers in a state without batch axes."""
    total = 0
    for part in jax.tree.leaves(expected_state(layer, ())):
        number = math.prod(part.shape)
        # A complex number is two real numbers.
        if jnp.issubdtype(part.dtype, jnp.complexfloating):
            number *= 2
        total += number
    return total


def next_vector(layer: Layer, params: Params, x: Any, vector: jax.Array) -> jax.Array:
    """Computes the state after one step as a vector `[S]`, from a vector `[S]` and an input `[I]`.

    The plain loop serves every cell, and has every derivative.
    """
    state = unflatten_state(layer, vector)
    after, _ = step(layer, params, x, state, implementation="xla")
    return flatten_state(layer, after)


def state_batch_shape(layer: Layer, state: State, name: str) -> tuple[int, ...]:
    """Checks a state with any leading axes, an argument named `name`, and returns these axes.

    Raises:
        ValueError: if the state is not of this layer, or the layer has no state.
    """
    expected = expected_state(layer, ())
    structure: Any = jax.tree.structure(state)
    if not jax.tree.leaves(expected):
        raise ValueError(f"`layer` must have a state; got {layer}, which has none.")
    if structure != jax.tree.structure(expected):
        raise ValueError(
            f"`{name}` must be {describe(expected)}, the state of {layer}; got {describe(state)}."
        )
    # The first part says which axes lead, and the others must agree.
    batch_shape = None
    paths = list(named_leaves(state))
    for path, (leaf, wanted) in zip(paths, _pairs(layer, state), strict=True):
        axes = leaf.ndim - len(wanted.shape)  # how many axes lead
        if axes < 0 or leaf.shape[axes:] != wanted.shape:
            sizes = ", ".join(["*B", *map(str, wanted.shape)])
            raise ValueError(f"`{name}{path}` must be [{sizes}] for {layer}; got {describe(leaf)}.")
        if batch_shape is None:
            batch_shape = leaf.shape[:axes]
        if leaf.shape[:axes] != batch_shape:
            sizes = ", ".join(map(str, (*batch_shape, *wanted.shape)))
            raise ValueError(
                f"`{name}{path}` must be [{sizes}], with the leading axes of `{name}{paths[0]}`; "
                f"got {describe(leaf)}."
            )
    assert batch_shape is not None
    return batch_shape


def _pairs(layer: Layer, state: State) -> list[tuple[Any, Any]]:
    """Returns each leaf of a state as an array, with the shape that it has without batch axes."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return list(zip(leaves, jax.tree.leaves(expected_state(layer, ())), strict=True))


def check_one_input(layer: Layer, x: Any) -> Any:
    """Checks the input of one step without batch axes, and returns it as arrays.

    Raises:
        ValueError: if the input has batch axes.
        TypeError: if the input is not of a floating dtype.
    """
    x = check_inputs(layer, x, "x")
    if features(x).ndim != layer.feature_ndim:
        raise ValueError(
            f"`x` must be one input [I] without batch axes; got {describe(features(x))}. "
            "Call the function once for each input."
        )
    return x
