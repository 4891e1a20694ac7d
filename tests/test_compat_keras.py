"""`recurrax.compat.keras` against Keras itself: values, states, gradients, masks, weights, penalties, arguments."""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
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


@contextlib.contextmanager
def their_world() -> Iterator[None]:
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with their_world():
        keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    return keras


def draw(*shape: int, seed: int = 1) -> jax.Array:
    return noise(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


def fresh(keras: Any, make: Any, shape: tuple) -> tuple[Any, Any]:
    """A layer of ours and the same of Keras', as they are drawn."""
    with their_world():
        theirs = make(keras.layers)
        theirs.build(shape)
    layer = make(ours)
    layer.build(shape)
    assert layer.count_params() == theirs.count_params()
    return layer, theirs


def weights_of(theirs: Any) -> list[np.ndarray]:
    return [np.asarray(weight.value) for weight in theirs.weights]


def twins(keras: Any, make: Any, shape: tuple) -> tuple[Any, Any, list]:
    """A layer of Keras' and the same of ours, built, and weights for both with noise upon each."""
    layer, theirs = fresh(keras, make, shape)
    with their_world():
        weights = [weight + 0.3 * np.asarray(draw(*weight.shape)) for weight in weights_of(theirs)]
        theirs.set_weights(weights)
    layer.set_weights(weights)
    return theirs, layer, weights


def compare(keras: Any, make: Any, xs: jax.Array, state: Any = None, mask: Any = None) -> None:
    """Outputs, final states and gradients by weights, inputs and initial state, at random cotangents."""
    theirs, layer, weights = twins(keras, make, xs.shape)
    mask = None if mask is None else jnp.asarray(mask)

    def options(state: Any) -> dict:
        return {} if state is None else {"initial_state": state}

    def run_theirs(weights: list, xs: jax.Array, state: Any) -> list:
        others = [variable.value for variable in theirs.non_trainable_variables]
        return jax.tree.leaves(theirs.stateless_call(weights, others, xs, mask=mask, **options(state))[0])

    def run_ours(weights: list, xs: jax.Array, state: Any) -> list:
        own = nnx.clone(layer)
        own.set_weights(weights)
        return jax.tree.leaves(own(xs, mask=mask, **options(state)))

    with their_world():
        expected = pull(run_theirs, weights, xs, state)
    assert_close("keras", pull(run_ours, weights, xs, state), expected, 1e-5)


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True, "activation": "relu"},
        {**ALL, "go_backwards": True, "use_bias": False},
        {**ALL, "unroll": True, "activation": None},
        {**ALL, "go_backwards": True, "zero_output_for_mask": True},
        {"zero_output_for_mask": True},
    ],
    ids=str,
)
def test_layers(name: str, options: dict, keras: Any) -> None:
    state = [draw(5, 3, seed=seed) for seed in range(2 if name == "LSTM" else 1)]
    compare(keras, lambda layers: getattr(layers, name)(3, **options), draw(5, 5, 2), state, MASK)


@pytest.mark.parametrize(
    "make",
    [
        lambda L: L.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid", **ALL),
        lambda L: L.LSTM(3, activation="softsign", recurrent_activation="hard_sigmoid", implementation=1),
        lambda L: L.RNN([L.LSTMCell(3), L.GRUCell(2), L.SimpleRNNCell(4, "gelu")], **ALL),
        lambda L: L.RNN(L.StackedRNNCells([L.GRUCell(4), L.LSTMCell(3)]), go_backwards=True),
        lambda L: L.RNN(L.GRUCell(3, reset_after=False), unroll=True),
        lambda L: L.Bidirectional(L.LSTM(3)),
        lambda L: L.Bidirectional(L.GRU(3, **ALL), merge_mode="sum"),
        lambda L: L.Bidirectional(
            L.SimpleRNN(3, go_backwards=True, **ALL), merge_mode="mul", backward_layer=L.SimpleRNN(3, **ALL)
        ),
        lambda L: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode=None),
        lambda L: L.Bidirectional(L.RNN([L.GRUCell(3), L.LSTMCell(2)], return_sequences=True), merge_mode="ave"),
        lambda L: L.Bidirectional(
            L.LSTM(3, return_state=True), backward_layer=L.GRU(2, return_state=True, go_backwards=True)
        ),
    ],
)
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
def test_stacks_and_both_directions(make: Any, mask: Any, keras: Any) -> None:
    compare(keras, make, draw(5, 5, 2), None, mask)


def test_the_state_of_both_directions_and_of_a_stack(keras: Any) -> None:
    halves = [draw(5, 3, seed=seed) for seed in range(4)]
    compare(keras, lambda L: L.Bidirectional(L.LSTM(3, **ALL)), draw(5, 5, 2), halves, MASK)
    state = [[draw(5, 3, seed=1), draw(5, 3, seed=2)], [draw(5, 2, seed=3)]]
    compare(keras, lambda L: L.RNN([L.LSTMCell(3), L.GRUCell(2)], **ALL), draw(5, 5, 2), state, MASK)


@pytest.mark.parametrize(
    ("rank", "options", "mask"),
    [
        (1, {"go_backwards": True, **ALL}, None),
        # Without `unroll` Keras' mask only fits where the batch happens to be as large as an axis in space.
        (1, {"unroll": True, **ALL}, MASK),
        (2, {"padding": "same", "strides": (2, 1), "return_state": True}, None),
        (2, {"dilation_rate": 2, "use_bias": False, "kernel_size": (2, 1)}, None),
        (2, {"data_format": "channels_first", "return_sequences": True, "return_state": True}, None),
        (3, {"padding": "same", "recurrent_activation": "hard_sigmoid"}, None),
    ],
)
def test_convolutions(rank: int, options: dict, mask: Any, keras: Any) -> None:
    space = (5, 4, 3)[:rank]
    first = options.get("data_format") == "channels_first"
    xs = draw(5, 5, 2, *space) if first else draw(5, 5, *space, 2)
    options = {"kernel_size": 2, **options}
    compare(keras, lambda L: getattr(L, f"ConvLSTM{rank}D")(3, **options), xs, None, mask)


def test_stateful_layers_go_on_where_they_ended(keras: Any) -> None:
    for make in (lambda L: L.LSTM(3, stateful=True), lambda L: L.Bidirectional(L.GRU(3, stateful=True))):
        theirs, layer, _ = twins(keras, make, (5, 5, 2))

        @nnx.jit
        def run(layer: Any, xs: jax.Array) -> jax.Array:
            return layer(xs, mask=jnp.asarray(MASK))

        for turn in range(4):
            xs = draw(5, 5, 2, seed=turn)
            with their_world():
                expected = theirs(xs, mask=jnp.asarray(MASK))
            assert_close(f"turn {turn}", run(layer, xs), jnp.asarray(expected), 1e-5)
            if turn == 2:
                theirs.reset_states()
                layer.reset_states()
    with pytest.raises(ValueError, match=r"`sequences` must hold 5 sequences, .*; got 2"):
        layer(draw(2, 5, 2))
    assert not jax.tree.leaves(nnx.state(ours.LSTM(3, stateful=True), nnx.Param))


def test_masks_go_from_layer_to_layer(keras: Any) -> None:
    def stack(L: Any, dense: Any) -> list:
        below = L.Bidirectional(L.LSTM(3, return_sequences=True))
        return [L.Masking(0.5), below, L.TimeDistributed(dense), L.GRU(2, return_sequences=True), L.LSTM(2)]

    xs = jnp.where(MASK[..., None], draw(5, 5, 2), 0.5)
    model = ours.Sequential([ours.Sequential(stack(ours, nnx.Linear(6, 4, rngs=nnx.Rngs(0)))), jax.nn.relu])
    model.build((None, None, 2))
    with their_world():
        theirs = keras.Sequential([*stack(keras.layers, keras.layers.Dense(4)), keras.layers.Activation("relu")])
        theirs.build((5, 5, 2))
        weights = [weight + 0.3 * np.asarray(draw(*weight.shape)) for weight in weights_of(theirs)]
        theirs.set_weights(weights)
        expected = theirs(xs)
    model.set_weights(weights)
    assert model.count_params() == theirs.count_params()
    assert_close("eager", model(xs), jnp.asarray(expected), 1e-5)
    assert_close("jit", nnx.jit(lambda model, xs: model(xs))(model, xs), jnp.asarray(expected), 1e-5)
    np.testing.assert_array_equal(model.layers[0].compute_mask(xs), MASK)


def test_time_distributed_layers_see_the_masks_of_their_steps(keras: Any) -> None:
    mask = np.stack([MASK, MASK[::-1]])
    compare(keras, lambda L: L.TimeDistributed(L.GRU(3, return_sequences=True)), draw(2, 5, 5, 2), None, mask)


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "ConvLSTM1D"])
def test_parameter_counts_and_initial_weights(name: str, keras: Any) -> None:
    sizes, shape = ((4, 3), (2, 5, 6, 3)) if name == "ConvLSTM1D" else ((4,), (2, 5, 3))
    for options in ({}, {"use_bias": False}, {"bias_initializer": "ones", "kernel_initializer": "identity"}):
        if name == "ConvLSTM1D":
            options.pop("kernel_initializer", None)
        more = [{}, {"reset_after": False}] if name == "GRU" else [{}]
        more = [{}, {"unit_forget_bias": False}] if "LSTM" in name else more
        for extra in more:
            layer, theirs = fresh(keras, lambda L: getattr(L, name)(*sizes, **options, **extra), shape)  # noqa: B023
            if options.get("use_bias", True):
                np.testing.assert_array_equal(layer.get_weights()[2], weights_of(theirs)[2])
            if "kernel_initializer" in options:
                np.testing.assert_array_equal(layer.get_weights()[0], weights_of(theirs)[0])
            recurrent = layer.get_weights()[1].reshape(-1, layer.cell.gates * 4)
            tall = recurrent if recurrent.shape[0] < recurrent.shape[1] else recurrent.T
            np.testing.assert_allclose(tall @ tall.T, np.eye(len(tall)), atol=1e-5)
    kernel = ours.LSTM(64, seed=0)
    kernel.build((None, None, 32))
    bound = np.sqrt(6 / (32 + 256))  # of the whole kernel, as Keras draws it
    assert 0.99 * bound < np.abs(kernel.get_weights()[0]).max() <= bound


@pytest.mark.parametrize(
    "initializer",
    ["RandomNormal", "truncated_normal", "random_uniform", "he_normal", "lecun_uniform", "glorot_normal"],
)
def test_initialisers_draw_from_the_same_distribution(initializer: str, keras: Any) -> None:
    layer, theirs = fresh(keras, lambda L: L.LSTM(50, kernel_initializer=initializer), (None, None, 60))
    levels = np.linspace(0.01, 0.99, 9)
    quantiles = [np.quantile(drawn, levels) for drawn in (layer.get_weights()[0], weights_of(theirs)[0])]
    np.testing.assert_allclose(*quantiles, atol=0.05 * np.abs(quantiles[1]).max())


NAMES = ["SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "SimpleRNNCell", "LSTMCell", "GRUCell",
         "RNN", "StackedRNNCells", "Bidirectional", "TimeDistributed", "Masking"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name: str, keras: Any) -> None:
    def arguments(kind: type) -> list:
        every = inspect.signature(kind.__init__).parameters.values()
        return [(each.name, each.default) for each in every if each.kind is each.POSITIONAL_OR_KEYWORD]

    theirs, own = getattr(keras.layers, name), getattr(ours, name)
    assert arguments(own) == arguments(theirs)
    method = theirs.call if hasattr(theirs, "call") else theirs.__call__
    names = list(inspect.signature(method).parameters)
    assert [n for n in inspect.signature(own.__call__).parameters if n != "self"] == names[1:] or "Cell" in name


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"kernel_regularizer": "l1", "recurrent_regularizer": "L2", "bias_regularizer": "l2"}, 3),
        ({"activity_regularizer": "l2", "bias_regularizer": "l1"}, 2),
    ],
)
def test_penalties(options: dict, number: int, keras: Any) -> None:
    theirs, layer, _ = twins(keras, lambda L: L.Bidirectional(L.LSTM(3, return_state=True, **options)), (5, 5, 2))
    xs = draw(5, 5, 2)
    with their_world():
        theirs(xs)
        expected = jnp.asarray(sum(theirs.losses))

    def loss(layer: Any, xs: jax.Array) -> jax.Array:
        layer(xs)
        return jnp.asarray(sum(layer.losses))

    value, gradient = nnx.jit(nnx.value_and_grad(loss))(layer, xs)
    assert_close("losses", value, expected, 1e-5)
    assert len(layer.losses) == 2 * number
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient) if leaf.ndim == 1)


@pytest.mark.parametrize("name", ["max_norm", "non_neg", "unit_norm", "MinMaxNorm"])
def test_constraints(name: str, keras: Any) -> None:
    options = dict.fromkeys(("kernel_constraint", "recurrent_constraint", "bias_constraint"), name)
    theirs, layer, weights = twins(keras, lambda L: L.RNN([L.GRUCell(3, **options), L.LSTMCell(2)]), (5, 5, 2))
    weights = [4 * weight for weight in weights]
    layer.set_weights(weights)
    layer.apply_constraints()
    with their_world():
        theirs.set_weights(weights)
        for weight in theirs.weights:
            if weight.constraint is not None:
                weight.assign(weight.constraint(weight))
    for number, (got, expected) in enumerate(zip(layer.get_weights(), weights_of(theirs), strict=True)):
        np.testing.assert_allclose(got, expected, atol=1e-6)
        assert np.array_equal(got, weights[number]) == (number >= 3)


def pattern(key: Any, p: float, shape: tuple) -> jax.Array:
    """Masks that differ in every entry from gate to gate, but not from key to key."""
    return jnp.asarray(np.random.default_rng(0).random(shape) < p)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SimpleRNN", {"dropout": 0.5, "recurrent_dropout": 0.25}),
        ("LSTM", {"dropout": 0.5}),
        ("LSTM", {"dropout": 0.5, "implementation": 1, "use_cudnn": False}),
        ("LSTM", {"dropout": 0.5, "recurrent_dropout": 0.25}),
        ("GRU", {"recurrent_dropout": 0.25}),
        ("GRU", {"dropout": 0.5, "recurrent_dropout": 0.25, "reset_after": False}),
        ("GRU", {"dropout": 0.5, "reset_after": False}),
        ("ConvLSTM1D", {"kernel_size": 2, "dropout": 0.5, "recurrent_dropout": 0.25}),
    ],
)
def test_dropout_with_the_same_masks(name: str, options: dict, keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    xs = draw(5, 5, 4, 2) if name == "ConvLSTM1D" else draw(5, 5, 2)
    theirs, layer, _ = twins(keras, lambda L: getattr(L, name)(3, return_sequences=True, **options), xs.shape)
    jax.clear_caches()
    monkeypatch.setattr(jax.random, "bernoulli", pattern)
    got = layer(xs, training=True)
    monkeypatch.undo()
    jax.clear_caches()

    one = name == "SimpleRNN" or (
        name == "LSTM" and "recurrent_dropout" not in options and "implementation" not in options
    )
    one = one or (name == "GRU" and "recurrent_dropout" not in options)
    number, gates = layer.cell.gates, {"GRU": [1, 0, 2]}.get(name, range(layer.cell.gates))
    rates = {"_dropout_mask": ("dropout", xs[:, 0]), "_recurrent_dropout_mask": ("recurrent_dropout", None)}
    for attribute, (argument, like) in rates.items():
        if rate := options.get(argument):
            like = theirs.cell.get_initial_state(5)[0] if like is None else like
            masks = pattern(None, 1 - rate, (1 if one else number, *like.shape)).astype(jnp.float32) / (1 - rate)
            setattr(theirs.cell, attribute, masks[0] if one else [masks[gate] for gate in gates])
    with their_world():
        expected = theirs(xs, training=True)
    assert_close("dropped", got, jnp.asarray(expected), 1e-5)
    assert np.abs(got - layer(xs)).max() > 1e-2


# What follows needs no Keras.


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
