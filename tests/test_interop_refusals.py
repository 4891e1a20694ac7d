"""What Flax, Haiku and Equinox have no place for is said, not dropped; what they keep otherwise is kept."""

import importlib
import re
import sys
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import pytest
from flax import nnx

import examples.char_lm
import recurrax as rx
from peers import XS, H, I, same
from recurrax import interop
from recurrax.testing import assert_close, perturbed_params


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
        (
            TypeError,
            refused(interop.to_nnx, rx.Bidirectional(rx.Stack((LSTM,)))),
            r"`layer` must be a Bidirectional of cells; .* can only run",
        ),
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


@pytest.mark.parametrize(
    ("missing", "install", "run"),
    [
        ("safetensors", "recurrax[interop]", lambda: interop.save("nowhere", LSTM, perturbed_params(LSTM, I))),
        ("safetensors", "recurrax[interop]", lambda: interop.load("nowhere")),
        ("onnx", "recurrax[interop]", lambda: interop.to_onnx(LSTM, perturbed_params(LSTM, I))),
        ("onnx", "recurrax[interop]", lambda: interop.from_onnx(b"")),
        ("flatbuffers", "recurrax[interop]", lambda: interop.load_export("nowhere")),
        ("flatbuffers", "recurrax[interop]", lambda: interop.save_export("nowhere", None)),
        ("keras", "keras", lambda: interop.from_keras(None)),
        ("keras", "keras", lambda: interop.to_keras(LSTM, perturbed_params(LSTM, I))),
        ("torch", "torch", lambda: interop.to_torch(LSTM, perturbed_params(LSTM, I))),
        ("equinox", "equinox", lambda: interop.from_equinox(LSTM)),
        ("equinox", "equinox", lambda: interop.to_equinox(LSTM, perturbed_params(LSTM, I))),
        ("rich", "recurrax[examples]", lambda: importlib.reload(examples.char_lm)),
        ("matplotlib", "recurrax[examples]", lambda: importlib.reload(examples.char_lm)),
    ],
)
def test_a_missing_library_is_named(missing: str, install: str, run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=re.escape(f"this needs {missing}, which is not installed")) as raised:
        run()
    assert f"pip install '{install}'" in str(raised.value)
