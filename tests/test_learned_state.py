"""A learned initial state: where it stands, and that every gradient reaches it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params

XS = normal_like(jax.ShapeDtypeStruct((2, 6, 3), jnp.float32), 1)


def test_contract() -> None:
    check_contract(rx.LearnedInitialState(rx.GRUCell(3)), implementation="hoisted")


@pytest.mark.thorough
def test_every_way_to_walk_gives_the_same_gradients() -> None:
    layer = rx.LearnedInitialState(rx.LSTMCell(4))
    params = perturbed_params(layer, 3)
    options = {"lengths": jnp.array([6, 4]), "reset": np.arange(6) % 3 == np.array([[1], [2]])}

    @jax.jit
    def gradients(params: rx.layers.LearnedInitialStateParams) -> list:
        def of(reverse: bool, **how) -> rx.layers.LearnedInitialStateParams:
            run = lambda params: rx.scan(layer, params, XS, reverse=reverse, **options, **how)[1].sum()  # noqa: E731
            return jax.grad(run)(params)

        ways = {"implementation": "hoisted"}, {"implementation": "xla"}, {"implementation": "hoisted", "remat": 2}
        return [[of(reverse, **how) for how in ways] for reverse in (False, True)]

    for hoisted, plain, in_parts in gradients(params):
        assert hoisted.state.h.all()
        assert hoisted.state.c.all()
        assert_close("hoisted and plain", hoisted, plain, 1e-5)
        assert_close("in parts and at once", in_parts, plain, 1e-5)


@pytest.mark.thorough
def test_modules_begin_with_it() -> None:
    layer = rx.Stack((rx.LearnedInitialState(rx.Zoneout(rx.GRUCell(4), 0.5)), rx.ElmanCell(2)))
    params = perturbed_params(layer, 3)
    model = rnn.Recurrent(layer, 3, rngs=nnx.Rngs(params=0, dropout=1))
    for variable, value in zip(
        jax.tree.leaves(model.params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)),
        jax.tree.leaves(params),
        strict=True,
    ):
        variable[...] = value
    _, state = model(XS, lengths=jnp.array([0, 6]))
    np.testing.assert_array_equal(state[0].h[0], params[0].state.h)
    np.testing.assert_array_equal(model.initial_state((2,))[0].h[0], params[0].state.h)
    variables = linen.Recurrent(layer).init(jax.random.key(0), XS, deterministic=True)
    assert variables["params"]["layers_0"]["state"]["h"].shape == (4,)


@pytest.mark.parametrize(
    "layer",
    [rx.Stack((rx.GRUCell(3),)), rx.Residual(rx.Bidirectional(rx.GRUCell(3))), rx.LearnedInitialState(rx.GRUCell(3))],
    ids=str,
)
def test_it_is_that_of_one_cell(layer: rx.Layer) -> None:
    with pytest.raises(TypeError, match="`layer` of LearnedInitialState must be a cell"):
        rx.LearnedInitialState(layer)


EXPONENTIAL = [rx.SLSTMCell(4, 2), rx.SLSTMCell(4, forget_gate="exp"), rx.MLSTMCell(4, 2)]


@pytest.mark.thorough
@pytest.mark.parametrize("cell", EXPONENTIAL, ids=str)
def test_outputs_and_gradients_are_continuous_where_it_begins(cell: rx.Cell) -> None:
    layer, rng = rx.LearnedInitialState(cell), np.random.default_rng(0)
    double = lambda leaf: np.asarray(leaf, np.float64)  # noqa: E731
    params = jax.tree.map(double, perturbed_params(layer, 3)._replace(state=cell.initial_state()))
    # The input gates are rather shut, so that a past weighs more than the first step.
    gates = slice(-2 * cell.num_heads, -cell.num_heads) if isinstance(cell, rx.MLSTMCell) else slice(cell.hidden_size)
    params.layer.bias[gates] -= 3
    away = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params.state)
    xs = rng.standard_normal((2, 4, 3))
    with jax.enable_x64(True):

        @jax.jit
        def at(by: jax.Array) -> tuple:
            def loss(by: jax.Array) -> tuple:
                state = jax.tree.map(lambda leaf, way: leaf + by * way, params.state, away)
                ys = rx.scan(layer, params._replace(state=state), xs)[1]
                return jnp.sin(ys).sum(), ys

            return jax.value_and_grad(loss, has_aux=True)(by)

        (start, ys), slope = at(jnp.zeros(()))
        for by in (1e-9, 1e-7, 1e-5, -1e-9, -1e-7, -1e-5):
            (value, moved), there = at(jnp.asarray(by))
            assert_close(f"outputs {by} away", moved, ys, 100 * abs(by))
            assert_close(f"gradient {by} away", there, slope, 1e3 * abs(by))
            assert_close(f"difference {by} away", (value - start) / by, slope, 1e3 * abs(by) + 1e-6)
