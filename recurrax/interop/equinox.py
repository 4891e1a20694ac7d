"""Equinox' cells: gates in this package's order, transposed kernels, one bias for both products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Cell, Params
from recurrax.cells.gru import GRUCell, GRUParams
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.interop._gates import bias_and_candidates, has_bias, last_of, one_bias
from recurrax.interop._support import library, require, unsupported


def from_equinox(cell: Any) -> tuple[Cell, Params]:
    """A cell of Equinox as one of this package.

    kernel = weight_ihᵀ,  recurrent_kernel = weight_hhᵀ,  bias = bias,
    recurrent_bias = (0, 0, bias_n) for a GRU

    Args:
        cell: an `equinox.nn.LSTMCell` or `GRUCell`.

    Returns:
        The cell, and its parameters: the arrays of `cell`, transposed.

    Raises:
        TypeError: if `cell` is anything else.

    Example:
        >>> import equinox, jax, recurrax
        >>> cell = equinox.nn.GRUCell(3, 4, key=jax.random.key(0))
        >>> layer, params = recurrax.interop.from_equinox(cell)
        >>> layer, params.kernel.shape
        (GRUCell(hidden_size=4), (3, 12))

    References:
        Equinox, 2025, https://docs.kidger.site/equinox/api/nn/rnn/
    """
    nn = library("equinox.nn", "equinox")
    if type(cell) not in (nn.LSTMCell, nn.GRUCell):
        raise unsupported("cell", cell, ("equinox.nn.LSTMCell", "equinox.nn.GRUCell"))
    # Equinox multiplies from the left.
    kernel, recurrent_kernel = cell.weight_ih.T, cell.weight_hh.T
    if type(cell) is nn.LSTMCell:
        lstm = LSTMCell(cell.hidden_size, bias=cell.use_bias)
        return lstm, LSTMParams(kernel, recurrent_kernel, cell.bias)
    # Equinox adds the recurrent bias to the candidate n alone.
    recurrent_bias = None
    if cell.use_bias:
        recurrent_bias = last_of(3, cell.bias_n)
    gru = GRUCell(cell.hidden_size, bias=cell.use_bias)
    return gru, GRUParams(kernel, recurrent_kernel, cell.bias, recurrent_bias)


def to_equinox(layer: Any, params: Params) -> Any:
    """A cell of this package as a cell of Equinox.

    Two biases that the cell only adds become their sum.

    Args:
        layer: an `LSTMCell` or a `GRUCell`, with the usual activations.
        params: its parameters.

    Returns:
        An `equinox.nn.LSTMCell` or `GRUCell`.

    Raises:
        TypeError: if Equinox has no such layer; it has cells alone.
        ValueError: if the cell has an option that Equinox' has not.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LSTMCell(4)
        >>> recurrax.interop.to_equinox(cell, cell.init(jax.random.key(0), 3)).weight_ih.shape
        (16, 3)

    References:
        Equinox, 2025, https://docs.kidger.site/equinox/api/nn/rnn/
    """
    if type(layer) not in (LSTMCell, GRUCell):
        hint = "Convert the cells of a composed layer one by one."
        raise unsupported("layer", layer, ("LSTMCell", "GRUCell"), hint)
    target = f"equinox.nn.{type(layer).__name__}"
    require(layer, target, activation=jnp.tanh, gate_activation=jax.nn.sigmoid)
    weights = {
        "weight_ih": params.kernel.T,
        "weight_hh": params.recurrent_kernel.T,
    }
    if isinstance(layer, LSTMCell):
        require(layer, target, proj_size=0)
        biases = {"bias": one_bias(params)}
    else:
        require(layer, target, reset_after=True)
        bias, candidate = bias_and_candidates(params, 3)
        biases = {"bias": bias, "bias_n": candidate}
    if has_bias(params):
        weights |= biases

    equinox = library("equinox", "equinox")
    make = getattr(equinox.nn, type(layer).__name__)
    # Equinox draws weights in any case. `tree_at` puts ours in their place.
    cell = make(
        params.kernel.shape[0],
        layer.hidden_size,
        has_bias(params),
        params.kernel.dtype,
        key=jax.random.key(0),
    )

    def places(cell: Any) -> list[Any]:
        return [getattr(cell, name) for name in weights]

    return equinox.tree_at(places, cell, [*weights.values()])
