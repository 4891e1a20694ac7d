"""PyTorch's stacked layers in terms of the core: how they are built, and how their states are laid out.

PyTorch lays out the states of all layers and directions as one array `[num_layers*D, *B, H]`, a layer's forward
direction before its backward one; the core has a tuple of layers, each with a state or `Directions` of states.
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
    """The stack of equal cells that PyTorch's `RNN`, `LSTM` and `GRU` are, each with two biases or none."""
    if not isinstance(num_layers, (int, np.integer)) or isinstance(num_layers, bool) or num_layers < 1:
        raise ValueError(f"`num_layers` must be an int of at least 1; got {num_layers!r}.")
    bias, bidirectional = check_flag("bias", bias), check_flag("bidirectional", bidirectional)
    recurrent_bias = bias if recurrent_bias is None else recurrent_bias
    cell = cell_type(hidden_size, bias=bias, recurrent_bias=recurrent_bias, **cell_options)
    layer: Layer = Bidirectional(cell) if bidirectional else cell
    return Stack((layer,) * num_layers, dropout=dropout)


def check_flag(name: str, value: Any) -> bool:
    """Checks an argument that is yes or no: a string such as "False" would count as yes.

    Raises:
        TypeError: if it is neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"`{name}` must be True or False; got {value!r} of type {type(value).__name__}.")
    return bool(value)


def warn_of_dropout(layer: Stack) -> None:
    """Says, as PyTorch does, that dropout between layers does nothing where there is one layer."""
    if layer.dropout and len(layer.layers) == 1:
        warnings.warn(
            "`dropout` acts on the outputs of each layer but the last. With `num_layers=1` there is no such layer, so "
            f"the rate {layer.dropout} has no effect.",
            UserWarning,
            stacklevel=_level_of_the_user(),
        )


def _level_of_the_user() -> int:
    """How many frames lie between the caller of this function and the code that constructs a module."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("recurrax", "flax"):
        frame, level = frame.f_back, level + 1
    return level


def check_lengths(lengths: Any, x: jax.Array, batch_first: bool) -> None:
    """Checks that there is one length per sequence, where the two layouts of `x` are easily confused.

    Raises:
        ValueError: if the lengths are those of `x` in the other layout.
    """
    here, other = x.shape[:-2], x.shape[1:-1]
    layout, hint = "[*B, T, I]", "If `x` is [T, *B, I], construct without `batch_first=True`."
    if not batch_first:
        here, other = other, here
        layout, hint = "[T, *B, I]", "If `x` is [*B, T, I], construct with `batch_first=True`."
    if lengths is not None and jnp.shape(lengths) != here and jnp.shape(lengths) == other:
        raise ValueError(
            f"`lengths` must be int[{', '.join(map(str, here))}], one length per sequence of `x` {describe(x)}, "
            f"which is {layout} here; got {describe(lengths)}. {hint}"
        )


def activation_of(nonlinearity: Any) -> Any:
    """The function that PyTorch's `nonlinearity` names; a function stands for itself.

    Raises:
        ValueError: if the name is neither "tanh" nor "relu".
    """
    if callable(nonlinearity):
        return nonlinearity
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f'`nonlinearity` must be "tanh", "relu" or a function; got {nonlinearity!r}.')
    return NONLINEARITIES[nonlinearity]


def initial_state(layer: Layer, batch_shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """Zeros in PyTorch's layout."""
    return join_state(layer.initial_state(batch_shape, dtype))


def split_state(layer: Layer, state: Any, x: jax.Array, batch_shape: tuple[int, ...]) -> Any:
    """From PyTorch's layout to the core's.

    Raises:
        ValueError: if the state has another structure or shape than the inputs `x` call for.
    """
    if state is None:
        return None
    expected, cells, structure = _layout(layer, batch_shape)
    if isinstance(expected, LSTMState):
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            h, c = (f"[{', '.join(map(str, part.shape))}]" for part in expected)
            raise ValueError(
                f"`state` of an LSTM must be a pair (h, c) of {h} and {c} for `x` {describe(x)}; "
                f"got {describe(state)}. Give zeros for c if there is only h."
            )
        state = LSTMState(*state)  # PyTorch's plain pair (h, c)
    elif hasattr(state, "h"):
        state = state.h  # a GRUState(h), where PyTorch has the array itself
    check_tree("state", state, expected, layer, x)
    rows = [type(cell)(*jax.tree.leaves(jax.tree.map(lambda s, k=k: s[k], state))) for k, cell in enumerate(cells)]
    return jax.tree.unflatten(structure, rows)


# Worked out once for each layer and batch, not at every step of a stream.
@functools.lru_cache(maxsize=4096)
def _layout(layer: Layer, batch_shape: tuple[int, ...]) -> tuple[Any, list[Any], Any]:
    expected = jax.eval_shape(lambda: initial_state(layer, batch_shape, jnp.float32))
    return expected, *jax.tree.flatten(jax.eval_shape(layer.initial_state), is_leaf=_is_cell_state)


def join_state(state: Any) -> Any:
    """From the core's layout to PyTorch's: an `LSTMState` of arrays, or the array `h` itself."""
    cells = jax.tree.leaves(state, is_leaf=_is_cell_state)
    joined = jax.tree.map(lambda *rows: jnp.stack(rows), *cells)
    return joined if isinstance(joined, LSTMState) else joined.h


def _is_cell_state(node: Any) -> bool:
    return hasattr(node, "h") and not isinstance(node, Directions)
