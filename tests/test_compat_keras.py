"""`recurrax.compat.keras` against Keras itself: values, states, gradients, masks, weights, penalties, arguments."""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
def keras(strict_keras: Any) -> Any:
    return strict_keras


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
