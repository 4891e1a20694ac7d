"""`check_contract` for every cell and every composition."""

import jax
import jax.numpy as jnp
import pytest

import recurrax as rx
from recurrax.testing import check_contract

LAYERS = [
    rx.ElmanCell(4, recurrent_bias=True),
    rx.ElmanCell(4, jax.nn.relu, bias=False),
    rx.LSTMCell(4),
    rx.LSTMCell(5, proj_size=3, recurrent_bias=True, gate_activation=jax.nn.hard_sigmoid, activation=jnp.arctan),
    rx.GRUCell(4),
    rx.GRUCell(4, reset_after=False, recurrent_bias=True),
    rx.Stack((rx.LSTMCell(4), rx.GRUCell(3)), dropout=0.5),
    rx.Bidirectional(rx.ElmanCell(3), rx.LSTMCell(5, proj_size=3), merge="mul"),
    rx.Residual(rx.ElmanCell(3)),
    rx.Stack(
        (
            rx.Bidirectional(rx.ElmanCell(3), rx.GRUCell(3), merge="ave"),
            rx.Dropout(0.2),
            rx.Residual(rx.Stack((rx.ElmanCell(4), rx.Bidirectional(rx.ElmanCell(3), merge="sum")))),
        )
    ),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_contract(layer: rx.Layer) -> None:
    affine = isinstance(layer, rx.AffineCell) and layer.is_affine
    check_contract(layer, implementation="hoisted" if affine else None)
