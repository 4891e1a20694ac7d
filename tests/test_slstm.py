"""The sLSTM against float64 loops after the paper, with and without its stabiliser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from quick import quick_first
from recurrax.cells.slstm import SLSTMCell, SLSTMParams, SLSTMState
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params

CELLS = [
    SLSTMCell(6),
    SLSTMCell(6, 3, "exp", recurrent_bias=True),
    SLSTMCell(6, 2, bias=False),
]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _gates(cell: SLSTMCell, params: SLSTMParams, x: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
    """The pre-activations of i, f, z and o, `[B, H]` each, by one small product for every head and gate."""
    size, gates = cell.hidden_size // cell.num_heads, []
    for g in range(4):
        own = slice(g * cell.hidden_size, (g + 1) * cell.hidden_size)
        a = x @ params.kernel[:, own]
        for head in range(cell.num_heads):
            part = slice(head * size, (head + 1) * size)
            a[:, part] += h[:, part] @ params.recurrent_kernel[head][:, g * size : (g + 1) * size]
        for bias in (params.bias, params.recurrent_bias):
            a += 0 if bias is None else bias[own]
        gates.append(a)
    return gates


def plain(cell: SLSTMCell, params: SLSTMParams, xs: np.ndarray, state: Any) -> tuple[Any, np.ndarray]:
    """The equations without a stabiliser; the state is h, c and n as they are."""
    (h, c, n), ys = state, []
    for t in range(xs.shape[1]):
        i, f, z, o = _gates(cell, params, xs[:, t], h)
        i, f = np.exp(i), np.exp(f) if cell.forget_gate == "exp" else _sigmoid(f)
        c, n = f * c + i * np.tanh(z), f * n + i
        h = _sigmoid(o) * c / n
        ys.append(h)
    return (h, c, n), np.stack(ys, axis=1)


def stabilized(cell: SLSTMCell, params: SLSTMParams, xs: np.ndarray) -> np.ndarray:
    """The equations with a stabiliser that begins at minus infinity."""
    h, c, n = (np.zeros((len(xs), cell.hidden_size)) for _ in range(3))
    m, ys = np.full_like(h, -np.inf), []
    for t in range(xs.shape[1]):
        i, f, z, o = _gates(cell, params, xs[:, t], h)
        log_f = f if cell.forget_gate == "exp" else -np.logaddexp(0, -f)
        before, m = m, np.maximum(log_f + m, i)
        f, i = np.exp(log_f + before - m), np.exp(i - m)
        c, n = f * c + i * np.tanh(z), f * n + i
        h = _sigmoid(o) * c / n
        ys.append(h)
    return np.stack(ys, axis=1)


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("cell", quick_first(CELLS), ids=str)
def test_equations(cell: SLSTMCell) -> None:
    params = _double(perturbed_params(cell, 3, scale=0.5))
    xs = np.random.default_rng(1).standard_normal((2, 7, 3))
    zeros = np.zeros((2, 6))
    (h, c, n), from_zeros = plain(cell, params, xs, (zeros, zeros, zeros))
    np.testing.assert_allclose(stabilized(cell, params, xs), from_zeros, atol=1e-12)
    with jax.enable_x64(True):
        state, ys = rx.scan(cell, params, xs)
        np.testing.assert_allclose(ys, from_zeros, atol=1e-10)
        scale = np.exp(state.m)
        np.testing.assert_allclose((state.h, state.c * scale, state.n * scale), (h, c, n), rtol=1e-10, atol=1e-10)
        assert np.all(state.n >= 1)

        # From a state with a past, the derivatives of everything that the paper's state says.
        names = ("params", "xs", "h", "c", "n")
        past = SLSTMState(*(0.5 * np.random.default_rng(k).standard_normal((2, 6)) for k in range(4)))
        past = past._replace(n=1.5 + np.abs(past.n))
        own_scale = np.exp(past.m)
        args = (params, xs, past.h, past.c * own_scale, past.n * own_scale)
        directions = normal_like(args, 5)
        weigh = normal_like((h, c, n, ys), 6)

        def total(leaves: Any) -> Any:
            return sum((w * leaf).sum() for w, leaf in zip(weigh, leaves, strict=True))

        def ours(params: Any, xs: Any, h: Any, c: Any, n: Any, implementation: str) -> Any:
            state = SLSTMState(h, c / own_scale, n / own_scale, past.m)
            state, ys = rx.scan(cell, params, xs, state, implementation=implementation)
            return total((state.h, state.c * jnp.exp(state.m), state.n * jnp.exp(state.m), ys))

        def theirs(params: Any, xs: Any, *state: Any) -> Any:
            state, ys = plain(cell, params, xs, state)
            return total((*state, ys))

        for implementation in ("hoisted", "xla"):
            run = lambda *args, implementation=implementation: ours(*args, implementation)  # noqa: E731
            value, gradients = jax.jit(jax.value_and_grad(run, tuple(range(5))))(*args)
            np.testing.assert_allclose(value, theirs(*args), rtol=1e-10)
            for at, name in enumerate(names):

                def moved(by: float, at: int = at) -> float:
                    there = jax.tree.map(lambda a, way: a + by * np.asarray(way), args[at], directions[at])
                    return float(theirs(*args[:at], there, *args[at + 1 :]))

                expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
                pairs = zip(*map(jax.tree.leaves, (gradients[at], directions[at])), strict=True)
                got = sum(np.vdot(g, d) for g, d in pairs)
                np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6, err_msg=f"{name}, {implementation}")


@pytest.mark.parametrize("cell", [SLSTMCell(6), SLSTMCell(6, 3)], ids=str)
def test_the_authors_package(cell: SLSTMCell) -> None:
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("xlstm")
    from xlstm.blocks.slstm.src.vanilla import slstm_forward, slstm_pointwise_function_registry

    rng, params = np.random.default_rng(1), _double(perturbed_params(cell, 3, scale=0.5))
    xs, past = rng.standard_normal((2, 7, 3)), SLSTMState(*(rng.standard_normal((2, 6)) for _ in range(4)))
    past = past._replace(n=1 + np.abs(past.n))
    for start in (SLSTMState(*(np.zeros((2, 6)) for _ in range(4))), past):
        args = (params, xs, start)
        tree, inputs, state = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), args)
        along_time, kernel = torch.swapaxes(inputs @ tree.kernel, 0, 1), torch.swapaxes(tree.recurrent_kernel, 1, 2)
        pointwise = slstm_pointwise_function_registry["slstm"]
        states, final, _ = slstm_forward(along_time, torch.stack(state), kernel, tree.bias, pointwise)
        expected = (SLSTMState(*final), torch.swapaxes(states[0, 1:], 0, 1))
        weigh = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), expected)
        sum(
            (w * leaf).sum()
            for w, leaf in zip(map(torch.tensor, jax.tree.leaves(weigh)), jax.tree.leaves(expected), strict=True)
        ).backward()
        wanted = jax.tree.map(lambda leaf: leaf.grad.numpy(), (tree, inputs, state))
        with jax.enable_x64(True):
            got, transposed = jax.vjp(jax.jit(lambda *args: rx.scan(cell, *args)), *args)
            gradients = transposed(weigh)
        assert_close("values", got, jax.tree.map(lambda leaf: leaf.detach().numpy(), expected), 1e-10)
        if start is past:
            assert_close("gradients", gradients, wanted, 1e-10)
        else:  # Of no past there is nothing to move.
            assert_close("gradients", gradients[:2], wanted[:2], 1e-10)


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_extreme_gates_stay_finite(forget_gate: Any) -> None:
    cell = SLSTMCell(4, 2, forget_gate)
    params = perturbed_params(cell, 16)._replace(kernel=200 * jnp.eye(16))
    xs = jnp.asarray(np.random.default_rng(0).choice([-1.0, -0.01, 0.01, 1.0], (8, 20, 16)), jnp.float32)
    run = jax.jit(lambda params, xs: rx.scan(cell, params, xs))
    state, ys = run(params, xs)
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), state))
    assert_close("float64", ys, stabilized(cell, _double(params), _double(xs)), 1e-4)
    gradients = jax.jit(jax.grad(lambda *args: jnp.sum(jnp.sin(rx.scan(cell, *args)[1])), (0, 1)))(params, xs)
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), gradients))


def test_the_first_step_has_no_past() -> None:
    cell = SLSTMCell(4)
    params, x = perturbed_params(cell, 3), normal_like(jax.ShapeDtypeStruct((2, 3), jnp.float32), 1)
    _, _, z, o = jnp.split(x @ params.kernel + params.bias[None], 4, axis=1)
    state, y = rx.step(cell, params, x)
    assert_close("output", y, jnp.tanh(z) * jax.nn.sigmoid(o), 1e-6)
    again, y_again = rx.step(cell, params, x, state, reset=jnp.array([True, False]))
    assert_close("after a reset", y_again[0], y[0], 0.0)
    assert not jnp.array_equal(y_again[1], y[1])
    assert jnp.array_equal(again.n[0], state.n[0])


@pytest.mark.parametrize("cell", [SLSTMCell(4, 2), SLSTMCell(4, forget_gate="exp", recurrent_bias=True)], ids=str)
def test_contract(cell: SLSTMCell, promises: tuple[str, ...] | None) -> None:
    check_contract(cell, implementation="hoisted", promises=promises)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SLSTMCell(6, 4), "`num_heads` must divide `hidden_size` 6; got 4"),
        (lambda: SLSTMCell(6, 0), "`num_heads` must divide `hidden_size` 6; got 0"),
        (lambda: SLSTMCell(6, forget_gate="relu"), '`forget_gate` must be "sigmoid" or "exp"; got \'relu\''),
    ],
)
def test_errors_teach(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.thorough
def test_a_learned_initial_state_learns_from_zeros() -> None:
    layer = rx.LearnedInitialState(SLSTMCell(4))
    params, xs = layer.init(jax.random.key(0), 3), normal_like(jax.ShapeDtypeStruct((2, 5, 3), jnp.float32), 1)
    params = params._replace(layer=perturbed_params(SLSTMCell(4), 3))
    grads = [
        jax.jit(jax.grad(lambda params, how=how: rx.scan(layer, params, xs, implementation=how)[1].sum()))(params).state
        for how in ("xla", "hoisted")
    ]
    assert_close("hoisted and plain", *grads, 1e-5)
    assert grads[0].h.all()
    assert grads[0].c.all()
    assert grads[0].n.all()
