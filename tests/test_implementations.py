"""Implementations: the rule that takes weights out of the loop against plain autodiff, and which is chosen when."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from quick import quick_first
from recurrax.implementations import Steps, _choose, _platform, hoisted, xla
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params, values_and_gradients

CELLS = {
    "elman": rx.ElmanCell(5, jax.nn.relu),
    "lstm": rx.LSTMCell(5),
    "projected lstm": rx.LSTMCell(5, proj_size=2, recurrent_bias=True, activation=jnp.sin),
    "gru": rx.GRUCell(5),
}


@dataclasses.dataclass(frozen=True, repr=False)
class GainCell(rx.AffineCell):
    """Maps of its own, parameters that `pointwise` sees, and a bool among what a step keeps."""

    gates = 2
    params_type = rx.cells.LSTMParams

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> rx.cells.GRUState:
        return rx.cells.GRUState(jnp.full((*batch_shape, self.hidden_size), 0.5, dtype))

    def init(self, key: jax.Array, input_size: int, dtype: Any = jnp.float32) -> rx.cells.LSTMParams:
        return super().init(key, input_size, dtype)._replace(projection_kernel=jnp.ones(self.hidden_size, dtype))

    def project_inputs(self, params: rx.cells.LSTMParams, xs: jax.Array) -> jax.Array:
        zs = super().project_inputs(params, xs)
        return zs / (1 + jnp.mean(zs * zs, axis=-1, keepdims=True))

    def project_state(self, params: rx.cells.LSTMParams, h: jax.Array) -> jax.Array:
        return super().project_state(params, h) * 0.5

    def pointwise(
        self, params: rx.cells.LSTMParams, a: Any, state: rx.cells.GRUState
    ) -> tuple[rx.cells.GRUState, jax.Array]:
        gain = jnp.expand_dims(params.projection_kernel.astype(state.h.dtype), tuple(range(state.h.ndim - 1)))
        h = jnp.tanh(a[0]) * jax.nn.sigmoid(a[1]) + state.h * gain
        h = jnp.where(h > 0, h, 0.1 * h)
        return rx.cells.GRUState(h), h * h


@dataclasses.dataclass(frozen=True, repr=False)
class HalvedGRUCell(rx.GRUCell):
    """A map of its own beside pre-activations that are more than the gates."""

    def project_state(self, params: rx.cells.GRUParams, h: jax.Array) -> jax.Array:
        return super().project_state(params, h) * 0.5


@pytest.fixture(params=quick_first(["cpu", "tpu"]))
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the rules take the platform for; the arrays stay where they are."""
    jax.clear_caches()
    monkeypatch.setattr(_platform.jax, "default_backend", lambda: request.param)
    yield request.param
    jax.clear_caches()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["gain", *CELLS, "halved gru"])
def test_the_rule_equals_plain_autodiff(name: str, platform: str) -> None:
    cell = {**CELLS, "gain": GainCell(4), "halved gru": HalvedGRUCell(4)}[name]
    rng = np.random.default_rng(0)
    mask, reset = jnp.asarray(rng.random((2, 3, 6)) > 0.3), jnp.asarray(rng.random((2, 3, 6)) > 0.8)
    params, state = perturbed_params(cell, 4), normal_like(jax.eval_shape(lambda: cell.initial_state((2, 3))), 2)
    xs = normal_like(jax.ShapeDtypeStruct((2, 3, 6, 4), jnp.float32), 1)
    for options in ({}, {"mask": mask, "reset": reset, "reverse": True, "unroll": 2, "remat": 4}):

        def run(implementation: str, options: Any = options) -> Any:
            call = lambda *args: rx.scan(cell, *args, implementation=implementation, **options)  # noqa: E731
            directions = normal_like((params, xs, state), 5)
            return *values_and_gradients(call, params, xs, state), jax.jit(
                lambda: jax.jvp(call, (params, xs, state), directions)
            )()

        assert_close(f"{name} on {platform}, {list(options)}", run("hoisted"), run("xla"), 1e-5)


@pytest.mark.thorough
def test_a_cell_with_maps_of_its_own_keeps_the_contract() -> None:
    check_contract(GainCell(4), implementation="hoisted")


def _loops(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        nested = [
            value for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(value)
        ]
        for value in nested:
            body = getattr(value, "jaxpr", value)
            if equation.primitive.name == "scan":
                yield body
            yield from _loops(body)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _products(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape
        for value in equation.params.values():
            if _is_jaxpr(value):
                yield from _products(getattr(value, "jaxpr", value))


@pytest.mark.parametrize("name", CELLS)
def test_weight_gradients_stay_out_of_the_loop(name: str, platform: str) -> None:
    cell = CELLS[name]
    params, xs = perturbed_params(cell, 3), jnp.ones((7, 11, 3))
    loss = lambda params, xs: rx.scan(cell, params, xs, implementation="hoisted")[1].sum()  # noqa: E731
    loops = list(_loops(jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, xs).jaxpr))
    assert len(loops) == 2
    weights = {leaf.shape for leaf in params if leaf is not None and leaf.ndim == 2}
    weights |= {shape[::-1] for shape in weights}
    for loop in loops:
        products = list(_products(loop))
        assert products
        assert not weights & set(products)
    # The input is projected inside of the forward loop on a CPU, before it elsewhere.
    projected = int(cell is CELLS["projected lstm"])
    assert len(list(_products(loops[0]))) - projected == (2 if platform == "cpu" else 1)


@pytest.mark.parametrize(("name", "arrays"), [("elman", 3), ("lstm", 7), ("gru", 6)])
def test_what_a_step_keeps(name: str, arrays: int) -> None:
    cell = dataclasses.replace(CELLS[name], activation=jnp.tanh)
    params, xs = perturbed_params(cell, 3), jnp.ones((7, 11, 3))
    loss = lambda params: rx.scan(cell, params, xs, implementation="hoisted")[1].sum()  # noqa: E731
    forward = next(_loops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    state = len(jax.tree.leaves(cell.initial_state()))
    assert len(forward.outvars) - state == arrays  # The output is one of them.


def test_choice() -> None:
    lstm, cho = rx.LSTMCell(64), rx.GRUCell(64, reset_after=False)
    few, many = jnp.ones((5, 8, 64)), jnp.ones((5, 256, 64))
    chosen = lambda cell, xs: _choose.choose(None, cell, None, None, xs, Steps()).run  # noqa: E731
    assert chosen(lstm, few) is hoisted.run
    assert chosen(lstm, many) is xla.run
    assert chosen(cho, few) is xla.run
    params = cho.init(jax.random.key(0), 64)
    with pytest.raises(ValueError, match=r'"hoisted" cannot serve GRUCell.*: it meets its state through more than `u'):
        rx.scan(cho, params, few, implementation="hoisted")
    with pytest.raises(ValueError, match=r"""one of "hoisted", "xla", .*, "cudnn".*; got 'fast'"""):
        rx.scan(cho, params, few, implementation="fast")


@dataclasses.dataclass(frozen=True, repr=False)
class LoggingGRUCell(rx.GRUCell):
    """Overrides what implementations call, computes the same, and repeats the statements."""

    plain_inputs = plain_state = True
    calls: ClassVar[list[str]] = []

    def project_inputs(self, params: Any, xs: jax.Array) -> jax.Array:
        self.calls.append("inputs")
        return super().project_inputs(params, xs)

    def project_state(self, params: Any, h: jax.Array) -> jax.Array:
        self.calls.append("state")
        return super().project_state(params, h)

    def pointwise(self, *args: Any, **options: Any) -> Any:
        self.calls.append("pointwise")
        return super().pointwise(*args, **options)


class Doubling:
    """Equations of its own for a cell, the first base or not."""

    def step(self, params: Any, state: Any, z: Any) -> tuple[Any, jax.Array]:
        state, y = super().step(params, state, z)
        return state._replace(h=2 * state.h), 2 * y


def test_a_cell_that_only_logs_keeps_its_program() -> None:
    programs = []
    for cell in (rx.GRUCell(4), LoggingGRUCell(4)):
        params, xs = perturbed_params(cell, 3), jnp.ones((2, 6, 3))
        loss = lambda p, x, cell=cell: rx.scan(cell, p, x, implementation="hoisted")[1].sum()  # noqa: E731
        programs.append(re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, xs))))
    assert programs[0] == programs[1]
    assert set(LoggingGRUCell.calls) == {"inputs", "state", "pointwise"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(rx.LSTMCell, "hoisted"), (rx.GRUCell, "hoisted"), (rx.MinGRUCell, "associative"), (rx.MLSTMCell, "chunked")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_cell_with_a_step_of_its_own_runs_by_this_step(kind: Any, name: str) -> None:
    plain, cell = kind(4), dataclasses.make_dataclass("Own", [], bases=(Doubling, kind), frozen=True, repr=False)(4)
    params, xs = perturbed_params(plain, 3), normal_like(jax.ShapeDtypeStruct((2, 5, 3), jnp.float32), 1)
    state, expected = plain.initial_state((2,)), []
    for t in range(5):
        state, y = rx.step(plain, params, xs[:, t], state)
        state = state._replace(h=2 * state.h)
        expected.append(2 * y)
    assert_close(name, rx.scan(cell, params, xs), (state, jnp.stack(expected, axis=1)), 1e-5)
    with pytest.raises(ValueError, match=f'"{name}" cannot serve Own'):
        rx.scan(cell, params, xs, implementation=name)


def test_statements_fall_with_the_methods_behind_them() -> None:
    @dataclasses.dataclass(frozen=True, repr=False)
    class Mixing(rx.DiagonalGRUCell):
        def pointwise(self, params: Any, a: Any, state: Any, update: Any = None) -> Any:
            state, h = super().pointwise(params, a, state)
            return state._replace(h=h - h.mean(-1, keepdims=True)), h

    @dataclasses.dataclass(frozen=True, repr=False)
    class Wrong(Doubling, rx.LSTMCell):
        is_affine = True

    assert rx.DiagonalGRUCell.independent_units
    assert not Mixing.independent_units
    assert HalvedGRUCell(4).is_affine
    assert (HalvedGRUCell.plain_state, HalvedGRUCell.plain_inputs, rx.LSTMCell.plain_state) == (False, True, True)
    # A statement that is wrong does not pass the check.
    with pytest.raises(AssertionError, match="steps one by one"):
        check_contract(Wrong(3), promises=["steps"])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("steps", "reverse"),
    [(0, False), (11, True)]
    + [pytest.param(*p, marks=pytest.mark.thorough) for p in [(1, True), (4, False), (11, False)]],
)
def test_remat_changes_nothing_but_memory(steps: int, reverse: bool) -> None:
    layer = rx.Stack((rx.Bidirectional(rx.LSTMCell(3)), rx.GRUCell(4, reset_after=False)))
    params, lengths = perturbed_params(layer, 3), jnp.array([steps, 2])
    xs = normal_like(jax.ShapeDtypeStruct((2, steps, 3), jnp.float32), 1)
    run = lambda remat: values_and_gradients(  # noqa: E731
        lambda params, xs: rx.scan(layer, params, xs, lengths=lengths, reverse=reverse, remat=remat), params, xs
    )
    without = run(None)
    for remat in (1, 4, 50):
        assert_close(f"remat={remat}", run(remat), without, 1e-6)


def test_remat_keeps_less() -> None:
    cell = rx.LSTMCell(32)
    params, xs = perturbed_params(cell, 32), jnp.ones((4, 400, 32))

    def memory(remat: int | None) -> int:
        loss = lambda params: rx.scan(cell, params, xs, remat=remat)[1].sum()  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert memory(20) < 0.5 * memory(None)
