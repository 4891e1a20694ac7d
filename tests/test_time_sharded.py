"""The axis of time spread over eight virtual devices equals one device, in values and gradients."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import recurrax as rx
from recurrax.testing import assert_close, normal_like, perturbed_params, values_and_gradients


def mesh_of(*sizes: int, kind: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, ("batch", "time")[-len(sizes) :], axis_types=(kind,) * len(sizes))


@pytest.mark.parametrize(
    ("cell", "sizes", "steps", "within", "reverse"),
    [
        (rx.MinGRUCell(4), (8,), 64, "blocked", False),
        (rx.MinGRUCell(4), (2, 4), 50, "associative", True),  # Not a multiple of the devices.
        (rx.LRUCell(4), (2, 4), 16, "sequential", True),
        (rx.LRUCell(4), (8,), 5, "blocked", False),  # Devices without a step.
    ],
    ids=str,
)
def test_many_devices_equal_one(cell: rx.LinearCell, sizes: tuple, steps: int, within: str, reverse: bool) -> None:
    mesh = mesh_of(*sizes)
    params = perturbed_params(cell, 3)
    xs = normal_like(jax.ShapeDtypeStruct((2, steps, 3), jnp.float32), 1)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    keys = jax.random.split(jax.random.key(3))
    mask = jax.random.bernoulli(keys[0], 0.7, (2, steps))
    reset = jax.random.bernoulli(keys[1], 0.1, (2, steps))
    if steps % mesh.shape["time"] == 0:
        xs = jax.device_put(xs, NamedSharding(mesh, PartitionSpec("batch" if len(sizes) == 2 else None, "time")))

    def run(implementation: str | rx.implementations.TimeSharded) -> tuple:
        def scanned(params: tuple, xs: jax.Array, state: tuple) -> tuple:
            options = {"mask": mask, "reset": reset, "reverse": reverse}
            return rx.scan(cell, params, xs, state, implementation=implementation, **options)

        return values_and_gradients(scanned, params, xs, state)

    assert_close("eight devices", run(rx.implementations.TimeSharded(mesh, "time", within)), run("sequential"), 1e-5)


@pytest.mark.thorough
def test_a_stack_spread_over_time() -> None:
    layer = rx.Stack((rx.CausalConv(3, 4), rx.MinLSTMCell(4), rx.Residual(rx.Bidirectional(rx.MinGRUCell(2)))))
    params, xs = perturbed_params(layer, 3), normal_like(jax.ShapeDtypeStruct((2, 24, 3), jnp.float32), 1)
    sharded = rx.implementations.TimeSharded(mesh_of(8), "time")
    lengths = jnp.array([24, 13])
    run = lambda how: jax.jit(lambda p, x: rx.scan(layer, p, x, lengths=lengths, implementation=how))  # noqa: E731
    assert_close("a stack", run(sharded)(params, xs), run("associative")(params, xs), 1e-5)


def test_what_cannot_be_spread() -> None:
    mesh = mesh_of(8)
    with pytest.raises(ValueError, match=re.escape("`axis` must be one of the mesh axes ('time',); got 'seq'.")):
        rx.implementations.TimeSharded(mesh, "seq")
    with pytest.raises(ValueError, match='`within` must be one of "sequential", "associative", "blocked"; got "fast"'):
        rx.implementations.TimeSharded(mesh, "time", "fast")
    with pytest.raises(ValueError, match="must have 'time' as an axis of type Auto"):
        rx.implementations.TimeSharded(mesh_of(8, kind=AxisType.Explicit), "time")
    cell = rx.LSTMCell(4)
    with pytest.raises(ValueError, match=r"cannot serve LSTMCell\(hidden_size=4\): it is no LinearCell"):
        rx.scan(
            cell,
            perturbed_params(cell, 3),
            jnp.ones((8, 3)),
            implementation=rx.implementations.TimeSharded(mesh, "time"),
        )
