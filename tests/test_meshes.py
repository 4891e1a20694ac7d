"""Whatever draws, and convolutional cells, in a training step under a mesh with Explicit axes."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import recurrax as rx
from recurrax import nnx as rnn
from recurrax.cells.convolutional import ConvElmanCell, ConvGRUCell, ConvLSTMCell
from recurrax.keras._gate_dropout import GateDropout
from recurrax.testing import assert_close, normal_like, perturbed_params

KEY = jax.random.key(3)
DRAWING = rx.Stack(
    (
        rx.Dropout(0.3, shared=True),
        rx.Zoneout(rx.RecurrentDropout(rx.ElmanCell(2), 0.3), 0.3),
        rx.WeightDrop(rx.UpdateDropout(rx.ElmanCell(2), 0.3), 0.3),
    )
)
MORE = [
    DRAWING,
    rx.UpdateDropout(rx.LSTMCell(3, proj_size=2), 0.3),
    rx.Bidirectional(rx.Zoneout(rx.UpdateDropout(rx.SLSTMCell(2), 0.3), 0.3), rx.Zoneout(rx.MLSTMCell(2), (0.3, 0.2))),
    rx.Zoneout(rx.QRNNCell(2), 0.3),
    rx.RecurrentNoise(rx.Dale(rx.Connectivity(rx.LeakyCell(2), ((True, False), (True, True))), (1, 0)), 0.3, 0.3),
    rx.GradientClip(GateDropout(rx.GRUCell(2), 0.3, 0.3, 3), 1.0),
    ConvLSTMCell(2, (4,), 3, strides=2),
    ConvGRUCell(2, (4,), 3, False),
    rx.Zoneout(rx.RecurrentDropout(ConvGRUCell(2, (4,), 3), 0.3), 0.3),
]


def explicit(*sizes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, ("data", "model")[: len(sizes)], axis_types=(AxisType.Explicit,) * len(sizes))


def test_outputs_are_the_same_under_an_explicit_mesh() -> None:
    params, xs, mesh = (
        perturbed_params(DRAWING, 2),
        normal_like(jax.ShapeDtypeStruct((8, 2, 2), jnp.float32), 1),
        explicit(8),
    )
    expected = rx.scan(DRAWING, params, xs, key=KEY)
    with jax.set_mesh(mesh):
        got = rx.scan(DRAWING, params, jax.device_put(xs, NamedSharding(mesh, PartitionSpec("data"))), key=KEY)
    assert got[1].sharding.spec[0] == "data"
    assert_close("sharded by rows", jax.device_get(got), jax.device_get(expected), 1e-6)


@pytest.mark.thorough
def test_gradients_of_convolutions_are_the_same_under_an_explicit_mesh() -> None:
    cell, mesh = ConvElmanCell(2, (4,), 3, strides=2), explicit(8)
    params, xs = perturbed_params(cell, 2), normal_like(jax.ShapeDtypeStruct((8, 2, 4, 2), jnp.float32), 1)
    train = jax.jit(jax.value_and_grad(lambda *args: jnp.sum(rx.scan(cell, *args)[1] ** 2), (0, 1)))
    expected = train(params, xs)
    with jax.set_mesh(mesh):
        got = train(params, jax.device_put(xs, NamedSharding(mesh, PartitionSpec("data"))))
    assert_close("sharded by rows", jax.device_get(got), jax.device_get(expected), 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("layer", MORE, ids=range(len(MORE)))
def test_a_training_step_has_a_place_for_every_array_under_an_explicit_mesh(layer: rx.Layer) -> None:
    """Types say where arrays lie, so tracing is enough; numbers are compared above."""
    params, mesh = perturbed_params(layer, 2), explicit(8)
    rows = jax.device_put(
        jnp.ones((8, 2, *[4] * (layer.feature_ndim - 1), 2)), NamedSharding(mesh, PartitionSpec("data"))
    )
    with jax.set_mesh(mesh):
        train = jax.value_and_grad(lambda *args: rx.scan(layer, *args, key=KEY)[1].sum(), (0, 1))
        _, (_, dxs) = jax.eval_shape(train, params, rows)
    assert dxs.sharding.spec[0] == "data"


@pytest.mark.thorough
def test_flags_in_the_shape_of_what_they_choose_have_a_place_under_an_explicit_mesh() -> None:
    """With one head or one feature, a mask that lies on every device has the shape of spread arrays."""
    mesh, lengths = explicit(8), jnp.array([3, 2, 0, 1, 3, 3, 2, 1])
    rows = jax.device_put(jnp.ones((8, 3, 2)), NamedSharding(mesh, PartitionSpec("data")))
    marks = {"lengths": lengths, "reset": jnp.zeros((8, 3), bool).at[:, 1].set(True)}
    for layer in (rx.MLSTMCell(2), rx.LSTMCell(1), rx.MinGRUCell(1), rx.SLSTMCell(1)):
        params = perturbed_params(layer, 2)
        with jax.set_mesh(mesh):
            train = jax.value_and_grad(lambda *args, layer=layer: rx.scan(layer, *args, **marks)[1].sum(), (0, 1))
            _, (_, dxs) = jax.eval_shape(train, params, rows)
        assert dxs.sharding.spec[0] == "data"


@pytest.mark.thorough
def test_a_training_step_of_a_module_is_the_same_under_an_explicit_mesh() -> None:
    xs = normal_like(jax.ShapeDtypeStruct((8, 2, 3), jnp.float32), 1)

    def train(xs: jax.Array) -> Any:
        model = rnn.LSTM(3, 2, num_layers=2, dropout=0.5, batch_first=True, rngs=nnx.Rngs(0))

        @nnx.jit
        @nnx.value_and_grad
        def loss(model: rnn.LSTM) -> jax.Array:
            return jnp.sum(model(xs)[0] ** 2)

        value, grads = loss(model)
        return value, nnx.to_pure_dict(grads)

    expected, mesh = train(xs), explicit(8)
    with jax.set_mesh(mesh):
        got = train(jax.device_put(xs, NamedSharding(mesh, PartitionSpec("data"))))
    assert_close("sharded by rows", jax.device_get(got), jax.device_get(expected), 1e-5)


@pytest.mark.thorough
def test_masks_of_features_of_words_and_of_single_rows_do_not_depend_on_the_mesh() -> None:
    xs, mesh = normal_like(jax.ShapeDtypeStruct((8, 3, 4), jnp.float32), 1), explicit(4, 2)
    words = rx.layers.embedding_dropout(KEY, xs[:, 0], 0.5)
    rows = lambda xs: rx.scan(rx.Dropout(0.5), (), xs, key=KEY)[1]  # noqa: E731
    shared = lambda xs: rx.scan(rx.Dropout(0.5, shared=True), (), xs, key=KEY)[1]  # noqa: E731
    expected = words, rows(xs), shared(xs), jax.vmap(rows)(xs)
    placed = jax.device_put(xs, NamedSharding(mesh, PartitionSpec("data", None, "model")))
    for name in ("set_mesh", "no mesh set"):
        with jax.set_mesh(mesh if name == "set_mesh" else None):
            got = (
                rx.layers.embedding_dropout(KEY, placed[:, 0], 0.5),
                rows(placed),
                shared(placed),
                jax.vmap(rows)(placed),
            )
        assert all(leaf.sharding.spec == PartitionSpec("data", None, "model") for leaf in got[1:])
        assert_close(name, jax.device_get(got), jax.device_get(expected), 0.0)
    auto = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(auto):
        mapped = jax.shard_map(rows, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))(xs)
    assert_close("shard_map, where every device draws alike", mapped, jnp.concatenate([rows(x[None]) for x in xs]), 0.0)


@pytest.mark.thorough
def test_convolutions_with_two_batch_axes_and_space_spread_over_an_explicit_mesh() -> None:
    cell, mesh = ConvLSTMCell(2, (4,), 3), explicit(4, 2)
    params, xs = perturbed_params(cell, 3), normal_like(jax.ShapeDtypeStruct((4, 2, 3, 4, 3), jnp.float32), 1)
    expected = cell.project_inputs(params, xs)
    with jax.set_mesh(mesh):
        for spec in (("data", "model"), (None, "model"), ("data", None, None, "model")):
            placed = jax.device_put(xs, NamedSharding(mesh, PartitionSpec(*spec)))
            got = cell.project_inputs(params, placed)
            assert tuple(got.sharding.spec)[: len(spec)] == spec
            assert_close(str(spec), jax.device_get(got), jax.device_get(expected), 1e-5)
