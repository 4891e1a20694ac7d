"""Flax, Haiku and Equinox in and out: their runs and ours as functions of their parameters, and back bit by bit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from recurrax import interop
from recurrax.testing import assert_close, noise, perturbed_params, pull

I, H, SPACE = 3, 4, (4, 3)  # noqa: E741
XS = noise(jax.ShapeDtypeStruct((2, 5, I), jnp.float32), 1)
IMAGES = noise(jax.ShapeDtypeStruct((2, 5, *SPACE, I), jnp.float32), 1)
LENGTHS = jnp.array([5, 3])


class Theirs(NamedTuple):
    """A layer of another library: its parameters, how it runs, and how it is converted."""

    params: Any
    run: Callable  # of its parameters and inputs, to its final state and its outputs
    convert: Callable  # of its parameters, to our layer and parameters
    restore: Callable  # of our layer and parameters, to its parameters


def same(a: Any, b: Any) -> bool:
    """Whether two pytrees are equal in structure, in dtypes and bit by bit."""
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(same))


def perturbed(params: Any) -> Any:
    return jax.tree.map(lambda leaf, n: leaf + 0.3 * n, params, noise(params, 2))


def our_state(layer: rx.Layer, carry: Any) -> Any:
    """Flax' carry as our state: it keeps c before h."""
    if isinstance(layer, rx.Bidirectional):
        return rx.Directions(*map(our_state, layer.parts, carry))
    return rx.LSTMState(*carry[::-1]) if layer.state_type is rx.LSTMState else layer.state_type(carry)


def check(theirs: Theirs, xs: Any, exact: bool = True, **options: Any) -> rx.Layer:
    """Values, final states, and gradients of inputs and of each of their weights; then, if `exact`, the way back."""
    layer, params = theirs.convert(theirs.params)

    def ours(params: Any, xs: Any) -> Any:
        return rx.scan(layer, theirs.convert(params)[1], xs, **options)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        expected = pull(theirs.run, theirs.params, xs)
    assert_close(repr(layer), pull(ours, theirs.params, xs), expected, 1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected[1]))
    if exact:
        assert same(theirs.restore(layer, params), theirs.params)
    return layer


def masked(ys: Any) -> Any:
    mask = rx.lengths_to_mask(LENGTHS, ys.shape[1])
    return jnp.where(mask.reshape(*mask.shape, *[1] * (ys.ndim - 2)), ys, 0)


def in_linen(module: nn.Module, xs: Any) -> Theirs:
    with jax.numpy_rank_promotion("allow"):
        params = module.init(jax.random.key(0), xs)["params"]

    def convert(params: Any) -> Any:
        return interop.from_linen(module, params, input_shape=SPACE)

    def run(params: Any, xs: Any) -> Any:
        carry, ys = module.apply({"params": params}, xs, seq_lengths=LENGTHS, return_carry=True)
        return our_state(convert(params)[0], carry), masked(ys)

    def restore(layer: rx.Layer, params: Any) -> Any:
        back, params = interop.to_linen(layer, params)
        assert interop.from_linen(back, params, input_shape=SPACE)[0] == layer
        return params if isinstance(module, nn.Bidirectional) else {"cell": params}

    return Theirs(perturbed(params), run, convert, restore)


LINEN = [
    nn.RNN(nn.SimpleCell(H, activation_fn=jax.nn.relu)),
    nn.RNN(nn.LSTMCell(H, gate_fn=jax.nn.hard_sigmoid)),
    nn.RNN(nn.OptimizedLSTMCell(H)),
    nn.RNN(nn.MGUCell(H)),
    nn.RNN(nn.MGUCell(H, reset_gate=False)),
    nn.Bidirectional(nn.RNN(nn.GRUCell(H)), nn.RNN(nn.LSTMCell(H))),
    nn.Bidirectional(nn.RNN(nn.SimpleCell(H)), nn.RNN(nn.GRUCell(H)), merge_fn=jnp.multiply),
]


@pytest.mark.parametrize("module", LINEN, ids=lambda module: type(getattr(module, "cell", module)).__name__)
def test_linen(module: nn.Module) -> None:
    check(in_linen(module, XS), XS, lengths=LENGTHS)


def test_linen_convolution() -> None:
    theirs = in_linen(nn.RNN(nn.ConvLSTMCell(H, (3, 2))), IMAGES)
    layer = check(theirs, IMAGES, exact=False, lengths=LENGTHS)
    back = theirs.restore(*theirs.convert(theirs.params))
    # Two biases of their own and the 1 leave no place for what adding 1 rounds; from then on nothing changes.
    assert_close("rounded", back, theirs.params, 1e-7)
    assert same(theirs.restore(*theirs.convert(back)), back)
    assert layer == rx.ConvLSTMCell(H, SPACE, (3, 2), recurrent_bias=True)

    module = nn.RNN(nn.ConvLSTMCell(H, (3, 2), use_bias=False))
    check(in_linen(module, IMAGES), IMAGES, exact=False, lengths=LENGTHS)


def in_nnx(module: nnx.Module) -> Theirs:
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def convert(params: Any) -> Any:
        return interop.from_nnx(nnx.merge(graphdef, params, rest))

    def run(params: Any, xs: Any) -> Any:
        carry, ys = nnx.merge(graphdef, params, rest, copy=True)(xs, seq_lengths=LENGTHS, return_carry=True)
        return our_state(convert(params)[0], carry), masked(ys)

    def restore(layer: rx.Layer, params: Any) -> Any:
        back = interop.to_nnx(layer, params)
        return nnx.state(back if isinstance(layer, rx.Bidirectional) else nnx.RNN(back), nnx.Param)

    return Theirs(perturbed(params), run, convert, restore)


def test_nnx() -> None:
    def rnn(cell: type, **options: Any) -> nnx.RNN:
        return nnx.RNN(cell(I, H, **options, rngs=nnx.Rngs(0)))

    check(in_nnx(rnn(nnx.SimpleCell, activation_fn=jax.nn.silu)), XS, lengths=LENGTHS)
    lstm, gru = rnn(nnx.OptimizedLSTMCell), rnn(nnx.GRUCell, gate_fn=jax.nn.hard_sigmoid)
    check(in_nnx(nnx.Bidirectional(lstm, gru, merge_fn=jnp.add)), XS, lengths=LENGTHS)
    # A Dense for each gate becomes one for all.
    apart = in_nnx(rnn(nnx.LSTMCell))
    layer = check(apart, XS, exact=False, lengths=LENGTHS)
    params = apart.convert(apart.params)[1]
    joined = interop.to_nnx(layer, params)
    assert isinstance(joined, nnx.OptimizedLSTMCell)
    back, own = interop.from_nnx(joined)
    assert back == layer
    assert same(own, params)


def test_stacks_of_flax() -> None:
    layer = rx.Stack((rx.ElmanCell(H), rx.Bidirectional(rx.GRUCell(2, recurrent_bias=False)), rx.LSTMCell(H)))
    params = perturbed_params(layer, I)
    _, ys = rx.scan(layer, params, XS)
    module, theirs = interop.to_linen(layer, params)
    assert_close("linen", module.apply({"params": theirs}, XS), ys, 1e-5)
    back, own = interop.from_linen(module, theirs)
    assert back.layers[::2] == layer.layers[::2]
    # Linen's GRU has a recurrent bias, of zeros now.
    assert same((own[0], own[1].forward[:3], own[2]), (params[0], params[1].forward[:3], params[2]))
    module = interop.to_nnx(layer, params)
    assert_close("nnx", module(XS), ys, 1e-5)
    back, own = interop.from_nnx(module)
    assert back == layer
    assert same(own, params)


def in_haiku(hk: Any, make: Callable, reverse: bool, **options: Any) -> Theirs:
    def unroll(xs: Any) -> Any:
        core = make()
        state = core.initial_state(xs.shape[0])
        ys, state = hk.dynamic_unroll(core, xs, state, time_major=False, reverse=reverse)
        states = jax.tree.leaves([state], is_leaf=lambda node: isinstance(node, hk.LSTMState))
        return [rx.LSTMState(*s) if isinstance(s, hk.LSTMState) else s for s in states], ys

    transformed = hk.without_apply_rng(hk.transform(unroll))
    xs = IMAGES if "input_shape" in options else XS
    params = perturbed(transformed.init(jax.random.key(0), xs))

    def convert(params: Any) -> Any:
        return interop.from_haiku(params, **options)

    def run(params: Any, xs: Any) -> Any:
        layer, (states, ys) = convert(params)[0], transformed.apply(params, xs)
        layers = layer.layers if isinstance(layer, rx.Stack) else [layer]
        states = [s if isinstance(s, tuple) else part.state_type(s) for s, part in zip(states, layers, strict=True)]
        return tuple(states) if isinstance(layer, rx.Stack) else states[0], ys

    return Theirs(params, run, convert, interop.to_haiku)


def test_haiku() -> None:
    hk = pytest.importorskip("haiku")
    for make, cell in {
        lambda: hk.VanillaRNN(H): rx.ElmanCell(H, jax.nn.relu, recurrent_bias=True),
        lambda: hk.VanillaRNN(H, double_bias=False): rx.ElmanCell(H, jax.nn.relu),
        lambda: hk.LSTM(H): rx.LSTMCell(H, recurrent_bias=True),
        lambda: hk.GRU(H): rx.GRUCell(H, reset_after=False),
    }.items():
        assert check(in_haiku(hk, make, reverse=True), XS, reverse=True) == cell

    def deep() -> Any:
        return hk.DeepRNN([hk.LSTM(H), hk.GRU(2), hk.LSTM(H)])

    check(in_haiku(hk, deep, reverse=False, prefix=("lstm", "gru", "lstm_1")), XS)
    theirs = in_haiku(hk, lambda: hk.Conv2DLSTM(SPACE, H, 3), reverse=False, input_shape=SPACE)
    layer = check(theirs, IMAGES, exact=False)
    assert layer == rx.ConvLSTMCell(H, SPACE, (3, 3), recurrent_bias=True)
    assert_close("rounded", theirs.restore(*theirs.convert(theirs.params)), theirs.params, 1e-7)


def in_equinox(eqx: Any, cell: Any, reverse: bool) -> Theirs:
    cell = perturbed(cell)

    def run(cell: Any, xs: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            state = jax.vmap(cell)(x, state)
            return state, state[0] if is_lstm else state

        is_lstm = isinstance(cell, eqx.nn.LSTMCell)
        zeros = jnp.zeros((xs.shape[0], H))
        carry, ys = jax.lax.scan(step, (zeros, zeros) if is_lstm else zeros, xs.swapaxes(0, 1), reverse=reverse)
        return rx.LSTMState(*carry) if is_lstm else rx.GRUState(carry), ys.swapaxes(0, 1)

    return Theirs(cell, run, interop.from_equinox, interop.to_equinox)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_equinox(name: str, use_bias: bool) -> None:
    eqx = pytest.importorskip("equinox")
    cell = getattr(eqx.nn, name)(I, H, use_bias, key=jax.random.key(0))
    layer = check(in_equinox(eqx, cell, reverse=use_bias), XS, reverse=use_bias)
    assert layer == getattr(rx, name)(H, bias=use_bias)


def test_biases_that_are_only_added_become_one() -> None:
    """Where the other library has one bias for our two, a run is the same."""
    pytest.importorskip("equinox")
    for layer in (rx.LSTMCell(H, recurrent_bias=True), rx.GRUCell(H)):
        params = perturbed_params(layer, I)
        expected = rx.scan(layer, params, XS)
        for back, own in (
            interop.from_linen(*interop.to_linen(layer, params)),
            interop.from_equinox(interop.to_equinox(layer, params)),
        ):
            assert_close(repr(layer), rx.scan(back, own, XS), expected, 1e-6)
    elman = rx.ElmanCell(H, bias=False, recurrent_bias=True)
    params = perturbed_params(elman, I)
    assert same(interop.from_nnx(interop.to_nnx(elman, params))[1].bias, params.recurrent_bias)


LSTM, GRU = rx.LSTMCell(H), rx.GRUCell(H)


def refused(convert: Callable, layer: rx.Layer) -> Callable:
    return lambda: convert(layer, perturbed_params(layer, I))


SIMPLE = nn.SimpleCell(H)
MERGED = nn.Bidirectional(nn.RNN(SIMPLE), nn.RNN(SIMPLE), merge_fn=jnp.maximum)
DENSES = {"i": {"kernel": jnp.ones((I, H)), "bias": jnp.ones(H)}, "h": {"kernel": jnp.ones((H, H))}}
TWO = {path: {"w": jnp.ones((I + H, 4 * H)), "b": jnp.ones(4 * H)} for path in ("a/linear", "b/linear")}


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (
            ValueError,
            refused(interop.to_nnx, GRU),
            r"`recurrent_bias` of the candidate n must be zero .*value is 0\.\d",
        ),
        (ValueError, refused(interop.to_linen, rx.LSTMCell(H, 2)), r"`proj_size` of `layer` must be 0 for flax.*got 2"),
        (ValueError, refused(interop.to_linen, rx.GRUCell(H, False)), r"`reset_after` of `layer` must be True"),
        (ValueError, refused(interop.to_nnx, rx.Stack((LSTM,), 0.5)), r"`dropout` of `layer` must be 0\.0 for Flax"),
        (
            TypeError,
            refused(interop.to_linen, rx.Residual(rx.LSTMCell(I))),
            r"`layer` must be one of ElmanCell, .*Residual",
        ),
        (TypeError, refused(interop.to_nnx, rx.Bidirectional(rx.Stack((LSTM,)))), r"Bidirectional can only turn RNNs"),
        (TypeError, refused(interop.to_nnx, rx.MGUCell(H)), r"one of ElmanCell, LSTMCell, GRUCell, .* got MGUCell"),
        (TypeError, refused(interop.to_equinox, rx.Stack((LSTM,))), r"must be one of LSTMCell, GRUCell; got Stack"),
        (
            ValueError,
            refused(interop.to_equinox, rx.LSTMCell(H, activation=jnp.sin)),
            r"must be tanh .*; got sin in LSTMC",
        ),
        (
            TypeError,
            refused(interop.to_haiku, rx.Bidirectional(GRU)),
            r"one of .*, a Stack of these; got Bidirectional",
        ),
        (ValueError, refused(interop.to_haiku, GRU), r"`reset_after` of `layer` must be False for haiku.GRU; got True"),
        (
            ValueError,
            refused(interop.to_haiku, rx.ElmanCell(H)),
            r"`activation` of `layer` must be relu for haiku.Vanil",
        ),
        (
            ValueError,
            lambda: interop.to_haiku(cell := rx.ConvLSTMCell(H, 5, 3, strides=2), perturbed_params(cell, I)),
            r"`strides` and `dilation` of `layer` must be 1 for haiku",
        ),
        (ValueError, lambda: interop.from_haiku(TWO), r"`prefix` must pick one core of several; got None.*'a', 'b'"),
        (
            ValueError,
            lambda: interop.from_haiku(TWO, prefix="c"),
            r"`prefix` must be the path of a core; got 'c'.*'a', 'b'",
        ),
        (
            TypeError,
            lambda: interop.from_linen(nn.Dense(H), {}),
            r"must be one of flax.linen.SimpleCell, .*; got .*Dense",
        ),
        (
            ValueError,
            lambda: interop.from_linen(SIMPLE, {"params": {}}),
            r"must hold 'i' .*Pass `variables\[\"params\"\]`",
        ),
        (ValueError, lambda: interop.from_linen(nn.RNN(SIMPLE, reverse=True), {}), r"pass `reverse=True` to `scan`"),
        (
            ValueError,
            lambda: interop.from_linen(nn.SimpleCell(H, residual=True), DENSES),
            r"`residual` of SimpleCell must",
        ),
        (
            ValueError,
            lambda: interop.from_linen(MERGED, {f"{way}_rnn": {"cell": DENSES} for way in ("forward", "backward")}),
            r"`merge_fn` must be the default, jax.numpy.add",
        ),
        (
            ValueError,
            lambda: interop.from_linen(nn.ConvLSTMCell(H, (3,)), {}),
            r"`input_shape` must be the spatial shape",
        ),
        (
            ValueError,
            lambda: interop.from_linen(nn.ConvLSTMCell(H, (3,), padding="VALID"), {}, input_shape=(5,)),
            r"`strides` and `padding` of ConvLSTMCell must be 1 and \"SAME\".* got None and 'VALID'",
        ),
        (
            TypeError,
            lambda: interop.from_nnx(nnx.Linear(3, 4, rngs=nnx.Rngs(0))),
            r"one of flax.nnx.SimpleCell.*Linear",
        ),
    ],
)
def test_errors_teach(error: type, make: Callable, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
