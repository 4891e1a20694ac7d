"""`recurrax.keras` against Keras itself: values, states, gradients, masks, weights, penalties, arguments."""

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

from recurrax import keras as ours
from recurrax.testing import assert_close, normal_like, values_and_gradients

# A row each: all unmasked, padded right, padded left, with holes, and with no unmasked step at all.
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
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


def pair(keras: Any, make: Any, shape: tuple) -> tuple[Any, Any]:
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
    layer, theirs = pair(keras, make, shape)
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
        expected = values_and_gradients(run_theirs, weights, xs, state)
    assert_close("keras", values_and_gradients(run_ours, weights, xs, state), expected, 1e-5)


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
        lambda L: L.SimpleRNN(4, "gelu", unroll=True),
        lambda L: L.Bidirectional(L.LSTM(3)),
        lambda L: L.Bidirectional(L.GRU(3, **ALL), merge_mode="sum"),
        lambda L: L.Bidirectional(
            L.SimpleRNN(3, go_backwards=True, **ALL), merge_mode="mul", backward_layer=L.SimpleRNN(3, **ALL)
        ),
        lambda L: L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode=None),
        lambda L: L.Bidirectional(L.GRU(3, reset_after=False, return_sequences=True), merge_mode="ave"),
        lambda L: L.Bidirectional(
            L.LSTM(3, return_state=True), backward_layer=L.GRU(2, return_state=True, go_backwards=True)
        ),
    ],
)
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_options_and_both_directions(make: Any, mask: Any, keras: Any) -> None:
    compare(keras, make, draw(5, 5, 2), None, mask)


def test_the_state_of_both_directions(keras: Any) -> None:
    halves = [draw(5, 3, seed=seed) for seed in range(4)]
    compare(keras, lambda L: L.Bidirectional(L.LSTM(3, **ALL)), draw(5, 5, 2), halves, MASK)


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


def test_masking_keeps_to_its_dtype(keras: Any) -> None:
    xs = jnp.where(MASK[..., None], draw(5, 5, 2), 0.5)
    for dtype in (None, "mixed_float16", "bfloat16", keras.DTypePolicy("mixed_bfloat16")):
        for inputs in (xs, xs.astype(jnp.float16), (4 * xs).astype(jnp.int32)):
            with their_world():
                theirs = keras.layers.Masking(0.5, dtype=dtype)
                expected, mask = jnp.asarray(theirs(inputs)), np.asarray(theirs.compute_mask(inputs))
            layer = ours.Masking(0.5, dtype=dtype)
            assert layer(inputs).dtype == expected.dtype, (dtype, inputs.dtype)
            np.testing.assert_array_equal(layer(inputs), expected)
            np.testing.assert_array_equal(layer.compute_mask(inputs), mask)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda L: L.LSTM(4, return_state=True), (None, None, 3)),
        (lambda L: L.GRU(4, return_sequences=True), (None, 7, 3)),
        (lambda L: L.SimpleRNN(4, **ALL), (2, 7, 3)),
        (lambda L: L.Bidirectional(L.LSTM(4, **ALL)), (None, 7, 3)),
        (lambda L: L.Bidirectional(L.GRU(4), merge_mode="ave"), (2, 7, 3)),
        (lambda L: L.Bidirectional(L.GRU(4), merge_mode=None), (2, 7, 3)),
        (lambda L: L.ConvLSTM2D(4, 3, strides=2, **ALL), (None, 7, 8, 9, 3)),
        (lambda L: L.ConvLSTM1D(4, 3, data_format="channels_first"), (None, 7, 3, 9)),
        (lambda L: L.Masking(), (None, 7, 3)),
    ],
)
def test_shapes_and_sizes_without_a_call(make: Any, shape: tuple, keras: Any) -> None:
    with their_world():
        theirs = make(keras.layers)
        expected = theirs.compute_output_shape(shape)
        sizes = getattr(theirs, "state_size", [])
    layer = make(ours)
    got = layer.compute_output_shape(shape)
    assert jax.tree.leaves(got) == jax.tree.leaves(expected)
    if any(isinstance(size, int) and size > 0 for size in sizes):
        assert layer.state_size == sizes
    assert layer.trainable_variables == []


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU", "ConvLSTM1D"])
def test_parameter_counts_and_initial_weights(name: str, keras: Any) -> None:
    sizes, shape = ((4, 3), (2, 5, 6, 3)) if name == "ConvLSTM1D" else ((4,), (2, 5, 3))
    for options in ({}, {"use_bias": False}, {"bias_initializer": "ones", "kernel_initializer": "identity"}):
        if name == "ConvLSTM1D":
            options.pop("kernel_initializer", None)
        more = [{}, {"reset_after": False}] if name == "GRU" else [{}]
        more = [{}, {"unit_forget_bias": False}] if "LSTM" in name else more
        for extra in more:
            layer, theirs = pair(keras, lambda L: getattr(L, name)(*sizes, **options, **extra), shape)  # noqa: B023
            if options.get("use_bias", True):
                np.testing.assert_array_equal(layer.get_weights()[2], weights_of(theirs)[2])
            if "kernel_initializer" in options:
                np.testing.assert_array_equal(layer.get_weights()[0], weights_of(theirs)[0])
            recurrent = layer.get_weights()[1].reshape(-1, layer.gates * 4)
            tall = recurrent if recurrent.shape[0] < recurrent.shape[1] else recurrent.T
            np.testing.assert_allclose(tall @ tall.T, np.eye(len(tall)), atol=1e-5)
    kernel = ours.LSTM(64, seed=0)
    kernel.build((None, None, 32))
    bound = np.sqrt(6 / (32 + 256))  # of all gates of the kernel, as Keras draws it
    assert 0.99 * bound < np.abs(kernel.get_weights()[0]).max() <= bound


@pytest.mark.parametrize(
    "initializer",
    ["RandomNormal", "truncated_normal", "random_uniform", "he_normal", "lecun_uniform", "glorot_normal"],
)
def test_initializers_draw_from_the_same_distribution(initializer: str, keras: Any) -> None:
    layer, theirs = pair(keras, lambda L: L.LSTM(50, kernel_initializer=initializer), (None, None, 60))
    levels = np.linspace(0.01, 0.99, 9)
    quantiles = [np.quantile(drawn, levels) for drawn in (layer.get_weights()[0], weights_of(theirs)[0])]
    np.testing.assert_allclose(*quantiles, atol=0.05 * np.abs(quantiles[1]).max())


NAMES = ["SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional",
         "Masking"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name: str, keras: Any) -> None:
    def arguments(kind: type) -> list:
        every = inspect.signature(kind.__init__).parameters.values()
        return [(each.name, each.default) for each in every if each.kind is each.POSITIONAL_OR_KEYWORD]

    theirs, own = getattr(keras.layers, name), getattr(ours, name)
    # Keras' arguments in Keras' order; a `seed` that Keras has last is taken by name alone.
    expected = arguments(theirs)
    if name == "SimpleRNN":
        seed, default = expected.pop()
        assert inspect.signature(own.__init__).parameters[seed].default is default
    assert arguments(own) == expected
    method = theirs.call if hasattr(theirs, "call") else theirs.__call__
    names = list(inspect.signature(method).parameters)
    assert [n for n in inspect.signature(own.__call__).parameters if n != "self"] == names[1:]


def test_objects_and_configurations_of_keras(keras: Any) -> None:
    init, act = keras.initializers, keras.activations
    options = {
        "activation": act.relu,
        "recurrent_activation": keras.ops.hard_sigmoid,
        "kernel_initializer": init.Constant(0.25),
        "recurrent_initializer": init.Identity(),
        "bias_initializer": init.Ones,
        "kernel_regularizer": keras.regularizers.L1L2(0.1, 0.2),
        "recurrent_constraint": keras.constraints.MaxNorm(0.5, axis=1),
    }
    with their_world():
        theirs = keras.layers.GRU(3, dtype="float32", **options)
        theirs.build((None, None, 2))
    xs = draw(2, 5, 2)
    with their_world():
        expected = theirs(xs)
        penalty = jnp.asarray(sum(theirs.losses))
        bounded = np.asarray(options["recurrent_constraint"](theirs.cell.recurrent_kernel.value))
    for layer in (ours.GRU(3, **options), ours.GRU.from_config(theirs.get_config())):
        layer.build((None, None, 2))
        for got, weight in zip(layer.get_weights(), weights_of(theirs), strict=True):
            np.testing.assert_array_equal(got, weight)
        assert_close("outputs", layer(xs), jnp.asarray(expected), 1e-5)
        assert_close("losses", sum(layer.losses), penalty, 1e-5)
        layer.apply_constraints()
        np.testing.assert_allclose(layer.get_weights()[1], bounded, atol=1e-6)
    # Keras' own configuration of `Identity` loses the gain; the object has it.
    doubled = ours.SimpleRNN(3, kernel_initializer=init.Identity(gain=2.0))
    doubled.build((None, None, 3))
    np.testing.assert_array_equal(doubled.get_weights()[0], 2 * np.eye(3))
    # With a seed they draw the same numbers each time.
    for initializer in (init.GlorotUniform(seed=3), init.HeNormal(seed=3), init.Orthogonal(seed=3)):
        first, second = (ours.LSTM(8, kernel_initializer=initializer) for _ in range(2))
        first.build((None, None, 32))
        second.build((None, None, 32))
        np.testing.assert_array_equal(first.get_weights()[0], second.get_weights()[0])
    twos = (lambda shape, dtype: jnp.full(shape, 2, dtype)), (lambda key, shape, dtype: jnp.full(shape, 2, dtype))
    for function in twos:
        layer = ours.LSTM(4, bias_initializer=function, unit_forget_bias=False)
        layer.build((None, None, 2))
        assert (layer.get_weights()[2] == 2).all()


def test_both_hard_sigmoids(keras: Any) -> None:
    xs = jnp.linspace(-4, 4, 33)
    with their_world():
        expected = keras.activations.hard_sigmoid(xs)
    np.testing.assert_allclose(jax.nn.hard_sigmoid(xs), expected, atol=1e-6)  # slope 1/6
    np.testing.assert_allclose(ours.hard_sigmoid_keras2(xs), np.clip(0.2 * xs + 0.5, 0, 1), atol=1e-6)
    layer = ours.LSTM(3, recurrent_activation="hard_sigmoid_keras2")
    assert layer.core.gate_activation is ours.hard_sigmoid_keras2


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
    back = {"go_backwards": True}
    theirs, layer, weights = twins(
        keras, lambda L: L.Bidirectional(L.GRU(3, **options), backward_layer=L.GRU(3, **back)), (5, 5, 2)
    )
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
    number, gates = layer.gates, {"GRU": [1, 0, 2]}.get(name, range(layer.gates))
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
