"""`recurrax.compat.keras` by itself: training, modes, cells of one's own, configurations, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import recurrax as rx
from recurrax.compat import keras as ours
from recurrax.testing import assert_close, noise, pull

# A row each: all real, padded right, padded left, with holes, and with no real step at all.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
ALL = {"return_sequences": True, "return_state": True}


def draw(*shape: int, seed: int = 1) -> jax.Array:
    return noise(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


def test_dropout_follows_the_mode() -> None:
    layer = ours.LSTM(64, dropout=0.4, recurrent_dropout=0.2, seed=1, return_sequences=True)
    xs = jnp.ones((8, 3, 32))
    quiet = layer(xs)
    np.testing.assert_array_equal(layer(xs, training=False), quiet)
    layer.train()
    first, second = layer(xs), layer(xs)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(layer(xs, training=False), quiet)
    layer.eval()
    np.testing.assert_array_equal(layer(xs), quiet)
    # The inputs' share of a unit that sees ones alone: its mean is that without dropout.
    linear = ours.SimpleRNN(1, None, dropout=0.4, kernel_initializer="ones", seed=0)
    drawn = np.asarray(linear(jnp.ones((20000, 1, 100)), training=True)) / 100
    np.testing.assert_allclose([drawn.mean(), drawn.var() * 100], [1, 0.4 / 0.6], rtol=0.05)
    same = ours.LSTM(64, dropout=0.4, recurrent_dropout=0.2, seed=1, return_sequences=True)
    np.testing.assert_array_equal(same(xs), quiet)


@pytest.mark.usefixtures("standard_promotion")
def test_a_model_learns_under_jit_and_survives_its_parts() -> None:
    model = ours.Sequential([ours.Masking(), ours.Bidirectional(ours.GRU(4, seed=3, kernel_constraint="non_neg")),
                             nnx.Linear(8, 1, rngs=nnx.Rngs(0))])  # fmt: skip
    model.build((None, 5, 2))
    assert np.abs(np.subtract(*(model.layers[1].get_weights()[at] for at in (0, 3)))).max() > 0.1
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    xs = jnp.where(MASK[..., None], draw(5, 5, 2), 0.0)

    @nnx.jit
    def train_step(model: Any, optimizer: nnx.Optimizer, xs: jax.Array) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            return jnp.square(model(xs, training=True)[:, 0] - xs.sum((1, 2))).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        model.apply_constraints()
        return value

    losses = [float(train_step(model, optimizer, xs)) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    assert model.layers[1].get_weights()[0].min() >= 0
    again = nnx.merge(*nnx.split(model))
    np.testing.assert_array_equal(again(xs), model(xs))
    np.testing.assert_array_equal(again.get_weights()[3], model.get_weights()[3])


class LeakyCell(nnx.Module):
    """An integrator whose output is not its state."""

    def __init__(self, input_size: int) -> None:
        self.state_size = (3, 2)
        self.output_size = 4
        self.kernel = nnx.Param(draw(input_size, 3, seed=7))
        self.readout = nnx.Param(draw(3, 4, seed=8))

    def __call__(self, inputs: jax.Array, states: list) -> tuple[jax.Array, list]:
        h, count = states
        h = 0.9 * h + inputs @ self.kernel[...]
        return jnp.tanh(h) @ self.readout[...], [h, count + 1]


def test_cells_of_ones_own() -> None:
    layer = ours.RNN([LeakyCell(2), ours.LSTMCell(3, seed=0)], return_state=True, zero_output_for_mask=True)
    xs, mask = draw(5, 5, 2), jnp.asarray(MASK)
    layer.build(xs.shape)
    below, cell = layer.cell.cells[0].module, layer.cell.cells[1]

    def by_hand(weights: list, xs: jax.Array) -> Any:
        h, (hs, cs) = jnp.zeros((5, 3)), (jnp.zeros((5, 3)), jnp.zeros((5, 3)))
        for t in range(5):
            after = 0.9 * h + xs[:, t] @ weights[0]
            params = rx.LSTMParams(*weights[2:])
            state, _ = rx.step(cell.core, params, rx.LSTMState(hs, cs), jnp.tanh(after) @ weights[1])
            real = mask[:, t, None]
            h, hs, cs = (jnp.where(real, new, old) for new, old in ((after, h), (state.h, hs), (state.c, cs)))
        return h, hs, cs

    def run(weights: list, xs: jax.Array) -> Any:
        own = nnx.clone(layer)
        own.set_weights(weights)
        _, [h, _], [hs, cs] = own(xs, mask=mask)
        return h, hs, cs

    weights = [below.kernel[...], below.readout[...], *(weight[...] for weight in cell.weights)]
    assert_close("by hand", pull(run, weights, xs), pull(by_hand, weights, xs), 1e-5)
    np.testing.assert_array_equal(layer(xs, mask=mask)[1][1], np.repeat(MASK.sum(1, keepdims=True), 2, axis=1))


def test_time_major_half_precision_and_frozen_weights() -> None:
    layer = ours.LSTM(4, **ALL, seed=0, dtype="mixed_bfloat16", stateful=True)
    turned = ours.LSTM(4, **ALL, seed=0, dtype="mixed_bfloat16", stateful=True, time_major=True, trainable=False)
    xs = draw(5, 3, 2)
    output, h, c = layer(xs, mask=MASK[:, :3])
    assert (output.dtype, c.dtype, layer.cell.kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    swapped = turned(xs.swapaxes(0, 1), mask=MASK[:, :3].T)
    assert_close("time-major", (swapped[0].swapaxes(0, 1), *swapped[1:]), (output, h, c), 1e-6)
    assert len(layer.trainable_weights) == 3
    assert turned.trainable_weights == []
    assert turned.count_params() == 4 * 4 * (2 + 4 + 1)


def test_configurations_make_the_same_layer_again() -> None:
    cells = ours.RNN([ours.LSTMCell(4, seed=1), ours.GRUCell(3)], return_sequences=True)
    for layer in (ours.GRU(4, "relu", dropout=0.5, seed=2), ours.Bidirectional(cells), ours.Masking(2.0)):
        again = type(layer).from_config(layer.get_config())
        layer.build((None, None, 2))
        again.build((None, None, 2))
        assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]
    weights = ours.Bidirectional(ours.LSTM(4))
    weights.build((None, None, 2))
    copy = ours.Bidirectional(ours.LSTM(4), weights=weights.get_weights())
    np.testing.assert_array_equal(copy(draw(2, 3, 2)), weights(draw(2, 3, 2)))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: ours.LSTM(0), ValueError, "`units` must be an int of at least 1; got 0"),
        (lambda: ours.ConvLSTM2D(-1, 3), ValueError, "`filters` must be an int of at least 1; got -1"),
        (lambda: ours.ConvLSTM2D(1, 3, data_format="nchw"), ValueError, "`data_format` must be .*; got 'nchw'"),
        (lambda: ours.GRU(4, "than"), ValueError, "`activation` must be one of celu, .*tanh.*; got 'than'"),
        (lambda: ours.GRU(4, kernel_initializer="glorot"), ValueError, "`kernel_initializer` .*glorot_uniform"),
        (lambda: ours.LSTM(4, bias_regularizer="l3"), ValueError, "`bias_regularizer` must be one of l1, l1_l2, l2"),
        (lambda: ours.LSTM(4, bias_constraint=3), TypeError, "`bias_constraint` must be a name or a function; got 3"),
        (lambda: ours.LSTM(4, dropout=1.0), ValueError, "`dropout` must be .*got 1.0"),
        (lambda: ours.LSTM(4, use_cudnn="no"), ValueError, "`use_cudnn` must be .*got 'no'"),
        (lambda: ours.LSTM(4, use_cudnn=True)(jnp.ones((2, 5, 3))), ValueError, "cudnn"),
        (lambda: ours.LSTM(4, hidden=3), TypeError, "unexpected keyword argument 'hidden'"),
        (lambda: ours.LSTM(4)(jnp.ones((5, 3))), ValueError, r"`sequences` must be \[B, T, I\]; got float32\[5, 3\]"),
        (lambda: ours.ConvLSTM1D(4, 2)(jnp.ones((2, 5, 3))), ValueError, r"\[B, T, space, I\]; got float32\[2, 5, 3\]"),
        (
            lambda: jax.jit(ours.LSTM(4, name="first"))(jnp.ones((2, 5, 3))),
            ValueError,
            r"LSTM 'first' must be built before it is called under jit.*`build\(\(2, 5, 3\)\)` first",
        ),
        (
            lambda: nnx.grad(lambda layer: layer(jnp.ones((2, 5, 3))).sum())(ours.Bidirectional(ours.GRU(4))),
            ValueError,
            "Bidirectional must be built before",
        ),
        (lambda: ours.LSTM(4).count_params(), ValueError, "LSTM must be built to count its weights"),
        (
            lambda: ours.LSTM(4).set_weights([1, 2, 3]),
            ValueError,
            "must hold 0 arrays for LSTM; got 3. It is not built",
        ),
        (lambda: built().set_weights(built().get_weights()[:2]), ValueError, "`weights` must hold 3 arrays .*got 2"),
        (
            lambda: built().set_weights([*built().get_weights()[:2], np.ones(4)]),
            ValueError,
            r"`weights\[2\]` must be flo",
        ),
        (
            lambda: built()(jnp.ones((2, 5, 3)), initial_state=[jnp.ones((2, 4))]),
            ValueError,
            "must hold 2 arrays; got 1",
        ),
        (lambda: ours.LSTM(4, stateful=True).build((None, 5, 3)), ValueError, "must begin with the batch size"),
        (lambda: ours.RNN(4), TypeError, "`cell` must be a cell, .*got 4"),
        (lambda: ours.RNN([]), ValueError, "`cells` must hold at least 1 cell"),
        (lambda: ours.RNN([ours.LSTM(4)]), TypeError, "`cells` must hold cells"),
        (lambda: ours.Bidirectional(nnx.Linear), TypeError, "`layer` must be a recurrent layer"),
        (
            lambda: ours.Bidirectional(ours.LSTM(4), "add"),
            ValueError,
            "`merge_mode` must be one of concat, .*got 'add'",
        ),
        (
            lambda: ours.Bidirectional(ours.LSTM(4), backward_layer=ours.LSTM(4)),
            ValueError,
            "`backward_layer` must have `go_backwards` True, as `layer` has False; it has False",
        ),
        (lambda: ours.TimeDistributed(3), TypeError, "`layer` must be a module or a function; got 3"),
        (
            lambda: ours.TimeDistributed(jnp.tanh)(jnp.ones((2, 5, 3)), mask=jnp.ones((5, 2))),
            ValueError,
            r"`mask` must be \[2, 5, ...\]; got float32\[5, 2\]",
        ),
        (lambda: ours.Sequential([3]), TypeError, "`layers` must hold modules and functions; got 3"),
    ],
)
def test_errors_teach(make: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def built() -> Any:
    layer = ours.LSTM(4)
    layer.build((None, None, 3))
    return layer
