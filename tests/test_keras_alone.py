"""`recurrax.keras` by itself: training, modes, cells of one's own, configurations, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from recurrax import keras as ours
from recurrax.testing import assert_close, normal_like

# A row each: all unmasked, padded right, padded left, with holes, and with no unmasked step at all.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
ALL = {"return_sequences": True, "return_state": True}


def draw(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


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


class Regressor(nnx.Module):
    """A mask, both directions and a layer of Flax'."""

    def __init__(self) -> None:
        self.masking = ours.Masking()
        self.rnn = ours.Bidirectional(ours.GRU(4, seed=3, kernel_constraint="non_neg"))
        self.rnn.build((None, 5, 2))
        self.head = nnx.Linear(8, 1, rngs=nnx.Rngs(0))

    def __call__(self, xs: jax.Array) -> jax.Array:
        return self.head(self.rnn(self.masking(xs), mask=self.masking.compute_mask(xs)))


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
def test_a_model_learns_under_jit_and_survives_its_parts() -> None:
    model = Regressor()
    assert np.abs(np.subtract(*(model.rnn.get_weights()[at] for at in (0, 3)))).max() > 0.1
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)
    xs = jnp.where(MASK[..., None], draw(5, 5, 2), 0.0)

    @nnx.jit
    def train_step(model: Any, optimizer: nnx.Optimizer, xs: jax.Array) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            return jnp.square(model(xs)[:, 0] - xs.sum((1, 2))).mean()

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        model.rnn.apply_constraints()
        return value

    losses = [float(train_step(model, optimizer, xs)) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    assert model.rnn.get_weights()[0].min() >= 0
    again = nnx.merge(*nnx.split(model))
    np.testing.assert_array_equal(again(xs), model(xs))
    np.testing.assert_array_equal(again.rnn.get_weights()[3], model.rnn.get_weights()[3])


def test_time_major_half_precision_and_frozen_weights() -> None:
    layer = ours.LSTM(4, **ALL, seed=0, dtype="mixed_bfloat16", stateful=True)
    assert ours.GRU(4, dtype="float16")(jnp.ones((1, 2, 3))).dtype == jnp.float16  # orthogonal, drawn in float32
    turned = ours.LSTM(4, **ALL, seed=0, dtype="mixed_bfloat16", stateful=True, time_major=True, trainable=False)
    xs = draw(5, 3, 2)
    output, h, c = layer(xs, mask=MASK[:, :3])
    assert (output.dtype, c.dtype, layer.kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    swapped = turned(xs.swapaxes(0, 1), mask=MASK[:, :3].T)
    assert_close("time-major", (swapped[0].swapaxes(0, 1), *swapped[1:]), (output, h, c), 1e-6)
    assert len(layer.trainable_weights) == 3
    assert turned.trainable_weights == []
    assert turned.count_params() == 4 * 4 * (2 + 4 + 1)


def test_configurations_make_the_same_layer_again() -> None:
    both = ours.Bidirectional(ours.LSTM(4, seed=1, return_sequences=True))
    for layer in (ours.GRU(4, "relu", dropout=0.5, seed=2), both, ours.Masking(2.0)):
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
        (
            lambda: ours.LSTM(4, bias_constraint=3),
            TypeError,
            "`bias_constraint` must be a name, .*; got 3",
        ),
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
        (lambda: ours.LSTM(4, dtype="mixed_float61"), ValueError, "`dtype` must be .*got 'mixed_float61'"),
        (
            lambda: ours.LSTM(4, kernel_regularizer={"class_name": "L2", "config": {"l3": 1.0}}),
            ValueError,
            "`kernel_regularizer` must be a L2 with Keras' arguments; got {'l3': 1.0}",
        ),
        (lambda: ours.LSTM(4, kernel_initializer=Mine()), ValueError, r"a function `\(key, .*; got 'Mine'"),
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
    ],
)
def test_errors_teach(make: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


class Mine:
    """As an initializer of one's own in Keras: with a configuration that only Keras can read."""

    def get_config(self) -> dict:
        return {}


def built() -> Any:
    layer = ours.LSTM(4)
    layer.build((None, None, 3))
    return layer
