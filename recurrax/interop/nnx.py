"""Flax NNX' cells: a Dense for each product or gate; a GRU's candidate has no recurrent bias."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Layer, Params
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.interop._flax import (
    KINDS,
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
from recurrax.layers.compose import Bidirectional, Directions, Stack

_OURS: dict[str, Any] = {
    "SimpleCell": ElmanCell,
    "LSTMCell": LSTMCell,
    "OptimizedLSTMCell": LSTMCell,
    "GRUCell": GRUCell,
}


def from_nnx(module: Any) -> tuple[Layer, Params]:
    """A recurrent module of Flax NNX as a layer of this package.

    kernel = dense_i.kernel,  recurrent_kernel = dense_h.kernel,
    bias = dense_i.bias or dense_h.bias

    `LSTMCell` has a Dense for each gate. Their kernels are joined.

    Args:
        module: a `flax.nnx.SimpleCell`, `LSTMCell`, `OptimizedLSTMCell` or `GRUCell`, an `RNN` of
            one, a `Bidirectional` of two such, or a `Sequential` of these.

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
        ahead: Any = module.forward_rnn
        back: Any = module.backward_rnn
        forward, forward_params = from_nnx(ahead.cell)
        backward, backward_params = from_nnx(back.cell)
        both = Bidirectional(forward, backward, merge_of(module))
        return both, Directions(forward_params, backward_params)
    if type(module) is nnx.Sequential:
        layers, own = zip(*map(from_nnx, module.layers), strict=True)
        return Stack(layers), own

    # All else must be a cell. A subclass may compute anything, so the type itself counts.
    name = type(module).__name__
    if name not in _OURS or type(module) is not getattr(nnx, name):
        names = (*_OURS, "RNN", "Bidirectional", "Sequential of these")
        raise unsupported("module", module, map("flax.nnx.{}".format, names))
    if type(module) is nnx.SimpleCell:
        check_plain(module)
    ours = _OURS[name]
    kind = KINDS[ours]

    def joined(side: str, part: str) -> jax.Array:
        names = [f"dense_{side}"]
        if type(module) is nnx.LSTMCell:
            # `if` is a word of Python, so NNX writes `if_`.
            names = [f"{side}{gate}".replace("if", "if_") for gate in kind.gates]
        arrays = [getattr(getattr(module, name), part)[...] for name in names]
        return jnp.concatenate(arrays, axis=-1)

    kernel = joined("i", "kernel")
    recurrent_kernel = joined("h", "kernel")
    bias = joined(kind.biased, "bias")
    cell = ours(module.hidden_features, recurrent_bias=False, **activations(module))
    return cell, ours.params_type(kernel, recurrent_kernel, bias)


def to_nnx(layer: Layer, params: Params) -> Any:
    """A layer of this package as a recurrent module of Flax NNX.

    Two biases that the cell only adds become their sum. A missing bias becomes zeros.

    Args:
        layer: an `ElmanCell`, `LSTMCell` or `GRUCell`, which becomes a cell; a `Bidirectional` of
            two, or a `Stack` of these, which become modules with a `flax.nnx.RNN` each.
        params: its parameters.

    Returns:
        The module.

    Raises:
        TypeError: if NNX has no such layer.
        ValueError: if NNX' module lacks an option that the layer has, or a place for the recurrent
            bias of a GRU's candidate where that is not zero.

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
        return nnx.Sequential(*map(_runnable, layer.layers, params))
    if isinstance(layer, Bidirectional):
        parts = map(_runnable, check_cells(layer), params)
        return nnx.Bidirectional(*parts, **merge_fn(layer))
    if type(layer) not in _OURS.values():
        supported = ("ElmanCell", "LSTMCell", "GRUCell", "a Bidirectional or a Stack of these")
        raise unsupported("layer", layer, supported)
    return _to_dense(layer, params)


def _to_dense(layer: Any, params: Params) -> Any:
    from flax import nnx

    kind = KINDS[type(layer)]
    target = f"flax.nnx.{kind.name}"
    require(layer, target, **kind.requires)
    bias = one_bias(params)
    if kind.resets:
        bias, candidate = bias_and_candidates(params, len(kind.gates))
        refuse_loss("`recurrent_bias` of the candidate n", candidate, target)
    sizes = params.kernel.shape[0], layer.hidden_size
    # NNX draws weights in any case. Ours take their place.
    make = getattr(nnx, kind.name)
    cell = make(*sizes, **options(layer, params), rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = params.kernel
    cell.dense_h.kernel[...] = params.recurrent_kernel
    getattr(cell, f"dense_{kind.biased}").bias[...] = bias
    return cell


def _runnable(layer: Layer, params: Params) -> Any:
    """A module that runs over a sequence. NNX needs an RNN with a cell in it."""
    from flax import nnx

    module = to_nnx(layer, params)
    if isinstance(layer, (Stack, Bidirectional)):
        return module
    return nnx.RNN(module)
