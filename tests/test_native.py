"""`implementation="native"`: its values and derivatives against the plain loop, and when it steps aside."""

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import recurrax as rx
from recurrax.implementations.native import _library
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

needs_library = pytest.mark.skipif(_library.why_missing() is not None, reason=str(_library.why_missing()))

CELLS = {
    "lstm": rx.LSTMCell(5, recurrent_bias=True),
    "gru": rx.GRUCell(5),
    "tanh": rx.ElmanCell(5, bias=False),
    "relu": rx.ElmanCell(5, jax.nn.relu),
}


def arguments(cell: Any, batch: tuple[int, ...], steps: int, features: int) -> tuple:
    """Parameters, inputs and a state, none of them zero."""
    xs = normal_like(jax.ShapeDtypeStruct((*batch, steps, features), jnp.float32), 1)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state(batch)), 2)
    return perturbed_params(cell, features), xs, state


def compare(cell: Any, args: tuple, **options: Any) -> None:
    """Values and gradients of the library against those of the plain loop."""

    def run(implementation: str) -> Any:
        return values_and_gradients(functools.partial(rx.scan, cell, implementation=implementation, **options), *args)

    values, gradients = run("native")
    expected, expected_gradients = run("xla")
    what = f"{cell} on {args[1].shape}, {list(options)}"
    assert_close(what, values, expected, 1e-5)
    assert_close(f"gradients of {what}", gradients, expected_gradients, 1e-4)


@needs_library
@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients(name: str) -> None:
    cell = dataclasses.replace(CELLS[name], hidden_size=19)
    rng = np.random.default_rng(0)
    mask, reset = jnp.asarray(rng.random((2, 7, 6)) > 0.3), jnp.asarray(rng.random((2, 7, 6)) > 0.7)
    compare(cell, arguments(cell, (2, 7), 6, 9), mask=mask, reset=reset, reverse=True)


@needs_library
def test_the_best_one() -> None:
    cell = CELLS["tanh"]
    for steps, number in ((7, 0), (8, 1)):
        params, xs, _ = arguments(cell, (2,), steps, 3)
        assert calls(jax.jit(functools.partial(rx.scan, cell)).lower(params, xs)) == number


@needs_library
@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(25))
def test_random_shapes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    name = list(CELLS)[seed % len(CELLS)]
    # Every remainder of a tile, and no step, row or unit too few.
    steps, rows, features, units = (int(rng.integers(*range_)) for range_ in ((0, 9), (0, 40), (1, 40), (1, 50)))
    cell = dataclasses.replace(CELLS[name], hidden_size=units)
    options: dict[str, Any] = {"reverse": bool(rng.integers(2)), "time_major": bool(rng.integers(2))}
    batch = (steps, rows) if options["time_major"] else (rows, steps)
    if rng.integers(2):
        options["mask"] = jnp.asarray(rng.random(batch) > 0.4)
    if rng.integers(2):
        options["reset"] = jnp.asarray(rng.random(batch) > 0.7)
    params, xs, state = arguments(cell, (rows,), steps, features)
    xs = xs.reshape(*batch, features)
    compare(cell, (params, xs, state), **options)


@needs_library
@pytest.mark.thorough
@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("name", CELLS)
def test_large_enough_for_several_threads(name: str, rows: int) -> None:
    cell = dataclasses.replace(CELLS[name], hidden_size=130)
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((rows, 40)) > 0.2)
    _, *others = arguments(cell, (rows,), 40, 70)
    # Larger noise would make errors of rounding grow from step to step.
    args = (perturbed_params(cell, 70, scale=0.01), *others)
    compare(cell, args, mask=mask)
    # The same threads give the same bits.
    run = jax.jit(functools.partial(rx.scan, cell, implementation="native", mask=mask))
    jax.tree.map(np.testing.assert_array_equal, run(*args), run(*args))


def trace(cell: Any, implementation: str | None, options: dict, *args: Any) -> Any:
    params, xs, state = args
    trace = rx.trace(cell, params, xs, state, implementation=implementation, **options)
    return trace.ys, trace.state, trace.states, trace.gates, trace[""].preactivations


def compare_traces(cell: Any, args: tuple, **options: Any) -> None:
    """All results of a trace, and their gradients, against those of the plain loop."""
    native, plain = (functools.partial(trace, cell, name, options) for name in ("native", "xla"))
    what = f"a trace of {cell} on {args[1].shape}, {list(options)}"
    expected, gradients = values_and_gradients(plain, *args)
    # A gradient runs the loop of JAX, so the values are compared without one.
    assert_close(what, jax.jit(native)(*args), expected, 1e-5)
    assert_close(f"gradients of {what}", values_and_gradients(native, *args)[1], gradients, 1e-4)


@needs_library
@pytest.mark.parametrize("name", ["lstm", pytest.param("gru", marks=pytest.mark.thorough)])
def test_a_trace(name: str) -> None:
    cell = dataclasses.replace(CELLS[name], hidden_size=19)
    rng = np.random.default_rng(0)
    mask, reset = jnp.asarray(rng.random((2, 7, 6)) > 0.4), jnp.asarray(rng.random((2, 7, 6)) > 0.7)
    args = arguments(cell, (2, 7), 6, 9)
    compare_traces(cell, args, mask=mask, reset=reset, reverse=True)


@needs_library
def test_a_trace_is_one_call() -> None:
    cell = CELLS["lstm"]
    args = arguments(cell, (2,), 8, 3)
    lowered = jax.jit(functools.partial(trace, cell, None, {})).lower(*args)
    assert calls(lowered) == 1
    assert "while" not in lowered.as_text()
    # A layer of another kind runs in the loop of JAX.
    wrapped = rx.Zoneout(cell)
    assert calls(jax.jit(functools.partial(trace, wrapped, None, {})).lower(*args)) == 0


@needs_library
@pytest.mark.thorough
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("rows", [0, 3, 100])
def test_traces_of_other_shapes(name: str, rows: int) -> None:
    cell, rng = CELLS[name], np.random.default_rng(rows)
    args = arguments(cell, (rows,), 5, 3)
    flags = jnp.asarray(rng.random((3, rows, 5)) > 0.5)
    compare_traces(cell, args)
    compare_traces(cell, args, lengths=jnp.asarray(rng.integers(0, 7, rows)), reset=flags[0], remat=2)
    params, xs, state = args
    for steps in (0, 5):
        over_time = (params, jnp.moveaxis(xs, 1, 0)[:steps], state)
        options = {"mask": flags[1].T[:steps], "reset": flags[2].T[:steps], "time_major": True}
        compare_traces(cell, over_time, **options)


@needs_library
def test_without_jit() -> None:
    cell = CELLS["tanh"]
    params, xs, state = arguments(cell, (2,), 3, 3)
    run = functools.partial(rx.scan, cell, implementation="native")
    expected = run(params, xs, state)
    with jax.disable_jit():
        assert_close("without jit", run(params, xs, state), expected, 1e-6)


@needs_library
@pytest.mark.thorough
def test_vmap_of_traces() -> None:
    cell = CELLS["gru"]
    params, xs, state = arguments(cell, (4,), 5, 3)
    options = {"mask": jnp.array([True, True, False, True, False])}
    many = jax.tree.map(lambda p: jnp.stack([p] * 4), params)
    for values, axis in ((params, None), (many, 0)):
        got, expected = (
            jax.vmap(functools.partial(trace, cell, name, options), (axis, 0, 0))(values, xs, state)
            for name in ("native", "xla")
        )
        assert_close("vmap", got, expected, 1e-5)


@needs_library
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["lstm", "gru", "relu"])
def test_contract(name: str) -> None:
    promises = ("steps", "parts", "rows", "resets", "mesh", "layouts", "derivatives", "identity")
    check_contract(CELLS[name], implementation="native", promises=promises)


@needs_library
def test_other_derivatives_and_vmap() -> None:
    cell = rx.GRUCell(3)
    params, xs, _ = arguments(cell, (4,), 3, 2)

    def loss(implementation: str, params: Any, xs: jax.Array) -> jax.Array:
        return jnp.sin(rx.scan(cell, params, xs, implementation=implementation)[1]).sum()

    def all_derivatives(implementation: str) -> Any:
        value = functools.partial(loss, implementation)
        gradient = jax.grad(value, (0, 1))
        directions = normal_like((params, xs), 5)
        twice = jax.jvp(gradient, (params, xs), directions)
        of_inputs = jax.vmap(jax.grad(value, 1), (None, 1))(params, xs[:, None])
        return twice, of_inputs

    got, expected = (jax.jit(all_derivatives, static_argnums=0)(name) for name in ("native", "xla"))
    assert_close("derivatives", got, expected, 1e-5)


@needs_library
@pytest.mark.thorough
def test_vmap_of_gradients() -> None:
    cell = rx.LSTMCell(3)
    params, xs, _ = arguments(cell, (4,), 3, 2)
    many = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)

    def all_gradients(implementation: str) -> Any:
        def loss(params: Any, xs: jax.Array) -> jax.Array:
            return jnp.sin(rx.scan(cell, params, xs, implementation=implementation)[1]).sum()

        gradient = jax.grad(loss, (0, 1))
        # The gradients of each row apart, and of each model apart.
        by_rows = jax.vmap(gradient, (None, 0))(params, xs)
        by_models = jax.vmap(gradient, (0, None))(many, xs)
        rematerialized = jax.grad(jax.checkpoint(loss), (0, 1))(params, xs)
        return by_rows, by_models, rematerialized

    got, expected = (jax.jit(all_gradients, static_argnums=0)(name) for name in ("native", "xla"))
    assert_close("gradients", got, expected, 1e-5)


def calls(compiled: Any) -> int:
    """How many calls of the library a program holds."""
    return compiled.as_text().count("@recurrax_")


@needs_library
def test_where_the_library_is_called() -> None:
    cell = CELLS["lstm"]
    params, xs, _ = arguments(cell, (8,), 3, 2)

    def run(params: Any, xs: jax.Array) -> jax.Array:
        return rx.scan(cell, params, xs, implementation="native")[1]

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        return jnp.square(run(params, xs)).sum()

    # A gradient is two calls. Nothing of the loop of JAX is in it.
    lowered = jax.jit(jax.grad(loss)).lower(params, xs)
    assert calls(lowered) == 2
    assert "while" not in lowered.as_text()

    # On several devices the partitioner needs a loop that it can read; inside `shard_map` it does not.
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(xs, NamedSharding(mesh, PartitionSpec("rows")))
    over_devices = jax.jit(run).lower(params, spread)
    assert calls(over_devices) == 0
    specs = {"in_specs": (PartitionSpec(), PartitionSpec("rows")), "out_specs": PartitionSpec("rows")}
    mapped = jax.jit(jax.shard_map(run, mesh=mesh, **specs))
    assert calls(mapped.lower(params, spread)) == 1
    assert_close("shard_map", mapped(params, spread), run(params, xs), 1e-6)

    # An export runs where the library may be missing.
    exported = jax.export.export(jax.jit(run))(params, xs)
    assert "recurrax_" not in exported.mlir_module()


@needs_library
@pytest.mark.thorough
def test_gradients_inside_shard_map() -> None:
    cell = CELLS["gru"]
    params, xs, _ = arguments(cell, (8,), 3, 2)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))

    def loss(params: Any, xs: jax.Array, implementation: str = "native") -> jax.Array:
        return jnp.square(rx.scan(cell, params, xs, implementation=implementation)[1]).sum()

    def part(params: Any, xs: jax.Array) -> Any:
        return jax.grad(loss)(params, xs)

    specs = {"in_specs": (PartitionSpec(), PartitionSpec("rows")), "out_specs": PartitionSpec()}
    summed = jax.jit(jax.shard_map(part, mesh=mesh, **specs))(params, xs)
    assert_close("gradients", summed, jax.grad(loss)(params, xs, "xla"), 1e-5)


@needs_library
@pytest.mark.parametrize(
    ("cell", "dtype", "reason"),
    [
        (rx.LSTMCell(4, proj_size=2), jnp.float32, "an LSTMCell without projection"),
        (rx.GRUCell(4, reset_after=False), jnp.float32, "a GRUCell with `reset_after`"),
        (rx.ElmanCell(4, jnp.sin), jnp.float32, "an ElmanCell with tanh or relu"),
        (rx.LSTMCell(4, activation=jax.nn.relu), jnp.float32, "default activations"),
        (rx.LSTMCell(4), jnp.bfloat16, "must be float32 throughout; got bfloat16"),
        (rx.LSTMCell(4, dtype=jnp.bfloat16), jnp.float32, "must be float32 throughout; got bfloat16"),
    ],
)
def test_refusals(cell: Any, dtype: Any, reason: str) -> None:
    params, xs = cell.init(jax.random.key(0), 3), jnp.ones((2, 5, 3), dtype)
    with pytest.raises(ValueError, match=reason):
        rx.scan(cell, params, xs, implementation="native")


SWITCHED_OFF = """
import jax
import recurrax as rx

print(rx.implementations.available()["native"])
cell = rx.LSTMCell(4)
params, xs = cell.init(jax.random.key(0), 3), jax.numpy.ones((2, 5, 3))
rx.scan(cell, params, xs)
try:
    rx.scan(cell, params, xs, implementation="native")
except ValueError as error:
    print(error)
"""


def test_switched_off() -> None:
    environment = {**os.environ, "RECURRAX_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SWITCHED_OFF], env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("RECURRAX_NATIVE=0" in line for line in lines)


def test_what_is_available() -> None:
    available = rx.implementations.available()
    assert available["xla"] == available["hoisted"] == "available"
    assert available["cudnn"].startswith("it needs an NVIDIA GPU")
    if _library.why_missing() is None:
        assert available["native"] == "available"


def test_sources_are_not_compiled_for_one_machine() -> None:
    for file in (Path("setup.py"), *Path(_library.__file__).parent.rglob("*.cc")):
        assert "march=native" not in file.read_text()


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_a_caller_never_waits_for_itself(tmp_path: Path) -> None:
    source = Path(rx.__file__).parent / "implementations" / "native" / "source"
    here, program = Path(__file__).parent / "native", tmp_path / "full_queue"
    files = [here / "full_queue.cc", source / "team.cc"]
    subprocess.run(["c++", "-std=c++17", "-pthread", f"-I{source}", *files, "-o", program], check=True)
    # Before it was mended, this program did not end.
    run = subprocess.run([program], check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout == "35\n"
