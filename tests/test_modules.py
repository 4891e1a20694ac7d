"""Every cell and every wrapper as a module of both Flax frontends equals the core."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.testing import assert_close, normal_like, perturbed_params

# The static inputs of `EALSTMCell` are an argument of a module: tests/test_science_cells.py.
ABSTRACT = {"Cell", "AffineCell", "LinearCell", "EALSTMCell"}
CELLS = [
    cell for name, cell in vars(rx).items()
    if isinstance(cell, type) and issubclass(cell, rx.Cell) and name not in ABSTRACT
]  # fmt: skip
WRAPPERS: list[Any] = [
    rx.Zoneout, rx.RecurrentDropout, rx.UpdateDropout, rx.WeightDrop, rx.GradientClip, rx.LearnedInitialState,
    rx.RecurrentNoise, rx.Dale, rx.LowRank,
]  # fmt: skip


def layer_of(kind: Any) -> rx.Layer:
    if kind in WRAPPERS:
        return kind(rx.LSTMCell(4))
    needs = [name for name, p in inspect.signature(kind).parameters.items() if p.default is inspect.Parameter.empty]
    return kind(**{"hidden_size": 4, **{name: 3 for name in needs if name != "hidden_size"}})


# They share their paths with the others.
SCIENCE = [
    rx.LeakyCell, rx.BlockDiagonalLSTMCell, rx.BlockDiagonalGRUCell, rx.MogrifierLSTMCell, rx.MCLSTMCell,
    rx.RecurrentNoise, rx.LowRank,
]  # fmt: skip
KINDS = [pytest.param(kind, marks=pytest.mark.thorough) if kind in SCIENCE else kind for kind in CELLS + WRAPPERS]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_modules_equal_the_core(kind: Any) -> None:
    layer = layer_of(kind)
    space = getattr(layer, "input_shape", ())
    xs, lengths = normal_like(jax.ShapeDtypeStruct((2, 4, *space, 4), jnp.float32), 1), jnp.array([4, 2])

    params = perturbed_params(layer, 4)
    model = rnn.Recurrent(layer, 4, params=params, deterministic=True, rngs=nnx.Rngs(0))
    state, ys = rx.scan(layer, params, xs, lengths=lengths)
    assert_close("nnx", model(xs, lengths=lengths), (ys, state), 1e-6)

    module, variables = linen.Recurrent(layer, deterministic=True), linen.variables(params)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, module.init(jax.random.key(0), xs))
    assert_close("linen", module.apply(variables, xs, lengths=lengths), (ys, state), 1e-6)
    assert_close("there and back", linen.params_of(layer, variables), params, 0)

    x, before = xs[:, 0], layer.first_state(params, (2,))
    assert_close("one step", model.step(x, before), rx.step(layer, params, x, before)[::-1], 1e-6)
