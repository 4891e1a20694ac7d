"""Cells of neuroscience and hydrology, heads and low rank: equations in float64, conserved mass, kept signs, noise."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import recurrax as rx
from equations import assert_obeys
from quick import quick_first
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.interop._description import describe, understand
from recurrax.layers import with_memory
from recurrax.layers._wrapper import Wrapper
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params

H, I, S = 6, 4, 3  # units, inputs, static inputs  # noqa: E741
KEY = jax.random.key(3)
SIGNS = (1, 1, 1, -1, -1, 0)
PAIRS = np.random.default_rng(0).random((H, H)) < 0.6
NARROW = np.random.default_rng(1).random((4, H)) < 0.6


@dataclasses.dataclass(frozen=True, repr=False)
class WithStatic(Wrapper):
    """A layer with static inputs, the same for all rows: `(params, static)` are its parameters."""

    def init(self, key: jax.Array, input_size: int, dtype: Any = jnp.float32) -> tuple:
        static = normal_like(jax.ShapeDtypeStruct((S,), jnp.float32), 5)
        return self.layer.init(key, input_size, dtype), static.astype(dtype)

    def apply(self, context: Any, params: tuple, state: Any, xs: Any) -> tuple:
        return context.scan(self.layer, with_memory(*params), state, xs)


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def softmax(a: np.ndarray) -> np.ndarray:
    parts = np.exp(a - a.max(-1, keepdims=True))
    return parts / parts.sum(-1, keepdims=True)


def lstm(a: np.ndarray, c: np.ndarray, i: np.ndarray | None = None) -> tuple:
    if i is None:
        i, a = sigmoid(a[:, :H]), a[:, H:]
    f, g, o = np.split(a, 3, -1)
    c = sigmoid(f) * c + i * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(p: Any, x: np.ndarray, h: np.ndarray, kernel: np.ndarray) -> tuple:
    r, z, n = np.split(x @ p.kernel + p.bias, 3, -1)
    u_r, u_z, u_n = np.split(h @ kernel + p.recurrent_bias, 3, -1)
    keep = sigmoid(z + u_z)
    h = (1 - keep) * np.tanh(n + sigmoid(r + u_r) * u_n) + keep * h
    return (h,), h


def leaky(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    rate = np.log1p(np.exp(x @ p.kernel + p.bias + h @ p.recurrent_kernel + p.recurrent_bias))
    h = h + 0.25 * (rate - h)
    return (h,), h


def dale(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    rows = [np.abs(row) * sign if sign else row for row, sign in zip(p.recurrent_kernel, SIGNS, strict=True)]
    return gru(p, x, h, np.stack(rows))


def connected(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple:
    kernel = p.recurrent_kernel * np.concatenate([NARROW] * 4, axis=1)
    h, c = lstm(x @ p.kernel + p.bias + h @ kernel, c)
    h = h @ p.projection_kernel
    return (h, c), h


def low_rank(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    return gru(p.layer, x, h, p.left @ p.right)


def full_kernel(blocks: np.ndarray) -> np.ndarray:
    """The block-diagonal kernel `[H, G*H]` of `[N, D, G*D]`."""
    heads, size, columns = blocks.shape
    gates = []
    for gate in np.split(blocks, columns // size, axis=-1):
        full = np.zeros((heads * size, heads * size))
        for n, block in enumerate(gate):
            full[n * size : (n + 1) * size, n * size : (n + 1) * size] = block
        gates.append(full)
    return np.concatenate(gates, axis=1)


def blocks_lstm(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple:
    h, c = lstm(x @ p.kernel + p.bias + h @ full_kernel(p.recurrent_kernel) + p.recurrent_bias, c)
    return (h, c), h


def blocks_gru(p: Any, x: np.ndarray, h: np.ndarray) -> tuple:
    return gru(p, x, h, full_kernel(p.recurrent_kernel))


def mogrifier(p: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple:
    q, r = p.q_kernel, p.r_kernel
    if p.q_factor is not None:
        q, r = q @ p.q_factor, r @ p.r_factor
    for k, kernel in enumerate(q):
        x = 2 * sigmoid(h @ kernel) * x
        if k < len(r):
            h = 2 * sigmoid(x @ r[k]) * h
    h, c = lstm(x @ p.kernel + p.bias + h @ p.recurrent_kernel, c)
    if p.projection_kernel is not None:
        h = h @ p.projection_kernel
    return (h, c), h


def ea_lstm(both: tuple, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple:
    p, static = both
    i = sigmoid(static @ p.static_kernel + p.static_bias)
    h, c = lstm(x @ p.kernel + p.bias + h @ p.recurrent_kernel, c, i)
    return (h, c), h


def mc_lstm(p: Any, x: np.ndarray, c: np.ndarray) -> tuple:
    masses, auxiliary = x[:, :2], x[:, 2:]
    ys = []
    for row in range(len(x)):
        share = c[row] / np.abs(c[row]).sum()
        a = (auxiliary[row] @ p.kernel + share @ p.recurrent_kernel + p.bias).reshape(2 + H + 1, H)
        # R of the paper multiplies from the left: its columns are these rows.
        m = softmax(a[:2]).T @ masses[row] + softmax(a[2:-1]).T @ c[row]
        ys.append((sigmoid(a[-1]) * m, (1 - sigmoid(a[-1])) * m))
    h, c = map(np.stack, zip(*ys, strict=True))
    return (c,), h


BOTH = ("xla", "hoisted")
LEAKY = rx.LeakyCell(H, jax.nn.softplus, tau=4.0, recurrent_bias=True)
MC_LSTM = rx.MCLSTMCell(H, mass_size=2)
CASES: dict[str, tuple[rx.Layer, Callable, tuple]] = {
    "leaky": (LEAKY, leaky, BOTH),
    "dale": (rx.Dale(rx.GRUCell(H), SIGNS), dale, ("hoisted",)),
    "mass-conserving": (MC_LSTM, mc_lstm, ("xla",)),
    "connectivity": (rx.Connectivity(rx.LSTMCell(H, proj_size=4), NARROW), connected, ("xla",)),
    "entity-aware": (WithStatic(rx.EALSTMCell(H, S)), ea_lstm, BOTH),
    "mogrifier": (rx.MogrifierLSTMCell(H), mogrifier, ("xla",)),
    "heads lstm": (rx.BlockDiagonalLSTMCell(H, num_heads=2, recurrent_bias=True), blocks_lstm, BOTH),
    "low rank": (rx.LowRank(rx.GRUCell(H), 2), low_rank, BOTH),
    "heads gru": (rx.BlockDiagonalGRUCell(H, num_heads=3), blocks_gru, BOTH),
    "mogrifier, low rank": (rx.MogrifierLSTMCell(H, 3, rounds=4, rank=2), mogrifier, ("xla",)),
}


@pytest.mark.parametrize("name", quick_first(list(CASES), 3))
def test_values_and_gradients_are_those_of_the_equations_in_float64(name: str) -> None:
    layer, equations, implementations = CASES[name]
    assert_obeys(layer, equations, I, implementations, steps=5)


# RecurrentNoise and the dropout around the constraints rest without a key.
RICH = rx.RecurrentNoise(rx.RecurrentDropout(rx.Dale(rx.Connectivity(rx.LSTMCell(H), PAIRS), SIGNS), 0.3), 0.1, 0.1)
LAYERS = [
    LEAKY,
    RICH,
    MC_LSTM,
    WithStatic(rx.Stack((rx.Residual(rx.EALSTMCell(3, S)), rx.EALSTMCell(4, S)))),
    rx.BlockDiagonalLSTMCell(4, num_heads=2),
    rx.BlockDiagonalGRUCell(4, num_heads=2),
    rx.MogrifierLSTMCell(4, 3, rounds=3, rank=2),
    rx.GradientClip(rx.LowRank(rx.LSTMCell(4, 3), 2), 100.0),
    rx.LearnedInitialState(rx.Zoneout(rx.RecurrentNoise(rx.LowRank(rx.ElmanCell(4), 1), 0.2), 0.2)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_contract(layer: rx.Layer, promises: tuple[str, ...] | None) -> None:
    if layer == RICH and promises is not None:
        promises = ("derivatives", "mesh", "identity")
    if layer == MC_LSTM:
        promises = None  # the whole contract
    check_contract(layer, promises=promises)


@pytest.mark.thorough
def test_mass_is_conserved_over_a_thousand_steps() -> None:
    cell, steps = MC_LSTM, 1000
    params = perturbed_params(cell, I, scale=0.5)
    xs = normal_like(jax.ShapeDtypeStruct((3, steps, I), jnp.float32), 1)
    xs = xs.at[..., :2].set(jnp.abs(xs[..., :2]))
    # The output gate is as drawn, nearly closed, and closed: the mass of each step stays.
    for closed in (0.0, -5.0, -100.0):
        shifted = params._replace(bias=params.bias.at[-H:].add(closed))
        before = rx.cells.MCLSTMState(jnp.full((3, H), 10.0))
        state, ys = rx.scan(cell, shifted, xs, before)
        wide = [np.asarray(part, np.float64) for part in (before.c, xs[..., :2], state.c, ys)]
        came, left = (sum(part.reshape(3, -1).sum(1) for part in parts) for parts in (wide[:2], wide[2:]))
        assert np.abs(left / came - 1).max() <= 1e-5
        assert (state.c >= 0).all()
        assert (ys >= 0).all()
        if closed == -100:
            np.testing.assert_allclose(np.asarray(state.c, np.float64).sum(1), came, rtol=1e-5)
    # An empty store without rain stays empty, and its derivative is finite.
    gradient = jax.grad(lambda xs: rx.scan(cell, params, xs)[1].sum())(jnp.zeros((2, 3, I)))
    assert np.isfinite(gradient).all()
    assert rx.infer_input_size(rx.MCLSTMCell(3, 3), rx.MCLSTMCell(3, 3).init(KEY, 7)) == 7


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("cell", [rx.LeakyCell(H), pytest.param(rx.LSTMCell(H), marks=pytest.mark.thorough)], ids=str)
def test_an_optimizer_keeps_signs_and_absent_connections_exactly(cell: rx.AffineCell) -> None:
    layer = rx.Dale(rx.Connectivity(cell, PAIRS), SIGNS)
    params, xs = layer.init(KEY, I), normal_like(jax.ShapeDtypeStruct((2, 5, I), jnp.float32), 1)
    first = layer.cell_params(params)
    # A large step: without the constraint nearly every weight would change its sign.
    optimizer = optax.adamw(0.5, weight_decay=0.1)
    loss = lambda params: jnp.mean((rx.scan(layer, params, xs)[1] - 1) ** 2)  # noqa: E731

    @jax.jit
    def train_step(params: Any, state: Any) -> tuple:
        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads

    state, absent = optimizer.init(params), ~np.tile(PAIRS, (1, cell.gates))
    for _ in range(8):
        params, state, grads = train_step(params, state)
        weights = np.asarray(layer.cell_params(params).recurrent_kernel)
        for sign, row in zip(SIGNS, weights, strict=True):
            assert not sign or (sign * row >= 0).all()
        for zeros in (weights, params.recurrent_kernel, grads.recurrent_kernel):
            assert not np.asarray(zeros)[absent].any()
    # The parameters themselves have crossed zero, so the test can fail.
    assert (np.asarray(params.recurrent_kernel)[:3] < 0).any()
    assert not np.allclose(weights, first.recurrent_kernel)
    folded = layer.cell_params(params)
    assert_close("the cell alone", rx.scan(cell, folded, xs), rx.scan(layer, params, xs), 1e-6)


def test_excitation_and_inhibition_are_balanced_at_first() -> None:
    layer = rx.Dale(rx.LeakyCell(200), 0.8)
    drawn = layer.layer.init(KEY, 1).recurrent_kernel
    weights = np.asarray(layer.init(KEY, 1).recurrent_kernel)
    assert abs(weights.sum()) < 0.05 * np.abs(weights).sum()
    np.testing.assert_allclose((weights**2).mean(), (drawn**2).mean(), rtol=0.02)
    assert (np.sign(weights[:, 0]) == np.where(np.arange(200) < 160, 1, -1)).all()


def identity(x: jax.Array) -> jax.Array:
    return x


@pytest.mark.thorough
def test_noise_has_its_variance_and_comes_from_the_key_alone() -> None:
    cell = rx.LeakyCell(H, identity, tau=100.0, dt=20.0)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY, I))
    xs = jnp.zeros((2000, 20, I))

    def run(params: Any, *sigmas: float) -> np.ndarray:
        return np.asarray(rx.scan(rx.RecurrentNoise(cell, *sigmas), params, xs, key=KEY)[1])

    # Private noise: h' = 0.8 h + 0.2 √10 σ ξ.
    private = run(params, 0.3)
    np.testing.assert_allclose(private[:, 0].std(0), np.sqrt(2 * 0.2) * 0.3, rtol=0.08)
    np.testing.assert_allclose(private[:, -1].std(0), 0.3 * np.sqrt(2 / (2 - 0.2)), rtol=0.08)
    # Neither units nor steps share it: only the leak joins two steps.
    new = private[:, 1:] - 0.8 * private[:, :-1]
    pairs = np.corrcoef(new[:, :2].reshape(2000, -1).T)
    assert np.abs(pairs - np.eye(2 * H)).max() < 0.12
    # Noise on the inputs passes through the kernel: all units of this kernel share it.
    shared = run(params._replace(kernel=jnp.ones((I, H))), 0.0, 0.1)
    np.testing.assert_allclose(shared[:, 0].std(), np.sqrt(2 * 0.2 * I) * 0.1, rtol=0.08)
    assert_close("all units", shared, np.broadcast_to(shared[..., :1], shared.shape), 1e-6)
    # In a cell of steps the scale is 1.
    elman = rx.RecurrentNoise(rx.ElmanCell(H, identity), 0.3)
    _, ys = rx.scan(elman, params, xs[:, :1], key=KEY)
    np.testing.assert_allclose(np.asarray(ys).std(), 0.3, rtol=0.05)

    layer, params, xs = rx.RecurrentNoise(cell, 0.3, 0.1), perturbed_params(cell, I), xs[:2]
    drawn = rx.scan(layer, params, xs, key=KEY)
    assert_close("the same key", rx.scan(layer, params, xs, key=KEY, implementation="hoisted"), drawn, 1e-5)
    assert_close("no key", rx.scan(layer, params, xs), rx.scan(cell, params, xs), 0)
    assert not rx.RecurrentNoise(cell, 0.0).stochastic


@pytest.mark.thorough
def test_static_inputs_of_each_sequence_in_core_and_flax() -> None:
    layer = rx.Stack((rx.EALSTMCell(H, S), rx.EALSTMCell(H, S)))
    params = perturbed_params(layer, I)
    xs, static = (normal_like(jax.ShapeDtypeStruct(shape, jnp.float32), 1) for shape in ((2, 3, I), (2, S)))
    state, ys = rx.scan(layer, with_memory(params, static), xs)
    for row in range(2):
        alone = rx.scan(layer, with_memory(params, static[row]), xs[row])
        assert_close("one basin", alone, (jax.tree.map(lambda s: s[row], state), ys[row]), 1e-6)  # noqa: B023
    model = rnn.Recurrent(layer, I, params=params, rngs=nnx.Rngs(0))
    assert_close("nnx", model(xs, memory=static), (ys, state), 1e-6)
    module = linen.Recurrent(layer)
    assert_close("linen", module.apply(linen.variables(params), xs, memory=static), (ys, state), 1e-6)
    assert rx.num_params(rx.EALSTMCell(H, S), I) == 3 * H * (I + H + 1) + H * (S + 1)


def test_no_product_of_a_low_rank_kernel_is_full() -> None:
    layer = rx.LowRank(rx.LSTMCell(7), 2)
    params, xs = layer.init(KEY, 3), jnp.ones((2, 5, 3))
    kernel = np.asarray(params.left @ params.right[:, :7])
    np.testing.assert_allclose(np.linalg.svd(kernel)[1], [1, 1, 0, 0, 0, 0, 0], atol=1e-6)
    program = str(jax.make_jaxpr(jax.grad(lambda p: rx.scan(layer, p, xs)[1].sum()))(params))
    assert "[2,28]" in program
    assert "[7,28]" not in program
    assert "[28,7]" not in program


def test_layers_are_described_and_compare_by_value() -> None:
    again = rx.Connectivity(rx.LSTMCell(H), PAIRS)
    assert again == rx.Connectivity(rx.LSTMCell(H), PAIRS.tolist())
    for layer in (again, RICH, rx.LowRank(LEAKY, 2), MC_LSTM, *(layer for layer in LAYERS if layer != LAYERS[3])):
        assert understand(describe(layer)) == layer


@pytest.mark.thorough
def test_one_head_and_no_round_are_an_lstm() -> None:
    xs, lstm_cell = normal_like(jax.ShapeDtypeStruct((2, 3, I), jnp.float32), 1), rx.LSTMCell(H)
    params = perturbed_params(lstm_cell, I)
    expected = rx.scan(lstm_cell, params, xs)
    one = params._replace(recurrent_kernel=params.recurrent_kernel[None])
    assert_close("one head", rx.scan(rx.BlockDiagonalLSTMCell(H), one, xs), expected, 1e-6)
    cell = rx.MogrifierLSTMCell(H, rounds=0)
    no_rounds = rx.cells.MogrifierLSTMParams(*params)
    assert_close("no round", rx.scan(cell, no_rounds, xs), expected, 1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: rx.LeakyCell(4, tau=10.0, dt=20.0),
            ValueError,
            "at most `tau` 10.0; got 20.0",
        ),
        (lambda: rx.Dale(rx.GRUCell(3), (1, 1)), ValueError, "must be 3 signs, each 1, -1 or 0"),
        (lambda: rx.Dale(rx.GRUCell(2), (1, 2)), ValueError, "must be 2 signs, each 1, -1 or 0"),
        (lambda: rx.Dale(rx.GRUCell(3), 1.5), ValueError, "must be a share from 0 to 1; got 1.5"),
        (lambda: rx.Dale(rx.GRUCell(3), "e"), TypeError, "`signs` of Dale must be one of"),
        (lambda: rx.Dale(rx.DiagonalGRUCell(3)), TypeError, "`layer` of Dale must be an affine cell with one"),
        (lambda: rx.Dale(rx.LowRank(rx.GRUCell(3))), TypeError, "`layer` of Dale must be an affine cell with one"),
        (lambda: rx.Connectivity(rx.GRUCell(3)), ValueError, "must be bool[3, 3], one flag for"),
        (lambda: rx.Connectivity(rx.GRUCell(3), np.ones((2, 3), bool)), ValueError, "got bool[2, 3]"),
        (lambda: rx.Connectivity(rx.GRUCell(3), np.ones((3, 3))), TypeError, "must be bool[3, 3]; got float64[3, 3]"),
        (lambda: rx.LowRank(rx.GRUCell(3), 4), ValueError, "`rank` of LowRank must be at most 3"),
        (lambda: rx.LowRank(rx.LayerNormGRUCell(3)), TypeError, "`layer` of LowRank must be an affine cell"),
        (lambda: rx.RecurrentNoise(rx.GRUCell(3), -1.0), ValueError, "`sigma` of RecurrentNoise must be at least 0"),
        (lambda: rx.RecurrentNoise(rx.MGUCell(3, reset_after=False)), TypeError, "`layer` of RecurrentNoise must be"),
        (lambda: rx.BlockDiagonalGRUCell(4, num_heads=3), ValueError, "`num_heads` must divide `hidden_size` 4; got 3"),
        (lambda: rx.MogrifierLSTMCell(4, rounds=-1), ValueError, "`rounds` of MogrifierLSTMCell must be at least 0"),
        (lambda: rx.MCLSTMCell(4, 3).init(KEY, 2), ValueError, "must be at least 3, its `mass_size`; got 2"),
        (lambda: rx.scan(MOGRIFIER, MOGRIFIER.init(KEY, 3), XS, implementation="hoisted"), ValueError, "cannot serve"),
        (lambda: rx.scan(rx.Zoneout(MC_LSTM), MC_LSTM.init(KEY, 3), XS), TypeError, "must say how its output follows"),
        (lambda: rx.scan(EA_LSTM, EA_LSTM.init(KEY, 3), XS), ValueError, "must hold static inputs; got none"),
        (lambda: with_memory(EA_LSTM.init(KEY, 3), jnp.ones((2, 4))), ValueError, "must be [*B, 5], the `static_size`"),
        (lambda: rx.scan(EA_LSTM, with_memory(EA_LSTM.init(KEY, 3), jnp.ones((3, 5))), XS), ValueError, "[2]; got [3]"),
    ],
)
def test_what_does_not_fit_is_told(make: Callable, error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


MOGRIFIER, EA_LSTM, XS = rx.MogrifierLSTMCell(3), rx.EALSTMCell(3, 5), jnp.ones((2, 4, 3))
