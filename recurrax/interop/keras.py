"""Keras 3: gates z, r, n for a GRU, activations by name, and a cell in every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._layer import Cell, Layer, Params
from recurrax.cells.convolutional import ConvLSTMCell
from recurrax.cells.elman import ElmanCell, ElmanParams
from recurrax.cells.gru import GRUCell, GRUParams
from recurrax.cells.lstm import LSTMCell, LSTMParams
from recurrax.interop._gates import has_bias, one_bias, reordered, two_biases
from recurrax.interop._keras_activations import ACTIVATIONS
from recurrax.interop._support import input_shape, library, require, to_jax, unsupported
from recurrax.layers.compose import Bidirectional, Directions, Stack

_FOREIGN = (
    "SimpleRNN",
    "LSTM",
    "GRU",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "an RNN of such cells",
    "a cell",
    "StackedRNNCells",
    "Bidirectional",
    "a Sequential of these",
)


def from_keras(layer: Any) -> tuple[Layer, Params]:
    """A built recurrent layer of Keras 3, on any backend, as a layer of this package.

    The parameters are Keras' weights. The gates of a GRU go from z, r, n to r, z, n. With
    `reset_after` the two rows of its bias become bias and recurrent_bias.

    The result is the layer at inference. `dropout` and `recurrent_dropout` stay behind;
    `docs/regularization.md` tells how to add them. With `return_sequences=False` Keras' output is
    the output of `scan` at the last unmasked step. Masked steps put out zeros here. Keras repeats
    the output before, unless `zero_output_for_mask`.

    Args:
        layer: a `SimpleRNN`, `LSTM`, `GRU`, `ConvLSTM1D`, `ConvLSTM2D` or `ConvLSTM3D`, a cell of
            one, an `RNN` of such a cell or of several, `StackedRNNCells`, a `Bidirectional`, or a
            `Sequential` of these.

    Returns:
        The layer and its parameters.

    Raises:
        TypeError: if `layer` is anything else.
        ValueError: if it is not built, or has an option that this package has not.

    Example:
        >>> import keras, recurrax
        >>> gru = keras.layers.GRU(4, recurrent_initializer="glorot_uniform")
        >>> theirs = keras.layers.Bidirectional(gru)
        >>> theirs.build((None, None, 3))
        >>> layer, params = recurrax.interop.from_keras(theirs)
        >>> layer.forward, params.backward.kernel.shape
        (GRUCell(hidden_size=4), (3, 12))

    References:
        Keras, 2025, https://keras.io/api/layers/recurrent_layers/
    """
    keras = library("keras", "keras")
    if isinstance(layer, keras.Sequential):
        for part in layer.layers[:-1]:
            if not getattr(part, "return_sequences", True):
                must = "must be True for all layers but the last"
                raise ValueError(f"`return_sequences` {must}; got False in {part.name!r}.")
        return _stacked(layer.layers)
    if isinstance(layer, keras.layers.StackedRNNCells):
        return _stacked(layer.cells)
    if isinstance(layer, keras.layers.Bidirectional):
        return _from_bidirectional(layer)
    # A layer of Keras runs its cell. Only the direction belongs to the layer.
    if isinstance(layer, keras.layers.RNN):
        if layer.go_backwards:
            raise ValueError(
                "`go_backwards` must be False; got True. "
                "Convert the layer's `cell` and pass `reverse=True` to `scan`. "
                "Then each output stays with its input; in Keras the last one comes first."
            )
        return from_keras(layer.cell)
    name = type(layer).__name__
    if name not in _FROM:
        raise unsupported("layer", layer, _FOREIGN)
    if not layer.built:
        raise ValueError(
            f"`layer` must be built, so that it has weights; got {layer!r}. "
            "Call it, or its `build(shape)`."
        )
    return _FROM[name](layer)


def _from_bidirectional(layer: Any) -> tuple[Bidirectional, Directions]:
    backwards = layer.forward_layer.go_backwards
    if layer.merge_mode is None or backwards:
        raise ValueError(
            "`merge_mode` must be concat, sum, mul or ave, and the forward layer must not go "
            f"backwards; got {layer.merge_mode!r}, `go_backwards={backwards}`. "
            "Convert both layers' cells."
        )
    forward, forward_params = from_keras(layer.forward_layer.cell)
    backward, backward_params = from_keras(layer.backward_layer.cell)
    params = Directions(forward_params, backward_params)
    return Bidirectional(forward, backward, layer.merge_mode), params


def _stacked(parts: list) -> tuple[Stack, tuple[Params, ...]]:
    layers, params = zip(*map(from_keras, parts), strict=True)
    return Stack(layers), params


def _activation(function: Any) -> Callable[[jax.Array], jax.Array]:
    name = getattr(function, "__name__", repr(function))
    if name not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(ACTIVATIONS)}; got {name}.")
    return ACTIVATIONS[name]


def _weights(cell: Any) -> dict[str, jax.Array]:
    import keras

    weights = {}
    for name in ("kernel", "recurrent_kernel", "bias"):
        variable = getattr(cell, name)
        if variable is not None:
            weights[name] = to_jax(keras.ops.convert_to_numpy(variable.value))
    return weights


def _from_elman(cell: Any) -> tuple[Cell, Params]:
    layer = ElmanCell(cell.units, _activation(cell.activation), bias=cell.use_bias)
    return layer, ElmanParams(**_weights(cell))


def _gated(cell: Any) -> dict[str, Any]:
    # The options that every cell with gates has.
    return {
        "activation": _activation(cell.activation),
        "gate_activation": _activation(cell.recurrent_activation),
        "bias": cell.use_bias,
    }


def _from_lstm(cell: Any) -> tuple[Cell, Params]:
    layer = LSTMCell(cell.units, **_gated(cell))
    return layer, LSTMParams(**_weights(cell))


def _from_gru(cell: Any) -> tuple[Cell, Params]:
    weights = _weights(cell)
    if cell.reset_after and cell.use_bias:
        weights["bias"], weights["recurrent_bias"] = weights["bias"]
    params = reordered(GRUParams(**weights), "zrn", "rzn")
    layer = GRUCell(cell.units, cell.reset_after, **_gated(cell))
    return layer, params


def _from_conv(cell: Any) -> tuple[Cell, Params]:
    if cell.data_format != "channels_last":
        raise ValueError(
            f'`data_format` must be "channels_last"; got {cell.data_format!r}. '
            "Build the layer with that one and give it these weights: they are the same in both."
        )
    layer = ConvLSTMCell(
        cell.filters,
        cell.spatial_dims,
        cell.kernel_size,
        strides=cell.strides,
        padding=cell.padding,
        dilation=cell.dilation_rate,
        **_gated(cell),
    )
    return layer, LSTMParams(**_weights(cell))


_FROM: dict[str, Callable[[Any], tuple[Cell, Params]]] = {
    "SimpleRNNCell": _from_elman,
    "LSTMCell": _from_lstm,
    "GRUCell": _from_gru,
    "ConvLSTMCell": _from_conv,
}


def to_keras(layer: Layer, params: Params) -> Any:
    """A layer of this package as a built layer of Keras 3, on whichever backend runs.

    Two biases that the cell only adds become their sum. A GRU with `reset_after` gets zeros for a
    missing bias.

    Args:
        layer: an `ElmanCell`, `LSTMCell`, `GRUCell` or `ConvLSTMCell`, a `Bidirectional` of two, or
            a `Stack` of these.
        params: its parameters.

    Returns:
        A `SimpleRNN`, `LSTM`, `GRU` or `ConvLSTM`, or a `Bidirectional` of two, or for a stack of
        cells an `RNN`, each with `return_sequences`, `return_state` and `zero_output_for_mask`; for
        a stack of other layers a `Sequential`, which cannot return states.

    Raises:
        TypeError: if Keras has no such layer.
        ValueError: if Keras' layer lacks an option that the layer has.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LSTMCell(4)
        >>> theirs = recurrax.interop.to_keras(cell, cell.init(jax.random.key(0), 3))
        >>> [weight.shape for weight in theirs.weights]
        [(3, 16), (4, 16), (16,)]

    References:
        Keras, 2025, https://keras.io/api/layers/recurrent_layers/
    """
    library("keras", "keras")
    made, weights = _made(layer, params, return_state=True)
    made.build((None, None, *input_shape(layer), weights[0].shape[-2]))
    made.set_weights(weights)
    return made


def _made(layer: Layer, params: Params, return_state: bool) -> tuple[Any, list[np.ndarray]]:
    """A layer of Keras before its build, and its weights in Keras' order."""
    import keras

    options: dict[str, Any] = {
        "return_sequences": True,
        "return_state": return_state,
        "zero_output_for_mask": True,
    }
    if isinstance(layer, Stack):
        return _made_stack(layer, params, options)
    if isinstance(layer, Bidirectional):
        # Keras' second layer runs from the last step to the first.
        forward, ahead = _cell(layer.forward, params.forward, **options)
        backward, back = _cell(layer.backward, params.backward, go_backwards=True, **options)
        made = keras.layers.Bidirectional(forward, layer.merge, backward_layer=backward)
        return made, [*ahead, *back]
    return _cell(layer, params, **options)


def _made_stack(
    layer: Stack, params: Params, options: dict[str, Any]
) -> tuple[Any, list[np.ndarray]]:
    import keras

    require(layer, "Keras", dropout=0.0)
    # One RNN of Keras runs several cells. Other layers stand one after another.
    only_cells = all(map(_is_plain_cell, layer.layers))
    parts: list[Any] = []
    weights: list[np.ndarray] = []
    for part, own in zip(layer.layers, params, strict=True):
        if only_cells:
            made, arrays = _cell(part, own, suffix="Cell")
        else:
            made, arrays = _made(part, own, return_state=False)
        parts.append(made)
        weights += arrays
    if only_cells:
        return keras.layers.RNN(parts, **options), weights
    return keras.Sequential(parts), weights


def _is_plain_cell(layer: Layer) -> bool:
    return isinstance(layer, Cell) and layer.feature_ndim == 1


def _cell(
    layer: Any, params: Params, suffix: str = "", **options: Any
) -> tuple[Any, list[np.ndarray]]:
    """A layer of Keras with one cell, or with the suffix "Cell" the cell alone."""
    import keras

    if type(layer) not in _TO:
        supported = [*(cell.__name__ for cell in _TO), "a Bidirectional or a Stack of these"]
        raise unsupported("layer", layer, supported)
    name, like, params = _TO[type(layer)](layer, params)
    like["use_bias"] = has_bias(params)
    like["dtype"] = params.kernel.dtype.name
    # Keras cannot draw its default in bfloat16.
    like["recurrent_initializer"] = "glorot_uniform"
    weights = [params.kernel, params.recurrent_kernel]
    if has_bias(params):
        weights.append(params.bias)
    make = getattr(keras.layers, name + suffix)
    made = make(layer.hidden_size, **like, **options)
    return made, list(map(np.asarray, weights))


def _named(activation: Any) -> str:
    known = []
    for name, function in ACTIVATIONS.items():
        if activation == function:
            return name
        known.append(getattr(function, "__name__", name))
    must = f"must be one of {', '.join(known)} for Keras"
    raise ValueError(f"`activation` of `layer` {must}; got {activation!r}.")


def _with_one_bias(params: Any) -> Any:
    if not has_bias(params):
        return params
    return params._replace(bias=one_bias(params), recurrent_bias=None)


def _to_elman(layer: ElmanCell, params: ElmanParams) -> tuple[str, dict[str, Any], Params]:
    like = {"activation": _named(layer.activation)}
    return "SimpleRNN", like, _with_one_bias(params)


def _activations(layer: Any) -> dict[str, Any]:
    return {
        "activation": _named(layer.activation),
        "recurrent_activation": _named(layer.gate_activation),
    }


def _to_lstm(layer: LSTMCell, params: LSTMParams) -> tuple[str, dict[str, Any], Params]:
    require(layer, "Keras' LSTM", proj_size=0)
    return "LSTM", _activations(layer), _with_one_bias(params)


def _to_gru(layer: GRUCell, params: GRUParams) -> tuple[str, dict[str, Any], Params]:
    like = _activations(layer) | {"reset_after": layer.reset_after}
    if layer.reset_after and has_bias(params):
        # Keras keeps two biases as the rows of one: [2, 3 * H].
        rows = jnp.stack(two_biases(params))
        params = params._replace(bias=rows, recurrent_bias=None)
    else:
        params = _with_one_bias(params)
    return "GRU", like, reordered(params, "rzn", "zrn")


def _to_conv(layer: ConvLSTMCell, params: LSTMParams) -> tuple[str, dict[str, Any], Params]:
    target = f"ConvLSTM{len(layer.input_shape)}D"
    require(layer, f"Keras' {target}", proj_size=0)
    if not isinstance(layer.padding, str):
        must = 'must be "SAME" or "VALID" for Keras'
        raise ValueError(f"`padding` of `layer` {must}; got {layer.padding} in {layer}.")
    like = _activations(layer)
    like["strides"] = layer.strides
    like["padding"] = layer.padding.lower()
    like["dilation_rate"] = layer.dilation
    like["kernel_size"] = params.kernel.shape[:-2]
    return target, like, _with_one_bias(params)


_TO: dict[type, Callable] = {
    ElmanCell: _to_elman,
    LSTMCell: _to_lstm,
    GRUCell: _to_gru,
    ConvLSTMCell: _to_conv,
}
