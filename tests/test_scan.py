"""The driver beyond `check_contract`: properties, numerical derivatives, placement, compilation, errors."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

import recurrax as rx
from recurrax.testing import assert_close, normal_like, perturbed_params, run_segments_apart, values_and_gradients

CELL = rx.GRUCell(4)
PARAMS = perturbed_params(CELL, 3)
LAYERS = {
    "elman": rx.ElmanCell(3),
    "lstm": rx.LSTMCell(3, proj_size=2),
    "gru": rx.GRUCell(3),
    "gru reset before": rx.GRUCell(3, reset_after=False),
    "deep": rx.Stack((rx.Bidirectional(rx.LSTMCell(2), rx.GRUCell(2)), rx.Residual(rx.ElmanCell(4)))),
}
BEST = {name: None if name == "gru reset before" else "hoisted" for name in LAYERS}


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


@jax.jit
def _one(xs, state):
    return rx.scan(CELL, PARAMS, xs, state, implementation="xla")


@jax.jit
def _one_back(xs, state):
    return rx.scan(CELL, PARAMS, xs, state, reverse=True, implementation="xla")


@settings(max_examples=10)
@given(st.data())
def test_any_pattern_of_masks_and_resets_equals_segments_run_apart(data: st.DataObject) -> None:
    flags = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=2, max_size=2)
    mask, reset, reverse = np.array(data.draw(flags)), np.array(data.draw(flags)), data.draw(st.booleans())
    if not mask.any():
        mask[0, 0] = True
    xs, state = normal(2, 5, 3), rx.cells.GRUState(normal(2, 4, seed=2))

    def run(_: object, xs: jax.Array, state: rx.cells.GRUState, *, reverse: bool) -> tuple:
        rows = [(_one_back if reverse else _one)(x, rx.cells.GRUState(h)) for x, h in zip(xs, state.h, strict=True)]
        return jax.tree.map(lambda *rows: jnp.stack(rows), *rows)

    options = {"mask": mask, "reset": reset, "reverse": reverse, "implementation": "hoisted"}
    got = rx.scan(CELL, PARAMS, jnp.where(mask[..., None], xs, jnp.nan), state, **options)
    assert_close(
        "scan", got, run_segments_apart(run, CELL.initial_state(), PARAMS, xs, state, mask, reset, reverse), 1e-5
    )


@settings(max_examples=30)
@given(st.lists(st.integers(-2, 8), min_size=3, max_size=3), st.booleans())
def test_any_lengths_equal_their_mask(lengths: list[int], reverse: bool) -> None:
    mask = np.arange(5) < np.array(lengths)[:, None]
    np.testing.assert_array_equal(rx.lengths_to_mask(jnp.array(lengths), 5), mask)
    xs = normal(3, 5, 3)
    got = rx.scan(CELL, PARAMS, xs, lengths=jnp.array(lengths), reverse=reverse)
    assert_close("lengths", got, rx.scan(CELL, PARAMS, xs, mask=mask, reverse=reverse), 0.0)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=5))
def test_segment_ids_mark_the_first_step_of_each_segment(runs: list[tuple[int, int]]) -> None:
    ids = [i for i, n in runs for _ in range(n)]
    expected = [i != 0 and (t == 0 or ids[t - 1] != i) for t, i in enumerate(ids)]
    assert rx.segment_ids_to_reset(jnp.array([ids, ids])).tolist() == [expected, expected]


@pytest.mark.thorough
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_are_those_of_finite_differences_in_float64(name: str) -> None:
    layer = LAYERS[name]
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)  # noqa: E731
        params, xs = double(perturbed_params(layer, 3)), double(normal(2, 4, 3))
        state = double(normal_like(jax.eval_shape(lambda: layer.initial_state((2,))), 2))
        mask = jnp.array([[True, True, False, True], [True, False, False, False]])

        @jax.jit
        def run(params, xs, state):
            final, ys = rx.scan(layer, params, xs, state, mask=mask, implementation=BEST[name])
            return sum((jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(final)), jnp.sum(ys**2))

        assert run(params, xs, state).dtype == jnp.float64
        default, _ = rx.scan(layer, params, xs)
        assert {leaf.dtype for leaf in jax.tree.leaves(default)} == {jnp.dtype(jnp.float64)}
        check_grads(run, (params, xs, state), order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-5)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(
    ("name", "implementation"), [("lstm", "xla"), pytest.param("deep", "hoisted", marks=pytest.mark.thorough)]
)
def test_inputs_sharded_over_a_mesh(name: str, implementation: str, axis_type: AxisType) -> None:
    layer = LAYERS[name]
    params, xs, lengths = perturbed_params(layer, 3), normal(8, 5, 3), jnp.arange(8) % 6
    reset = jnp.zeros((8, 5), bool).at[::2, 2].set(True)

    def run(params, xs, lengths, reset):
        return rx.scan(layer, params, xs, lengths=lengths, reset=reset, implementation=implementation)

    expected = values_and_gradients(lambda params, xs: run(params, xs, lengths, reset), params, xs)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        placed = [jax.device_put(x, rows) for x in (xs, lengths, reset)]
        got = jax.jit(run)(params, *placed)
        assert {leaf.sharding.spec[0] for leaf in jax.tree.leaves(got)} == {"data"}
        assert_close("outputs", jax.device_get(got), expected[0], 1e-5)

        def loss(params, xs):
            final, ys = run(params, xs, *placed[1:])
            pairs = zip(jax.tree.leaves((final, ys)), jax.tree.leaves(normal_like(expected[0], 3)), strict=True)
            return sum((jnp.sum(a * jax.device_put(b, rows)) for a, b in pairs), jnp.zeros(()))

        grads = jax.jit(jax.grad(loss, (0, 1)))(params, placed[0])
        assert_close("gradients", jax.device_get(grads), expected[1], 1e-5)


def test_inside_shard_map() -> None:
    layer = LAYERS["deep"]
    params, xs = perturbed_params(layer, 3), normal(8, 5, 3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    run = jax.shard_map(
        lambda params, xs: rx.scan(layer, params, xs, implementation="hoisted")[1],
        mesh=mesh,
        in_specs=(everywhere, rows),
        out_specs=rows,
    )
    assert_close("outputs", jax.jit(run)(params, xs), rx.scan(layer, params, xs)[1], 1e-5)


def test_a_call_outside_of_jit_compiles_once() -> None:
    compiled = []
    listen = lambda event, duration, **_: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    layer, xs = rx.Stack((rx.LSTMCell(3), rx.GRUCell(5))), normal(2, 3, 7)
    params = layer.init(jax.random.key(0), 7)
    state, _ = rx.scan(layer, params, xs)
    rx.step(layer, params, xs[:, 0], state)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(3):
            twin = rx.Stack((rx.LSTMCell(3), rx.GRUCell(5)))
            state, _ = rx.scan(twin, params, xs)
            rx.step(twin, params, xs[:, 0], state)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_num_params_is_that_of_the_textbook() -> None:
    gate = (100 + 256) * 256 + 256
    for cell, gates in ((rx.ElmanCell(256), 1), (rx.LSTMCell(256), 4), (rx.GRUCell(256, reset_after=False), 3)):
        assert rx.num_params(cell, 100) == gates * gate
        both = dataclasses.replace(cell, recurrent_bias=True)
        assert rx.num_params(both, 100) == gates * (gate + 256)
        assert rx.num_params(dataclasses.replace(cell, bias=False), 100) == gates * (gate - 256)
        drawn = cell.init(jax.random.key(0), 100)
        assert rx.num_params(cell, 100) == sum(leaf.size for leaf in jax.tree.leaves(drawn))
    assert rx.num_params(rx.GRUCell(256), 100) == 3 * (gate + 256)  # Keras' count for `reset_after=True`
    assert rx.num_params(rx.LSTMCell(256, proj_size=64), 100) == 4 * ((100 + 64) * 256 + 256) + 256 * 64
    assert rx.num_params(rx.Stack((rx.Bidirectional(rx.LSTMCell(256)), rx.Dropout(0.5), rx.ElmanCell(8))), 100) == (
        2 * 4 * gate + (512 + 8) * 8 + 8
    )


def test_initial_parameters() -> None:
    size = 64
    for cell in (rx.LSTMCell(size, recurrent_bias=True), rx.GRUCell(size)):
        params = cell.init(jax.random.key(0), 32)
        for gate in jnp.split(params.recurrent_kernel, cell.gates, axis=1):
            np.testing.assert_allclose(gate @ gate.T, np.eye(size), atol=1e-5)
        assert float(jnp.abs(params.kernel).max()) <= (6 / (32 + size)) ** 0.5
        assert not params.recurrent_bias.any()
    bias = rx.LSTMCell(size, forget_bias=2.0).init(jax.random.key(0), 32).bias
    np.testing.assert_array_equal(bias, np.repeat([0.0, 2.0, 0.0, 0.0], size))
    for dtype in (jnp.bfloat16, jnp.float32):
        leaves = jax.tree.leaves(rx.LSTMCell(4, proj_size=2).init(jax.random.key(0), 3, dtype))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}


def test_bfloat16_products_with_a_float32_state_accumulate_in_float32() -> None:
    cell = rx.LSTMCell(64, forget_bias=6.0, dtype=jnp.bfloat16)  # remembers for long, so that roundings add up
    params, xs = perturbed_params(cell, 32, scale=0.02), normal(2, 200, 32)
    state, ys = rx.scan(cell, params, xs)
    assert (state.c.dtype, ys.dtype) == (jnp.float32, jnp.float32)
    _, exact = rx.scan(dataclasses.replace(cell, dtype=None), params, xs)
    _, rounded = rx.scan(cell, params, xs, jax.tree.map(lambda s: s.astype(jnp.bfloat16), cell.initial_state((2,))))
    error, worse = (float(jnp.abs(y - exact).mean()) for y in (ys, rounded))
    assert error < worse / 2


@pytest.mark.thorough
def test_merges() -> None:
    forward, backward = rx.LSTMCell(3), rx.GRUCell(3)
    xs, lengths = normal(2, 5, 4), jnp.array([5, 2])
    params = perturbed_params(rx.Bidirectional(forward, backward), 4)
    _, ahead = rx.scan(forward, params.forward, xs, lengths=lengths)
    _, back = rx.scan(backward, params.backward, xs, lengths=lengths, reverse=True)
    merged = {"concat": jnp.concatenate([ahead, back], -1), "sum": ahead + back, "mul": ahead * back}
    merged["ave"] = merged["sum"] / 2
    for merge, expected in merged.items():
        layer = rx.Bidirectional(forward, backward, merge)
        assert layer.output_size(4) == expected.shape[-1]
        assert_close(merge, rx.scan(layer, params, xs, lengths=lengths)[1], expected, 1e-6)


def test_dropout_keeps_the_expectation_and_differs_between_steps_and_layers() -> None:
    _, ys = rx.scan(rx.Dropout(0.25), (), jnp.ones((100, 10, 20)), key=jax.random.key(0))
    assert set(np.unique(ys)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(ys.mean()) - 1) < 0.02
    assert not jnp.array_equal(ys[:, 0], ys[:, 1])
    _, twice = rx.scan(rx.Stack((rx.Dropout(0.5), rx.Dropout(0.5))), ((), ()), jnp.ones((9, 50)), key=jax.random.key(0))
    assert set(np.unique(twice)) == {0.0, 4.0}
    _, between = rx.scan(rx.Stack((rx.Dropout(0.0),) * 3, 0.5), ((),) * 3, jnp.ones((9, 50)), key=jax.random.key(0))
    assert set(np.unique(between)) == {0.0, 4.0}
    _, masked = rx.scan(rx.Dropout(0.25), (), jnp.full((2, 5, 3), jnp.nan), lengths=jnp.zeros(2, int))
    assert not masked.any()


class Stateless(NamedTuple):
    """A layer may have an integer in its state, which keeps its dtype."""

    h: jax.Array
    count: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class CountingCell(rx.Cell):
    """Puts out the number of unmasked steps so far."""

    def init(self, key, input_size, dtype=jnp.float32):
        return ()

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return Stateless(jnp.zeros((*batch_shape, self.hidden_size), dtype), jnp.zeros(batch_shape, jnp.int32))

    def step(self, params, state, z):
        count = state.count + 1
        h = jnp.broadcast_to(count[..., None], state.h.shape).astype(z.dtype)
        return Stateless(h, count), h


def test_a_users_cell_with_an_integer_in_its_state() -> None:
    mask = jnp.array([True, False, True, True])
    reset = jnp.array([False, False, False, True])
    state, ys = rx.scan(CountingCell(2), (), jnp.ones((4, 1)), mask=mask, reset=reset)
    assert ys[:, 0].tolist() == [1, 0, 2, 1]
    assert state.count.dtype == jnp.int32


def test_layers_read_as_they_were_written_and_compare_by_value() -> None:
    layer = rx.Stack([rx.LSTMCell(4, proj_size=2), rx.ElmanCell(4, jax.nn.relu)], dropout=0.5)
    text = (
        "Stack(layers=(LSTMCell(hidden_size=4, proj_size=2), ElmanCell(hidden_size=4, activation=relu)), dropout=0.5)"
    )
    assert repr(layer) == text
    assert len({layer, dataclasses.replace(layer), rx.GRUCell(4), rx.GRUCell(4)}) == 2
