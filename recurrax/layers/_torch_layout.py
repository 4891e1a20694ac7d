"""PyTorch's stacked layers, built from the core, and the layout of their states.

PyTorch keeps the states of all layers and directions in one array, `[num_layers*D, *B, H]`. The
forward direction of a layer comes before its backward direction. The core keeps a tuple with a
state, or `Directions` of states, for each layer.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax._check import check_tree, describe
from recurrax._layer import Layer
from recurrax.cells.affine import AffineCell
from recurrax.cells.lstm import LSTMState
from recurrax.layers.compose import Bidirectional, Directions, Stack

NONLINEARITIES = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def stack(
    cell_type: type[AffineCell],
    hidden_size: int,
    num_layers: int,
    bias: bool,
    dropout: float,
    bidirectional: bool,
    recurrent_bias: bool | None = None,
    **cell_options: Any,
) -> Stack:
    """Builds the stack of PyTorch's `RNN`, `LSTM` and `GRU`, with two biases or none."""
    is_int = isinstance(num_layers, (int, np.integer)) and not isinstance(num_layers, bool)
    if not is_int or num_layers < 1:
        raise ValueError(f"`num_layers` must be an int of at least 1; got {num_layers!r}.")
    bias = check_flag("bias", bias)
    bidirectional = check_flag("bidirectional", bidirectional)
    if recurrent_bias is None:
        recurrent_bias = bias
    cell_options["bias"] = bias
    cell_options["recurrent_bias"] = recurrent_bias
    layer: Layer = cell_type(hidden_size, **cell_options)
    if bidirectional:
        layer = Bidirectional(layer)
    return Stack((layer,) * num_layers, dropout=dropout)


def check_flag(name: str, value: Any) -> bool:
    """Checks an argument that must be True or False: the string "False" would count as True.

    Raises:
        TypeError: if it is neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        kind = type(value).__name__
        raise TypeError(f"`{name}` must be True or False; got {value!r} of type {kind}.")
    return bool(value)


def warn_of_dropout(layer: Stack) -> None:
    """Warns, as PyTorch does, that dropout between layers has no effect for a single layer."""
    if layer.dropout and len(layer.layers) == 1:
        warnings.warn(
            "`dropout` acts on the outputs of each layer but the last. With `num_layers=1` there "
            f"is no such layer, so the rate {layer.dropout} has no effect.",
            UserWarning,
            stacklevel=_level_of_the_user(),
        )


def _level_of_the_user() -> int:
    """Counts the frames between the caller and the user's code that constructs a module."""
    frame, level = inspect.currentframe(), 0
    while frame is not None:
        package = frame.f_globals.get("__name__", "").split(".")[0]
        # The first frame outside of both packages is the user's.
        if package not in ("recurrax", "flax"):
            break
        frame, level = frame.f_back, level + 1
    return level


def check_lengths(lengths: Any, x: jax.Array, batch_first: bool) -> None:
    """Checks that there is one length per sequence: the two layouts of `x` are easily confused.

    Raises:
        ValueError: if the lengths fit `x` in the other layout.
    """
    # The batch axes of `x` in its layout, and in the other layout.
    here, other = x.shape[:-2], x.shape[1:-1]
    layout, hint = "[*B, T, I]", "If `x` is [T, *B, I], construct without `batch_first=True`."
    if not batch_first:
        here, other = other, here
        layout, hint = "[T, *B, I]", "If `x` is [*B, T, I], construct with `batch_first=True`."
    if lengths is None:
        return
    shape = jnp.shape(lengths)
    if shape == other and shape != here:
        sizes = ", ".join(map(str, here))
        raise ValueError(
            f"`lengths` must be int[{sizes}], one length per sequence of `x` {describe(x)}, "
            f"which is {layout} here; got {describe(lengths)}. {hint}"
        )


def activation_of(nonlinearity: Any) -> Any:
    """Returns the function that PyTorch's `nonlinearity` names; a function is returned unchanged.

    Raises:
        ValueError: if the name is neither "tanh" nor "relu".
    """
    if callable(nonlinearity):
        return nonlinearity
    if nonlinearity not in NONLINEARITIES:
        must = 'must be "tanh", "relu" or a function'
        raise ValueError(f"`nonlinearity` {must}; got {nonlinearity!r}.")
    return NONLINEARITIES[nonlinearity]


def initial_state(layer: Layer, batch_shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """Returns zeros in PyTorch's layout."""
    return join_state(layer.initial_state(batch_shape, dtype))


def split_state(layer: Layer, state: Any, x: jax.Array, batch_shape: tuple[int, ...]) -> Any:
    """Converts a state from PyTorch's layout to the core's layout.

    Raises:
        ValueError: if the state has another structure or shape than the inputs `x` require.
    """
    if state is None:
        return None
    expected, cells, structure = _layout(layer, batch_shape)
    if isinstance(expected, LSTMState):
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            h = ", ".join(map(str, expected.h.shape))
            c = ", ".join(map(str, expected.c.shape))
            raise ValueError(
                f"`state` of an LSTM must be a pair (h, c) of [{h}] and [{c}] "
                f"for `x` {describe(x)}; got {describe(state)}. "
                "Give zeros for c if there is only h."
            )
        state = LSTMState(*state)  # PyTorch's plain pair (h, c)
    elif hasattr(state, "h"):
        state = state.h  # a GRUState(h), where PyTorch has the array itself
    check_tree("state", state, expected, layer, x)
    # Row k of `[num_layers*D, *B, H]` is the state of cell k.
    rows = []
    for k, cell in enumerate(cells):
        parts = [part[k] for part in jax.tree.leaves(state)]  # [*B, H] each
        rows.append(type(cell)(*parts))
    return jax.tree.unflatten(structure, rows)


# The work is done once for each layer and batch, not at every step of a stream.
@functools.lru_cache(maxsize=4096)
def _layout(layer: Layer, batch_shape: tuple[int, ...]) -> tuple[Any, list[Any], Any]:
    """Returns PyTorch's state as shapes, and the states of the cells with their structure."""
    expected = jax.eval_shape(lambda: initial_state(layer, batch_shape, jnp.float32))
    states = jax.eval_shape(layer.initial_state)
    cells, structure = jax.tree.flatten(states, is_leaf=_is_cell_state)
    return expected, cells, structure


def join_state(state: Any) -> Any:
    """Converts a state to PyTorch's layout: an `LSTMState` of arrays, or the array `h`."""
    cells = jax.tree.leaves(state, is_leaf=_is_cell_state)
    joined = jax.tree.map(lambda *rows: jnp.stack(rows), *cells)  # [num_layers*D, *B, H]
    if isinstance(joined, LSTMState):
        return joined
    return joined.h


def _is_cell_state(node: Any) -> bool:
    return hasattr(node, "h") and not isinstance(node, Directions)
