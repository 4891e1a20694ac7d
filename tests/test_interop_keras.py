"""Keras in and out: its layers on JAX as functions of their weights against ours, and the way back bit by bit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax import interop
from recurrax.interop._keras_activations import ACTIVATIONS
from recurrax.testing import assert_close, normal_like, perturbed_params, values_and_gradients

B, T, I, H = 2, 5, 3, 4  # noqa: E741
LENGTHS = jnp.array([5, 3])
SEQUENCES = {"return_sequences": True, "return_state": True, "zero_output_for_mask": True}
CONV = {"return_sequences": True, "return_state": True}


def same(a: Any, b: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: x.dtype == y.dtype and bool((x == y).all()), a, b)))


def gru(keras: Any) -> Any:
    return keras.layers.GRU(H, reset_after=False, recurrent_activation="hard_sigmoid", **SEQUENCES)


def mixed(keras: Any) -> Any:
    backward = keras.layers.SimpleRNN(H, activation="gelu", go_backwards=True, **SEQUENCES)
    forward = keras.layers.SimpleRNN(H, activation="relu", **SEQUENCES)
    return keras.layers.Bidirectional(forward, "mul", backward_layer=backward)


def stacked(keras: Any) -> Any:
    cells = [keras.layers.LSTMCell(H), keras.layers.GRUCell(2, use_bias=False), keras.layers.SimpleRNNCell(H)]
    return keras.layers.RNN(cells, **SEQUENCES)


def image(keras: Any) -> Any:
    return keras.layers.Bidirectional(keras.layers.ConvLSTM2D(H, (3, 2), padding="same", **CONV), "ave")


LAYERS: dict[str, Callable] = {
    "simple": lambda keras: keras.layers.SimpleRNN(H, **SEQUENCES),
    "lstm": lambda keras: keras.layers.LSTM(H, activation="elu", **SEQUENCES),
    "gru-before": gru,
    "gru-after": lambda keras: keras.layers.Bidirectional(keras.layers.GRU(H, **SEQUENCES)),
    "mixed": mixed,
    "stacked": stacked,
    "conv1d": lambda keras: keras.layers.ConvLSTM1D(H, 3, strides=2, dropout=0.5, **CONV),
    "conv2d": lambda keras: keras.layers.Bidirectional(
        keras.layers.ConvLSTM2D(H, (3, 2), padding="same", **CONV), "ave"
    ),
    "conv3d": lambda keras: keras.layers.ConvLSTM3D(H, 2, padding="same", dilation_rate=2, use_bias=False, **CONV),
}
SPACES = {"conv1d": (7,), "conv2d": (4, 3), "conv3d": (3, 2, 4)}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind: str, keras: Any) -> None:
    theirs = LAYERS[kind](keras)
    space = SPACES.get(kind, ())
    theirs.build((B, T, *space, I))
    xs = normal_like(jax.ShapeDtypeStruct((B, T, *space, I), jnp.float32), 1)
    mask = None if space else rx.lengths_to_mask(LENGTHS, T)
    weights = [jnp.asarray(weight.value) for weight in theirs.weights]
    weights = [weight + 0.3 * n for weight, n in zip(weights, normal_like(weights, 2), strict=True)]
    theirs.set_weights(weights)
    layer, params = interop.from_keras(theirs)

    def run(weights: list, xs: Any) -> Any:
        others = [variable.value for variable in theirs.non_trainable_variables]
        (ys, *states), _ = theirs.stateless_call(weights, others, xs, mask=mask)
        return jax.tree.leaves(states), ys

    def ours(params: Any, xs: Any) -> Any:
        state, ys = rx.scan(layer, params, xs, mask=mask)
        return jax.tree.leaves(state), ys

    out, (grads, grad_xs) = values_and_gradients(run, weights, xs)
    assert all(np.any(leaf) for leaf in grads)
    theirs.set_weights(grads)
    expected = out, (interop.from_keras(theirs)[1], grad_xs)
    assert_close(kind, values_and_gradients(ours, params, xs), expected, 1e-5)

    back = interop.to_keras(layer, params)
    assert type(back) is type(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(back.get_weights(), weights, strict=True))
    assert interop.from_keras(back)[0] == layer
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert same(interop.from_keras(interop.to_keras(layer, halves))[1], halves)
    with jax.numpy_rank_promotion("allow"):
        assert_close("back", back(xs, mask=mask)[0], run(weights, xs)[1], 1e-6)


def test_one_bias_where_keras_has_one(keras: Any) -> None:
    xs = normal_like(jax.ShapeDtypeStruct((B, T, I), jnp.float32), 1)
    lstm, gru = rx.LSTMCell(H, recurrent_bias=True), rx.GRUCell(2, recurrent_bias=False)
    layer = rx.Stack((lstm, rx.Bidirectional(gru), rx.ElmanCell(H, bias=False)))
    params = perturbed_params(layer, I)
    theirs = interop.to_keras(layer, params)
    assert isinstance(theirs, keras.Sequential)
    back, own = interop.from_keras(theirs)
    expected = rx.scan(layer, params, xs)
    assert_close("keras", theirs(xs), expected[1], 1e-5)
    assert_close("back", rx.scan(back, own, xs), expected, 1e-5)
    assert same(own[0].bias, params[0].bias + params[0].recurrent_bias)
    assert not own[1].forward.recurrent_bias.any()
    assert back.layers[2] == layer.layers[2]


def test_activations_are_those_of_keras(keras: Any) -> None:
    x = jnp.linspace(-8.0, 8.0, 101)
    for name, activation in ACTIVATIONS.items():
        assert_close(name, activation(x), keras.activations.get(name)(x), 1e-6)


def built(make: Callable, *shape: int) -> Callable:
    def run(keras: Any) -> Any:
        layer = make(keras)
        layer.build((None, None, *shape))
        return interop.from_keras(layer)

    return run


def outwards(layer: rx.Layer) -> Callable:
    return lambda keras: interop.to_keras(layer, perturbed_params(layer, I))


@pytest.mark.parametrize(
    ("error", "convert", "message"),
    [
        (
            TypeError,
            lambda keras: interop.from_keras(keras.layers.Dense(H)),
            r"one of SimpleRNN, .*; got keras.*Dense",
        ),
        (ValueError, lambda keras: interop.from_keras(keras.layers.LSTM(H)), r"`layer` must be built, .* Call it, or"),
        (
            ValueError,
            built(lambda keras: keras.layers.GRU(H, go_backwards=True), I),
            r"`go_backwards` must be False; got True. Convert the layer's `cell` and pass `reverse=True` to `scan`",
        ),
        (
            ValueError,
            built(lambda keras: keras.layers.Bidirectional(keras.layers.GRU(H), None), I),
            r"`merge_mode` must be concat, sum, mul or ave, .*; got None",
        ),
        (
            ValueError,
            built(lambda keras: keras.layers.LSTM(H, activation="sparsemax"), I),
            r"`activation` must be one of tanh, celu, .*; got sparsemax",
        ),
        (
            ValueError,
            built(lambda keras: keras.layers.ConvLSTM1D(H, 3, data_format="channels_first"), I, 7),
            r"`data_format` must be \"channels_last\"; got 'channels_first'",
        ),
        (
            ValueError,
            lambda keras: interop.from_keras(keras.Sequential([keras.layers.LSTM(H), keras.layers.LSTM(H)])),
            r"`return_sequences` must be True for all layers but the last; got False in",
        ),
        (
            TypeError,
            outwards(rx.Zoneout(rx.LSTMCell(H))),
            r"one of ElmanCell, .*Zoneout",
        ),
        (TypeError, outwards(rx.Bidirectional(rx.Stack((rx.GRUCell(H),)))), r"`layer` must be one of .*; got Stack"),
        (ValueError, outwards(rx.LSTMCell(H, 2)), r"`proj_size` of `layer` must be 0 for Keras' LSTM; got 2"),
        (
            ValueError,
            outwards(rx.ElmanCell(H, jnp.sin)),
            r"`activation` of `layer` must be one of tanh, .* Keras; got",
        ),
        (ValueError, outwards(rx.Stack((rx.GRUCell(H),), 0.5)), r"`dropout` of `layer` must be 0.0 for Keras; got 0.5"),
        (
            ValueError,
            outwards(rx.ConvLSTMCell(H, 5, 3, padding=((1, 2),))),
            r"`padding` of `layer` must be \"SAME\" or",
        ),
    ],
)
def test_errors_teach(error: type, convert: Callable, message: str, keras: Any) -> None:
    with pytest.raises(error, match=message):
        convert(keras)
