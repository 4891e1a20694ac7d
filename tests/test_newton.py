"""Newton iterations over all of time: equal to the loop, refused where they do not converge, told of in full."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

FULL, DIAGONAL = rx.experimental.Newton("full"), rx.experimental.Newton("diagonal")


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), seed)


def pulled(implementation: Any, layer: rx.Layer, *args: Any, **options: Any) -> Any:
    """Values and gradients of all of `args`."""
    return values_and_gradients(lambda *args: rx.scan(layer, *args, implementation=implementation, **options), *args)


def expanding(gain: float) -> tuple[rx.ElmanCell, rx.cells.ElmanParams]:
    params = rx.ElmanCell(4).init(jax.random.key(0), 3)
    return rx.ElmanCell(4), params._replace(recurrent_kernel=gain * params.recurrent_kernel)


@pytest.mark.parametrize(
    ("cell", "newton"),
    [
        (rx.GRUCell(4), FULL),
        (rx.LSTMCell(4), DIAGONAL),
        (rx.DiagonalLSTMCell(4), rx.experimental.Newton(damping=0.2)),
        pytest.param(rx.ElmanCell(4), FULL, marks=pytest.mark.thorough),
        pytest.param(rx.GRUCell(4, reset_after=False), DIAGONAL, marks=pytest.mark.thorough),
        pytest.param(rx.LSTMCell(4), rx.experimental.Newton(), marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_contract(cell: rx.Cell, newton: rx.experimental.Newton, promises: tuple[str, ...] | None) -> None:
    # NaN anywhere in a row makes the row NaN, so "resets" is not promised.
    every = ("steps", "parts", "rows", "mesh", "layouts", "dtypes", "derivatives", "identity")
    check_contract(cell, implementation=newton, promises=promises or every)


@pytest.mark.thorough
@pytest.mark.parametrize(("steps", "reverse"), [(0, True), (1, False), (5, False), (5, True), (64, False), (100, True)])
@pytest.mark.parametrize(
    ("cell", "newton"),
    [
        (rx.ElmanCell(4), FULL),
        (rx.LSTMCell(4), DIAGONAL),
        (rx.DiagonalGRUCell(4), rx.experimental.Newton()),
    ],
    ids=str,
)
def test_equals_the_loop(cell: rx.Cell, newton: rx.experimental.Newton, reverse: bool, steps: int) -> None:
    rng = np.random.default_rng(steps)
    mask, reset = rng.random((3, steps)) > 0.3, rng.random((3, steps)) > 0.9
    args = (
        perturbed_params(cell, 3),
        normal(3, steps, 3),
        normal_like(jax.eval_shape(lambda: cell.initial_state((3,))), 2),
    )
    options = [{"mask": mask, "reset": reset}, {"lengths": jnp.array([steps, 0, 3])}]
    for option in options[: 2 if steps == 5 else 1]:
        got, expected = (pulled(name, cell, *args, reverse=reverse, **option) for name in (newton, "xla"))
        assert_close(f"{list(option)}", got, expected, 2e-5)


def _timed(cell: rx.Cell) -> Any:
    return rx.cells.TimedInputs(normal(2, 9, 3), jnp.abs(normal(2, 9, seed=4)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("layer", "newton"),
    [
        (rx.LSTMCell(5, proj_size=3), DIAGONAL),  # parts of two sizes
        (rx.LayerNormGRUCell(4), DIAGONAL),  # units that meet outside of the recurrent product
        (rx.LayerNormElmanCell(4), DIAGONAL),
        (rx.SLSTMCell(4, num_heads=2), DIAGONAL),
        (rx.IndRNNCell(4), rx.experimental.Newton()),
        (rx.ConvGRUCell(2, (3, 2), 3), DIAGONAL),
        (rx.CfCCell(4), FULL),
        (rx.Zoneout(rx.GRUCell(4), 0.3), DIAGONAL),
        (rx.Zoneout(rx.RecurrentDropout(rx.DiagonalGRUCell(5), 0.3), 0.2), rx.experimental.Newton()),
        (rx.Bidirectional(rx.GRUCell(3)), FULL),
        (rx.GRUCell(20), rx.experimental.Newton()),  # full
        (rx.GRUCell(33), rx.experimental.Newton()),  # diagonal
    ],
    ids=str,
)
def test_other_layers(layer: rx.Layer, newton: rx.experimental.Newton) -> None:
    xs = normal(2, 9, *getattr(layer, "input_shape", ()), 3)
    xs = _timed(layer) if isinstance(layer, rx.CfCCell) else xs
    options = {"lengths": jnp.array([9, 4]), "key": jax.random.key(5) if layer.stochastic else None}
    got, expected = (pulled(name, layer, perturbed_params(layer, 3), xs, **options) for name in (newton, "xla"))
    assert_close(str(layer), got, expected, 2e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("cell", [rx.GRUCell(6), rx.DiagonalLSTMCell(6)], ids=str)
def test_a_trained_cell(cell: rx.Cell) -> None:
    """It keeps the sign of the last input that is not small: states that stay, gates that close."""
    xs = normal(16, 40, 1)
    last = np.zeros((16, 40), int)
    for t in range(40):
        last[:, t] = np.where(np.abs(xs[:, t, 0]) > 1, t, last[:, t - 1] if t else 0)
    wanted = jnp.sign(jnp.take_along_axis(xs[..., 0], jnp.asarray(last), axis=1))

    def loss(params: Any) -> jax.Array:
        return jnp.mean((rx.scan(cell, params[0], xs, implementation="xla")[1] @ params[1] - wanted) ** 2)

    @jax.jit
    def train(params: Any) -> Any:
        def train_step(learner: Any, _: None) -> Any:
            params, speed = learner
            value, grads = jax.value_and_grad(loss)(params)
            speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, grads)
            return (jax.tree.map(lambda p, v: p - 0.1 * v, params, speed), speed), value

        return jax.lax.scan(train_step, (params, jax.tree.map(jnp.zeros_like, params)), None, length=300)

    ((params, _), _), values = train((cell.init(jax.random.key(0), 1), normal(6, seed=2) / 2))
    assert values[-1] < 0.4 * values[0]
    for newton in (FULL, DIAGONAL):
        got, expected = (pulled(name, cell, params, normal(4, 100, 1, seed=7)) for name in (newton, "xla"))
        assert_close(str(newton), got, expected, 2e-4)  # What stays passes on every rounding.


@pytest.mark.thorough
@pytest.mark.parametrize("cell", [rx.GRUCell(4), rx.DiagonalLSTMCell(4)], ids=str)
def test_long_sequences_need_few_iterations(cell: rx.Cell) -> None:
    params, xs = perturbed_params(cell, 3), normal(1, 4096, 3)
    assert rx.experimental.newton_report(cell, params, xs, newton=DIAGONAL).iterations.max() < 30
    got, expected = (rx.scan(cell, params, xs, implementation=name)[1] for name in (DIAGONAL, "xla"))
    assert_close("4096 steps", got, expected, 2e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("newton", [FULL, DIAGONAL, rx.experimental.Newton("full", damping=0.5)], ids=str)
def test_a_cell_that_expands_takes_as_many_iterations_as_steps_at_most(newton: rx.experimental.Newton) -> None:
    xs = normal(2, 80, 3)
    for activation in (jnp.tanh, jax.nn.relu):
        _, params = expanding(4.0 if activation is jnp.tanh else 1.8)
        cell = rx.ElmanCell(4, activation)
        report = rx.experimental.newton_report(cell, params, xs, newton=newton)
        assert report.converged.all()
        assert report.iterations.max() <= 80
        ys = rx.scan(cell, params, xs, implementation=newton)[1]
        # Two ways to round end far apart, so each step is compared by itself.
        steps = rx.scan(cell, params, xs[:, 1:, None], rx.cells.ElmanState(ys[:, :-1]))[1]
        np.testing.assert_allclose(ys[:, 1:], steps[:, :, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
def test_rows_that_do_not_converge_are_nan() -> None:
    cell, params = expanding(3.0)
    xs, few = normal(3, 60, 3), rx.experimental.Newton(max_iterations=5)
    assert jnp.isnan(rx.scan(cell, params, xs, implementation=few)[1]).all()
    assert jnp.isnan(rx.scan(rx.Stack((cell,)), (params,), xs, implementation=few)[1]).all()
    broken = xs.at[1, 3].set(jnp.nan)
    ys = rx.scan(cell, params, broken, implementation="newton")[1]
    assert jnp.isnan(ys).any(axis=(1, 2)).tolist() == [False, True, False]
    report = rx.experimental.newton_report(cell, params, broken)
    assert report.converged.tolist() == [True, False, True]
    assert jnp.isnan(report.residual).tolist() == [False, True, False]

    @jax.jit
    def run(params: rx.cells.ElmanParams) -> Any:
        return rx.scan(cell, params, xs, lengths=jnp.array([60, 3, 0]), implementation=few)

    state, ys = run(params)
    assert jnp.isnan(ys[0]).all()
    assert jnp.isnan(state.h[0]).all()
    assert jnp.isfinite(ys[1:]).all()
    assert jnp.isfinite(state.h[1:]).all()
    assert_close("rows that converged", ys[1, :3], rx.scan(cell, params, xs[1, :3])[1], 1e-5)
    assert jnp.isnan(jax.grad(lambda params: run(params)[1].sum())(params).kernel).all()


@pytest.mark.thorough
def test_fallback() -> None:
    cell, params = expanding(1.3)
    args = params, normal(2, 40, 3), rx.cells.ElmanState(normal(2, 4))
    few = rx.experimental.Newton("diagonal", max_iterations=3, fallback=True)
    got, expected = (pulled(name, cell, *args) for name in (few, "xla"))
    assert_close("fallback", got, expected, 1e-4)
    assert jnp.isnan(rx.scan(cell, *args, implementation=dataclasses.replace(few, fallback=False))[1]).all()
    assert not rx.experimental.newton_report(cell, *args, newton=few).converged.any()
    nan = args[1].at[0, 5].set(jnp.nan)
    assert jnp.isnan(rx.scan(cell, params, nan, implementation=few)[1]).sum() == 35 * 4


@pytest.mark.thorough
@pytest.mark.parametrize(("newton", "time_major"), [(FULL, False), (DIAGONAL, True)], ids=str)
def test_report(newton: rx.experimental.Newton, time_major: bool) -> None:
    cell, xs = rx.GRUCell(4), normal(2, 3, 50, 3)
    params, lengths = perturbed_params(cell, 3), jnp.array([[50, 1, 0], [20, 50, 50]])
    xs = jnp.moveaxis(xs, 2, 0) if time_major else xs
    flags = {"lengths": lengths, "time_major": time_major}
    report = rx.experimental.newton_report(cell, params, xs, newton=newton, **flags)
    assert report.converged.all()
    assert report.residual.max() <= 8 * np.finfo(np.float32).eps
    assert report.iterations[0, 2] == 0
    assert report.iterations[0, 1] == 1
    most = int(report.iterations.max())
    assert 1 < most < 30
    for limit in (most, most - 1):
        limited = rx.experimental.newton_report(
            cell, params, xs, newton=dataclasses.replace(newton, max_iterations=limit), **flags
        )
        assert limited.converged.all() == (limit == most)
        assert (limited.iterations == jnp.minimum(report.iterations, limit)).all()
        assert (limited.converged == (report.iterations <= limit)).all()
    loose = rx.experimental.newton_report(cell, params, xs, newton=dataclasses.replace(newton, tol=0.1), **flags)
    assert loose.iterations.max() < most
    assert 1e-6 < loose.residual.max() <= 0.1
    nothing = rx.experimental.newton_report(cell, params, xs[:0] if time_major else xs[:, :, :0], time_major=time_major)
    assert nothing.converged.shape == (2, 3)
    assert not nothing.iterations.any()
    with pytest.raises(TypeError, match=r"`cell` must be a recurrax\.Cell, such as"):
        rx.experimental.newton_report(rx.Stack((cell,)), (params,), xs)


@pytest.mark.thorough
def test_parts_are_windows() -> None:
    cell, args = rx.LSTMCell(4), (perturbed_params(rx.LSTMCell(4), 3), normal(2, 50, 3))
    got, expected = (pulled(name, cell, *args, remat=16) for name in ("newton", "xla"))
    assert_close("remat=16", got, expected, 2e-5)


def test_what_an_implementation_can_be() -> None:
    cell, xs = rx.GRUCell(4), normal(2, 5, 3)
    params = cell.init(jax.random.key(0), 3)
    assert rx.experimental.Newton("full", tol=1e-3) == rx.experimental.Newton("full", tol=1e-3)
    assert hash(rx.experimental.Newton()) == hash(rx.experimental.Newton())
    for options, message in {
        ("all of it",): '`jacobian` must be "full", "diagonal" or None; got \'all of it\'.',
        (None, 1.0): "`damping` must be at least 0 and below 1; got 1.0.",
        (None, 0.0, 0.0): "`tol` must be above 0, or None; got 0.0.",
        (None, 0.0, None, 0): "`max_iterations` must be an int of at least 1; got 0.",
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            rx.experimental.Newton(*options)
    for nothing in ("newtn", 3, object):
        with pytest.raises(ValueError, match=r'`implementation` must be None or one of .*"newton".*; got'):
            rx.scan(cell, params, xs, implementation=nothing)

    class Integer(rx.GRUCell):
        def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> rx.cells.GRUState:
            return rx.cells.GRUState(jnp.zeros((*batch_shape, 4), jnp.int32))

    with pytest.raises(
        ValueError, match=r'"newton" cannot serve Integer.*: its state must be of real numbers; got int32.'
    ):
        rx.scan(Integer(4), params, xs, implementation="newton")
