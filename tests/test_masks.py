"""What masks, resets and parts promise: NaN stays where it is, and a sequence in parts is the sequence."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recurrax as rx
from quick import quick_first
from recurrax._layer import Params, State
from recurrax.testing import (
    assert_close,
    check_contract,
    normal_like,
    perturbed_params,
    run_segments_apart,
    values_and_gradients,
)

THOROUGH = os.environ.get("CONTRACT") == "whole"


@dataclasses.dataclass(frozen=True, repr=False)
class UnitCell(rx.Cell):
    """A user's cell whose state has length 1: it has no derivative at a state and an input of zero."""

    def init(self, key, input_size, dtype=jnp.float32):
        return jax.nn.initializers.glorot_uniform()(key, (input_size, self.hidden_size), dtype)

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return rx.cells.GRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params, xs):
        return xs @ params

    def step(self, params, state, z):
        h = state.h + z
        h = h / jnp.linalg.norm(h, axis=-1, keepdims=True)
        return rx.cells.GRUState(h), h


SINGULAR = [
    rx.Activation(lambda x: jnp.sqrt(jnp.abs(x))),
    rx.RMSNorm(epsilon=0.0),
    UnitCell(3),
    rx.Stack((rx.GRUCell(3), rx.LayerNorm(epsilon=0.0), rx.MinGRUCell(3), rx.RMSNorm(epsilon=0.0))),
]


@pytest.mark.parametrize("layer", SINGULAR, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_have_no_influence_where_a_function_has_no_derivative(layer: rx.Layer, reverse: bool) -> None:
    params = perturbed_params(layer, 3)
    mask = jnp.array([[True, True, False], [False, True, True], [False, False, False]])
    xs = normal_like(jax.ShapeDtypeStruct((3, 3, 3), jnp.float32), seed=1)
    holed = jnp.where(mask[..., None], xs, jnp.nan)
    _, grads = values_and_gradients(
        lambda params, xs: rx.scan(layer, params, xs, mask=mask, reverse=reverse), params, holed
    )
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    "layer",
    quick_first([rx.LSTMCell(3), rx.CausalConv(3), rx.MinGRUCell(3), rx.MLSTMCell(3), rx.Residual(rx.SRUCell(3))], 2),
    ids=str,
)
def test_a_broken_state_that_no_step_sees_breaks_nothing(layer: rx.Layer) -> None:
    params = perturbed_params(layer, 3)
    xs = normal_like(jax.ShapeDtypeStruct((2, 3, 3), jnp.float32), seed=1)
    state = jax.tree.map(lambda s: s.at[0].set(jnp.nan), layer.initial_state((2,)))
    lengths = jnp.array([0, 3])
    (final, ys), (grads, _) = values_and_gradients(
        lambda params, xs: rx.scan(layer, params, xs, state, lengths=lengths), params, xs
    )
    assert all(bool(jnp.isnan(leaf[0]).all()) for leaf in jax.tree.leaves(final))  # Kept as it came.
    for leaf in jax.tree.leaves((ys, jax.tree.map(lambda s: s[1], final), grads)):
        assert bool(jnp.isfinite(leaf).all())


LINEAR = ["sequential", "associative", "blocked"]


@pytest.mark.parametrize("implementation", LINEAR)
def test_a_reset_clears_what_is_not_finite(implementation: str) -> None:
    check_contract(rx.MinGRUCell(3), implementation=implementation, promises=["resets"])


def test_a_reset_clears_what_is_not_finite_between_devices() -> None:
    mesh = jax.make_mesh((8,), ("time",), axis_types=(jax.sharding.AxisType.Auto,))
    check_contract(rx.MinGRUCell(3), implementation=rx.implementations.TimeSharded(mesh, "time"), promises=["resets"])


@pytest.mark.thorough
def test_gradients_of_a_segment_ignore_a_broken_one() -> None:
    reset = jnp.array([[False, False, True, False, True, False]])
    for cell in (rx.MinGRUCell(3), rx.LRUCell(3), rx.MLSTMCell(3)):
        params = perturbed_params(cell, 3)
        xs = normal_like(jax.ShapeDtypeStruct((1, 6, 3), jnp.float32), seed=1)

        def middle(xs: jax.Array, cell: rx.Layer = cell, params: Params = params) -> jax.Array:
            return rx.scan(cell, params, xs, reset=reset)[1][:, 2:4].sum()

        expected = jax.grad(middle)(xs)
        broken = xs.at[0, 0].set(jnp.nan).at[0, 5].set(jnp.inf)
        np.testing.assert_allclose(jax.grad(middle)(broken)[:, 2:4], expected[:, 2:4], rtol=1e-5)


def test_chunks_of_an_mlstm_are_causal_for_what_is_not_finite() -> None:
    cell = rx.MLSTMCell(4, num_heads=2)
    params = perturbed_params(cell, 3)
    xs = normal_like(jax.ShapeDtypeStruct((2, 7, 3), jnp.float32), seed=1)
    _, expected = rx.scan(cell, params, xs, implementation="xla")
    for number in (jnp.nan, jnp.inf, -jnp.inf):
        for implementation in (rx.implementations.Chunked(3), rx.implementations.Chunked(16)):
            broken = xs.at[0, 4].set(number)
            state, ys = rx.scan(cell, params, broken, implementation=implementation)
            assert_close("steps before, and the other row", (ys[0, :4], ys[1]), (expected[0, :4], expected[1]), 1e-5)
            assert bool(jnp.isnan(ys[0, 4:]).all())
            assert bool(jnp.isnan(state.c[0]).all())


def test_a_flag_on_a_masked_step_at_the_end_of_a_part_is_in_the_state() -> None:
    cell = rx.GRUCell(3)
    params = perturbed_params(cell, 3)
    xs = normal_like(jax.ShapeDtypeStruct((4, 3), jnp.float32), seed=1)
    mask = jnp.array([True, True, False, True])
    reset = jnp.array([False, False, True, False])
    state, _ = rx.scan(cell, params, xs[:3], mask=mask[:3], reset=reset[:3])
    assert_close("the state", state, cell.initial_state(), 0.0)
    # Backwards the flag of the first step acts after that step.
    state, _ = rx.scan(cell, params, xs[2:], reset=reset[2:], reverse=True)
    assert_close("the state, backwards", state, cell.initial_state(), 0.0)


LEAVES = [
    rx.ElmanCell(3),
    rx.LSTMCell(4, proj_size=3),
    rx.GRUCell(3),
    rx.SLSTMCell(3),
    rx.MLSTMCell(3),
    rx.MinGRUCell(3),
    rx.LRUCell(3),
    rx.CausalConv(3, 2),
    rx.Stack((rx.Window(3, 2), rx.Dense(3, jnp.tanh))),
    rx.RMSNorm(),
    rx.LearnedInitialState(rx.GRUCell(3)),
    rx.Zoneout(rx.LSTMCell(3), 0.3),
    rx.GradientClip(rx.ElmanCell(3), 1e-2),
]


def composed(layers: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.tuples(layers, layers).map(rx.Stack),
        layers.map(rx.Residual),
        st.tuples(layers, layers).map(lambda pair: rx.Gated(*pair)),
        layers.map(lambda layer: rx.Bidirectional(layer, merge="sum")),
    )


def depth(layer: rx.Layer) -> int:
    return 1 + max(map(depth, layer.parts), default=0)


def implementations(layer: rx.Layer) -> list:
    """The names that serve every cell in the layer."""
    cells = [layer] if not layer.parts else []
    parts = list(layer.parts)
    while parts:
        part = parts.pop()
        parts += part.parts
        cells += [] if part.parts else [part]
    linear = all(isinstance(cell, rx.LinearCell) for cell in cells if isinstance(cell, rx.Cell))
    return [None, "xla", *(LINEAR if linear else [])]


@settings(max_examples=60 if THOROUGH else 1, derandomize=True)
@given(data=st.data())
def test_any_composition_is_the_same_at_once_in_parts_and_step_by_step(data: st.DataObject) -> None:
    layers = st.recursive(st.sampled_from(LEAVES), composed, max_leaves=3).filter(lambda layer: depth(layer) <= 5)
    layer = data.draw(layers)
    flags = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=2).map(np.array)
    mask, reset = data.draw(flags), data.draw(flags)
    reverse, cut = data.draw(st.booleans()), data.draw(st.integers(0, 5))
    implementation = data.draw(st.sampled_from(implementations(layer)))
    params, state = perturbed_params(layer, 3), normal_like(jax.eval_shape(lambda: layer.initial_state((2,))), seed=2)
    xs = normal_like(jax.ShapeDtypeStruct((2, 5, 3), jnp.float32), seed=1)
    options = {"reverse": reverse, "implementation": implementation}

    def at_once(params: Params, xs: jax.Array, state: State) -> tuple:
        return rx.scan(layer, params, xs, state, mask=mask, reset=reset, **options)

    if not layer.causal:  # Its parts cannot be joined; its segments can be run apart.

        def apart(params: Params, xs: jax.Array) -> jax.Array:
            def run(params: Params, xs: jax.Array, state: State, reverse: bool) -> tuple:
                return rx.scan(layer, params, xs, state, **{**options, "reverse": reverse})

            rest = layer.first_state(params, (2,))
            return run_segments_apart(run, layer.first_state(params), params, xs, rest, mask, reset, reverse)[1]

        def outputs(params: Params, xs: jax.Array) -> jax.Array:
            return at_once(params, xs, layer.first_state(params, (2,)))[1]

        assert_close(
            "segments run apart",
            values_and_gradients(apart, params, xs),
            values_and_gradients(outputs, params, xs),
            1e-4,
        )
        return

    def in_parts(params: Params, xs: jax.Array, state: State) -> tuple:
        outputs = {}
        pieces = [slice(0, cut), slice(cut, 5)]
        for piece in reversed(pieces) if reverse else pieces:
            flags = {"mask": mask[:, piece], "reset": reset[:, piece]}
            state, outputs[piece.start, piece.stop] = rx.scan(layer, params, xs[:, piece], state, **flags, **options)
        return state, jnp.concatenate([outputs[0, cut], outputs[cut, 5]], axis=1)

    expected = values_and_gradients(at_once, params, xs, state)
    assert_close("two parts", values_and_gradients(in_parts, params, xs, state), expected, 1e-4)
    if reverse:
        return

    def step_by_step(params: Params, xs: jax.Array, state: State) -> tuple:
        def advance(state: State, at: tuple) -> tuple:
            x, mask, reset = at
            return rx.step(layer, params, x, state, mask=mask, reset=reset)

        state, ys = jax.lax.scan(advance, state, (jnp.swapaxes(xs, 0, 1), mask.T, reset.T))
        return state, jnp.swapaxes(ys, 0, 1)

    assert_close("step by step", values_and_gradients(step_by_step, params, xs, state), expected, 1e-4)
