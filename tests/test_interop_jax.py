"""Haiku and Equinox in and out: their runs and ours as functions of their parameters, and the way back bit by bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from peers import IMAGES, SPACE, XS, H, I, Theirs, check, perturbed
from recurrax import interop
from recurrax.testing import assert_close

GOLDEN = Path(__file__).parent / "golden" / "haiku.npz"


def in_haiku(hk: Any, make: Callable, reverse: bool, **options: Any) -> Theirs:
    def unroll(xs: Any) -> Any:
        core = make()
        state = core.initial_state(xs.shape[0])
        ys, state = hk.dynamic_unroll(core, xs, state, time_major=False, reverse=reverse)
        states = jax.tree.leaves([state], is_leaf=lambda node: isinstance(node, hk.LSTMState))
        return [rx.cells.LSTMState(*s) if isinstance(s, hk.LSTMState) else s for s in states], ys

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


def test_weights_without_haiku() -> None:
    """What golden/make_interop.py wrote: the weights of three cores, inputs, and what Haiku made of them."""
    stored, params = dict(np.load(GOLDEN)), {}
    for name, leaf in stored.items():
        path, _, part = name.rpartition(":")
        params.setdefault(path, {})[part] = leaf
    for path, kind in {"lstm": rx.LSTMCell, "gru": rx.GRUCell, "vanilla_rnn": rx.ElmanCell}.items():
        layer, own = interop.from_haiku(params, prefix=path)
        assert type(layer) is kind
        state, ys = rx.scan(layer, own, stored["x"], time_major=True)
        expected = layer.state_type(*(stored[f"{path}.{name}"] for name in state._fields))
        assert_close(path, (state, ys), (expected, stored[f"{path}.y"]), 1e-5)


def in_equinox(eqx: Any, cell: Any, reverse: bool) -> Theirs:
    cell = perturbed(cell)

    def run(cell: Any, xs: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            state = jax.vmap(cell)(x, state)
            return state, state[0] if is_lstm else state

        is_lstm = isinstance(cell, eqx.nn.LSTMCell)
        zeros = jnp.zeros((xs.shape[0], H))
        carry, ys = jax.lax.scan(step, (zeros, zeros) if is_lstm else zeros, xs.swapaxes(0, 1), reverse=reverse)
        return rx.cells.LSTMState(*carry) if is_lstm else rx.cells.GRUState(carry), ys.swapaxes(0, 1)

    return Theirs(cell, run, interop.from_equinox, interop.to_equinox)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell"])
def test_equinox(name: str, use_bias: bool) -> None:
    eqx = pytest.importorskip("equinox")
    cell = getattr(eqx.nn, name)(I, H, use_bias, key=jax.random.key(0))
    layer = check(in_equinox(eqx, cell, reverse=use_bias), XS, reverse=use_bias)
    assert layer == getattr(rx, name)(H, bias=use_bias)
