"""`check_contract` for every cell and every composition."""

import jax
import jax.numpy as jnp
import pytest

import recurrax as rx
from recurrax.testing import check_contract

THOROUGH = pytest.mark.thorough
LAYERS = [
    pytest.param(rx.ElmanCell(4, recurrent_bias=True), marks=THOROUGH),
    pytest.param(rx.ElmanCell(4, jax.nn.relu, bias=False), marks=THOROUGH),
    pytest.param(rx.LSTMCell(4), marks=THOROUGH),
    pytest.param(
        rx.LSTMCell(5, proj_size=3, recurrent_bias=True, gate_activation=jax.nn.hard_sigmoid, activation=jnp.arctan),
        marks=THOROUGH,
    ),
    # The example of `check_contract` checks this one at every run.
    pytest.param(rx.GRUCell(4), marks=THOROUGH),
    pytest.param(rx.GRUCell(4, reset_after=False, recurrent_bias=True), marks=THOROUGH),
    pytest.param(rx.Stack((rx.LSTMCell(4), rx.GRUCell(3)), dropout=0.5), marks=THOROUGH),
    pytest.param(
        rx.Bidirectional(rx.ElmanCell(3), rx.LSTMCell(5, proj_size=3), merge="mul"), marks=pytest.mark.thorough
    ),
    pytest.param(rx.Residual(rx.ElmanCell(3)), marks=THOROUGH),
    pytest.param(
        rx.Stack(
            (
                rx.Bidirectional(rx.ElmanCell(3), rx.GRUCell(3), merge="ave"),
                rx.Dropout(0.2),
                rx.Residual(rx.Stack((rx.ElmanCell(4), rx.Bidirectional(rx.ElmanCell(3), merge="sum")))),
            )
        ),
        marks=THOROUGH,
    ),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_contract(layer: rx.Layer) -> None:
    affine = isinstance(layer, rx.AffineCell) and layer.is_affine
    check_contract(layer, implementation="hoisted" if affine else None)
