"""Flax Linen and NNX in and out: their runs and ours as functions of their parameters, and the way back bit by bit."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import recurrax as rx
from peers import IMAGES, SPACE, XS, H, I, Theirs, check, perturbed, same
from recurrax import interop
from recurrax.testing import assert_close, perturbed_params

LENGTHS = jnp.array([5, 3])


def our_state(layer: rx.Layer, carry: Any) -> Any:
    """Flax' carry as our state: it keeps c before h."""
    if isinstance(layer, rx.Bidirectional):
        return rx.layers.Directions(*map(our_state, layer.parts, carry))
    return rx.cells.LSTMState(*carry[::-1]) if layer.state_type is rx.cells.LSTMState else layer.state_type(carry)


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
    pytest.param(
        nn.Bidirectional(nn.RNN(nn.SimpleCell(H)), nn.RNN(nn.GRUCell(H)), merge_fn=jnp.multiply),
        marks=pytest.mark.thorough,
    ),
]


@pytest.mark.parametrize("module", LINEN, ids=lambda module: type(getattr(module, "cell", module)).__name__)
def test_linen(module: nn.Module) -> None:
    check(in_linen(module, XS), XS, lengths=LENGTHS)


@pytest.mark.thorough
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


@pytest.mark.thorough
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
