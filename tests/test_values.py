"""Layers and modules are values: they can be pickled, and what does not act in a step compiles nothing anew."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from tests.test_modules import CELLS, WRAPPERS, layer_of

LAYERS = [layer_of(kind) for kind in CELLS + WRAPPERS] + [
    rx.Stack((rx.Bidirectional(rx.LSTMCell(4, activation=jax.nn.relu)), rx.Residual(rx.GRUCell(8))), dropout=0.5),
    rx.Stack((rx.Dense(4), rx.Activation(jax.nn.gelu), rx.LayerNorm(), rx.CausalConv(4))),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_are_pickled_and_copied(layer: rx.Layer) -> None:
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other == layer
        assert hash(other) == hash(layer)
        assert repr(other) == repr(layer)
    assert "<function" not in repr(layer)


def test_modules_are_pickled_with_their_parameters() -> None:
    x = jnp.ones((2, 7, 3))
    model = rnn.LSTM(3, 4, 2, dropout=0.5, batch_first=True, activation=jnp.sin, rngs=nnx.Rngs(0))
    model.eval()
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other(x)[0], model(x)[0])

    modules: list[Any] = [linen.GRU(4, num_layers=2), linen.LSTM(4, activation=jnp.sin), linen.Recurrent(LAYERS[0])]
    for module in modules:
        assert pickle.loads(pickle.dumps(module)) == module


def test_a_new_initializer_compiles_nothing_anew() -> None:
    traced = []

    class Counted(rx.LSTMCell):
        def pointwise(self, *args: Any) -> Any:
            traced.append(1)
            return super().pointwise(*args)

    def run(scale: float) -> None:
        cell = Counted(4, kernel_init=jax.nn.initializers.normal(scale))
        for layer in (
            cell,
            rx.Stack((rx.Bidirectional(cell), rx.Zoneout(Counted(4, bias_init=lambda *a: jnp.zeros(*a[1:]))))),
        ):
            rx.scan(layer, layer.init(jax.random.key(0), 3), jnp.ones((5, 3)))

    run(0.1)
    number = len(traced)
    run(0.2)
    assert number
    assert len(traced) == number
    one, other = (rx.LSTMCell(4, kernel_init=jax.nn.initializers.normal(scale)) for scale in (0.1, 0.2))
    assert one != other
