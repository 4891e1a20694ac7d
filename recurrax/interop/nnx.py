"""Flax NNX' cells: one Dense for each product, or one for each gate; and no recurrent bias for a GRU's candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._compose import Bidirectional, Directions, Stack
from recurrax._layer import Layer, Params
from recurrax.cells.elman import ElmanCell, ElmanParams
from recurrax.cells.gru import GRUCell, GRUParams
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.interop._flax import (
    activations,
    check_cells,
    check_directions,
    check_forwards,
    check_plain,
    merge_fn,
    merge_of,
    options,
)
from recurrax.interop._gates import bias_and_candidates, one_bias
from recurrax.interop._support import refuse_loss, require, unsupported

_CELLS = ("SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell")
_COMPOSED = ("RNN", "Bidirectional", "Sequential of RNNs")


def from_nnx(module: Any) -> tuple[Layer, Params]:
    """A recurrent module of Flax NNX as a layer of this package.

    kernel = dense_i.kernel,  recurrent_kernel = dense_h.kernel,  bias = the bias of whichever Dense has one;
    the Dense kernels of `LSTMCell`, one a gate, are joined.

    Args:
        module: a `flax.nnx.SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` or `GRUCell`, an `RNN` of one, a
            `Bidirectional` of two such, or a `Sequential` of these.

    Returns:
        The layer and its parameters. The GRU has no recurrent bias: NNX' candidate lacks it.

    Raises:
        TypeError: if `module` is anything else.
        ValueError: if it has an option that this package has not.

    Example:
        >>> import recurrax
        >>> from flax import nnx
        >>> cell = nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(0))
        >>> layer, params = recurrax.interop.from_nnx(nnx.RNN(cell))
        >>> layer, params.kernel.shape
        (LSTMCell(hidden_size=4), (3, 16))

    References:
        Flax, 2025, https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/recurrent.html
    """
    from flax import nnx

    if type(module) is nnx.RNN:
        check_forwards(module, "its `cell`")
        return from_nnx(module.cell)
    if type(module) is nnx.Bidirectional:
        check_directions(module)
        layers, params = zip(from_nnx(module.forward_rnn.cell), from_nnx(module.backward_rnn.cell), strict=True)
        return Bidirectional(*layers, merge_of(module)), Directions(*params)
    if type(module) is nnx.Sequential:
        layers, params = zip(*map(from_nnx, module.layers), strict=True)
        return Stack(layers), params

    def joined(denses: Sequence[str], part: str) -> jax.Array:
        return jnp.concatenate([getattr(getattr(module, dense), part)[...] for dense in denses], axis=-1)

    def kernels(inputs: Sequence[str], state: Sequence[str]) -> dict[str, jax.Array]:
        return {"kernel": joined(inputs, "kernel"), "recurrent_kernel": joined(state, "kernel")}

    fused = (["dense_i"], ["dense_h"])
    if type(module) is nnx.SimpleCell:
        check_plain(module)
        params = ElmanParams(**kernels(*fused), bias=joined(fused[0], "bias"))
        return ElmanCell(module.hidden_features, **activations(module)), params
    if type(module) is nnx.GRUCell:
        params = GRUParams(**kernels(*fused), bias=joined(fused[0], "bias"))
        return GRUCell(module.hidden_features, recurrent_bias=False, **activations(module)), params
    if type(module) in (nnx.LSTMCell, nnx.OptimizedLSTMCell):
        apart = (["ii", "if_", "ig", "io"], ["hi", "hf", "hg", "ho"])
        inputs, state = apart if type(module) is nnx.LSTMCell else fused
        params = LSTMParams(**kernels(inputs, state), bias=joined(state, "bias"))
        return LSTMCell(module.hidden_features, **activations(module)), params
    raise unsupported("module", module, (f"flax.nnx.{name}" for name in (*_CELLS, *_COMPOSED)))


def to_nnx(layer: Layer, params: Params) -> Any:
    """A layer of this package as a recurrent module of Flax NNX.

    Two biases that are only ever added become their sum, and where there is none NNX gets zeros.

    Args:
        layer: an `ElmanCell`, `LSTMCell` or `GRUCell`, which becomes a cell; a `Bidirectional` of two, or a `Stack` of
            these, which become modules of `flax.nnx.RNN`s.
        params: its parameters.

    Returns:
        The module.

    Raises:
        TypeError: if NNX has no such layer.
        ValueError: if NNX' module lacks an option that the layer has, or a place for the recurrent bias of a GRU's
            candidate where that is not zero.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Bidirectional(recurrax.LSTMCell(4))
        >>> module = recurrax.interop.to_nnx(layer, layer.init(jax.random.key(0), 3))
        >>> module(jax.numpy.ones((2, 7, 3))).shape
        (2, 7, 8)

    References:
        Flax, 2025, https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/recurrent.html
    """
    from flax import nnx

    if isinstance(layer, Stack):
        require(layer, "Flax", dropout=0.0)
        return nnx.Sequential(*map(_walking, layer.layers, params))
    if isinstance(layer, Bidirectional):
        return nnx.Bidirectional(*map(_walking, check_cells(layer), params), **merge_fn(layer))

    if type(layer) is ElmanCell:
        cell_type, biases = nnx.SimpleCell, {"dense_i": one_bias(params)}
    elif type(layer) is LSTMCell:
        require(layer, "flax.nnx.OptimizedLSTMCell", proj_size=0)
        cell_type, biases = nnx.OptimizedLSTMCell, {"dense_h": one_bias(params)}
    elif type(layer) is GRUCell:
        require(layer, "flax.nnx.GRUCell", reset_after=True)
        bias, candidate = bias_and_candidates(params, 3)
        refuse_loss("`recurrent_bias` of the candidate n", candidate, "flax.nnx.GRUCell")
        cell_type, biases = nnx.GRUCell, {"dense_i": bias}
    else:
        raise unsupported("layer", layer, ("ElmanCell", "LSTMCell", "GRUCell", "a Bidirectional or a Stack of these"))
    cell = cell_type(params.kernel.shape[0], layer.hidden_size, **options(layer, params), rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...], cell.dense_h.kernel[...] = params.kernel, params.recurrent_kernel
    for dense, bias in biases.items():
        getattr(cell, dense).bias[...] = bias
    return cell


def _walking(layer: Layer, params: Params) -> Any:
    """NNX walks cells by an RNN around them."""
    from flax import nnx

    module = to_nnx(layer, params)
    return module if isinstance(layer, (Stack, Bidirectional)) else nnx.RNN(module)
