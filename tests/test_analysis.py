"""Dynamics of known maps, gradients over time, principal components, and units of a text."""

import dataclasses
import html
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import recurrax as rx
from recurrax import analysis
from recurrax.testing import assert_close, normal_like, perturbed_params


class MapState(NamedTuple):
    h: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class Map(rx.Cell):
    """A cell of one's own: h' = function(h + x), a map with known dynamics."""

    function: Callable = jnp.tanh
    output_part = "h"

    def init(self, key: jax.Array, input_size: int, dtype: Any = jnp.float32) -> Any:
        return ()

    def initial_state(self, batch_shape: tuple = (), dtype: Any = jnp.float32) -> MapState:
        return MapState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step(self, params: Any, state: MapState, z: jax.Array) -> tuple:
        h = self.function(state.h + z.astype(state.h.dtype))
        return MapState(h), h


def henon(h: jax.Array) -> jax.Array:
    x, y = h[..., 0], h[..., 1]
    return jnp.stack([1 - 1.4 * x**2 + y, 0.3 * x], axis=-1)


def double(tree: Any) -> Any:
    """Arrays of NumPy in float64, or complex128."""

    def one(leaf: Any) -> np.ndarray:
        return np.asarray(leaf, np.complex128 if np.iscomplexobj(leaf) else np.float64)

    return jax.tree.map(one, tree)


LAYER = rx.Stack((rx.LSTMCell(3), rx.Residual(rx.LRUCell(3, state_size=2)), Map(3)))


def test_a_state_as_a_vector() -> None:
    state = normal_like(LAYER.initial_state((2, 5)), seed=0)
    vector = analysis.flatten_state(LAYER, state)
    lstm, lru, own = state
    parts = [lstm.h, lstm.c, lru.h.real, lru.h.imag, own.h]
    np.testing.assert_array_equal(vector, np.concatenate(parts, axis=-1))
    jax.tree.map(np.testing.assert_array_equal, analysis.unflatten_state(LAYER, vector), state)

    for call, message in (
        (lambda: analysis.flatten_state(LAYER, lstm), r"`state` must be a tuple with \[0\].h, \[0\].c, .* got a LSTM"),
        (lambda: analysis.flatten_state(LAYER, (lstm, lru, lstm.h)), r"`state` must be a tuple"),
        (lambda: analysis.flatten_state(rx.GRUCell(4), rx.cells.GRUState(lstm.h)), r"`state.h` must be \[\*B, 4\] for"),
        (
            lambda: analysis.flatten_state(LAYER, (lstm, lru, MapState(own.h[0]))),
            r"`state\[2\].h` must be \[2, 5, 3\], with the leading axes of `state\[0\].h`; got float32\[5, 3\]",
        ),
        (lambda: analysis.flatten_state(rx.Dense(3), ()), r"`layer` must have a state; got Dense\(.*which has none"),
        (
            lambda: analysis.unflatten_state(LAYER, vector[..., 1:]),
            r"`vector` must be \[\*B, 13\] .* float32\[2, 5, 12\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


LAYERS = [
    LAYER,
    rx.MLSTMCell(4, 2),
    rx.SLSTMCell(4, 2),
    rx.QRNNCell(3),
    rx.S5Cell(4),
    rx.CfCCell(3),
    rx.Zoneout(rx.PeepholeLSTMCell(3), 0.2),
    rx.Stack((rx.Window(3, 2), rx.LearnedInitialState(rx.GRUCell(3)))),
    rx.ConvLSTMCell(2, (3,), 2),
]


@pytest.mark.thorough
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_jacobian_of_a_step_is_that_of_finite_differences(layer: rx.Layer) -> None:
    space = getattr(layer, "input_shape", ())
    params = double(perturbed_params(layer, 3, scale=0.4))
    xs = np.random.default_rng(2).standard_normal((2, 4, *space, 3))
    with jax.enable_x64(True):
        # A state that the layer visits: some cells have states with bounds.
        state, _ = rx.scan(layer, params, xs[:, :3], implementation="xla")
        x = xs[:, 3]
        jacobian = analysis.step_jacobian(layer, params, x, state)  # [2, S, S]
        vector = np.asarray(analysis.flatten_state(layer, state))
        moves = 1e-6 * np.eye(vector.shape[-1])[:, None]  # [S, 1, S]

        @jax.jit
        def after(vectors: jax.Array) -> jax.Array:
            many = jnp.broadcast_to(x, (*vectors.shape[:2], *x.shape[1:]))
            new, _ = rx.step(layer, params, many, analysis.unflatten_state(layer, vectors))
            return analysis.flatten_state(layer, new)

        columns = (after(vector + moves) - after(vector - moves)) / 2e-6  # [S, 2, S]
        assert_close("Jacobian", jacobian, jnp.moveaxis(columns, 0, -1), 1e-7)


@pytest.mark.thorough
def test_the_jacobian_of_a_step_in_closed_form() -> None:
    # One input, and the states of many steps: tanh' = 1 - tanh², and u = h @ kernel.
    cell = rx.ElmanCell(4)
    params = perturbed_params(cell, 3)
    xs = jax.random.normal(jax.random.key(0), (2, 3))
    states = normal_like(cell.initial_state((2, 5)), seed=3)
    jacobian = analysis.step_jacobian(cell, params, xs[0], states)  # [2, 5, 4, 4]
    new, _ = rx.step(cell, params, jnp.broadcast_to(xs[0], (2, 5, 3)), states)
    expected = (1 - new.h**2)[..., None] * params.recurrent_kernel.T[None, None]
    assert_close("Elman", jacobian, expected, 1e-6)
    first = analysis.step_jacobian(cell, params, xs)  # at the initial state, an input for each row
    rest = (1 - rx.step(cell, params, xs)[0].h ** 2)[..., None] * params.recurrent_kernel.T[None]
    assert_close("at the initial state", first, rest, 1e-6)

    with pytest.raises(ValueError, match=r"`x` must be \[2, 5, I\], one input for each row of `state`, or \[I\]"):
        analysis.step_jacobian(cell, params, xs, states)
    with pytest.raises(ValueError, match="must not read the future"):
        analysis.step_jacobian(rx.Bidirectional(cell), rx.layers.Directions(params, params), xs[0])


@pytest.mark.thorough
def test_lyapunov_exponents_of_linear_cells_are_the_logarithms_of_the_eigenvalues() -> None:
    rng = np.random.default_rng(0)
    values = np.array([1.1, -0.8, 0.5, 0.2])
    vectors = rng.standard_normal((4, 4))
    kernel = vectors @ np.diag(values) @ np.linalg.inv(vectors)
    cell = rx.ElmanCell(4, jnp.positive, bias=False)
    params = rx.cells.ElmanParams(rng.standard_normal((2, 4)), kernel)
    xs = rng.standard_normal((3, 150, 2))
    expected = np.log(np.abs(values))
    with jax.enable_x64(True):
        found = analysis.lyapunov_spectrum(cell, params, xs, warmup=50, interval=7)
        assert_close("Elman", found, np.tile(expected, (3, 1)), 1e-6)
        found = analysis.lyapunov_spectrum(cell, params, xs.swapaxes(0, 1), warmup=50, number=2, time_major=True)
        assert_close("two of them", found, np.tile(expected[:2], (3, 1)), 1e-6)

        # An LRU multiplies each complex number by exp(log_a), so each modulus counts twice.
        cell = rx.LRUCell(3, state_size=2)
        params = double(perturbed_params(cell, 2))
        params = params._replace(log_decay=np.log(-np.log([0.5, 0.9])))
        found = analysis.lyapunov_spectrum(cell, params, xs[0], warmup=100)
        assert_close("LRU", found, np.log([0.9, 0.9, 0.5, 0.5]), 1e-6)

    cell = rx.GRUCell(4)
    params = perturbed_params(cell, 2)
    for options, message in (
        ({"warmup": 150}, "`warmup` must be an int from 0 to 149, since `xs` has 150 steps; got 150"),
        ({"number": 5}, "`number` must be an int from 1 to 4, the size of the state; got 5"),
        ({"interval": 0}, "`interval` must be an int of at least 1; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.lyapunov_spectrum(cell, params, jnp.asarray(xs, jnp.float32), **options)


def test_a_map_with_known_dynamics() -> None:
    # Hénon's map has two unstable fixed points, exponents near 0.4192 and -1.623, and their sum is exactly log 0.3.
    cell = Map(2, henon)
    starts = np.random.default_rng(0).uniform(-1.5, 1.5, (40, 2))
    with jax.enable_x64(True):
        points = analysis.fixed_points(cell, (), np.zeros(2), MapState(starts), descent_steps=50)
        exponents = np.asarray(analysis.lyapunov_spectrum(cell, (), np.zeros((4000, 2)), warmup=50, interval=2))
    roots = np.roots([1.4, 0.7, -1])  # 1.4 x² + (1 - 0.3) x - 1 = 0
    expected = np.stack([roots, 0.3 * roots], axis=-1)
    order = np.argsort(-points.vectors[:, 0])
    np.testing.assert_allclose(points.vectors[order], expected[np.argsort(-roots)], atol=1e-9)
    np.testing.assert_array_equal(points.states.h, points.vectors)
    assert points.fixed.all()
    assert not points.stable.any()
    assert (points.speed**2 <= 1e-20).all()
    assert 20 <= points.starts.sum() <= 40
    for (x, _), jacobian, values in zip(points.vectors, points.jacobians, points.eigenvalues, strict=True):
        np.testing.assert_allclose(jacobian, [[-2.8 * x, 1], [0.3, 0]], atol=1e-12)
        np.testing.assert_allclose(values.prod(), -0.3, atol=1e-9)
        assert abs(values[0]) > 1 > abs(values[1])
    np.testing.assert_allclose(exponents, [0.4192, -1.6232], atol=0.02)
    np.testing.assert_allclose(exponents.sum(), np.log(0.3), atol=1e-9)


@pytest.mark.thorough
def test_slow_points_lines_of_fixed_points_and_none() -> None:
    starts = MapState(np.random.default_rng(0).uniform(-0.3, 0.3, (20, 2)))
    # Nearly a fixed point: the speed of the first number is 1e-4 + h², and the second number shrinks.
    ghost = Map(2, lambda h: jnp.stack([h[..., 0] + 1e-4 + h[..., 0] ** 2, 0.5 * h[..., 1]], axis=-1))
    line = Map(2, lambda h: h * jnp.array([1.0, 0.5], h.dtype))
    with jax.enable_x64(True):
        points = analysis.fixed_points(ghost, (), np.zeros(2), starts)
        assert points.fixed.tolist() == [False]
        np.testing.assert_allclose(points.vectors, [[0, 0]], atol=2e-3)
        np.testing.assert_allclose(points.speed, [1e-4], rtol=0.05)
        assert points.starts.tolist() == [20]
        none = analysis.fixed_points(ghost, (), np.zeros(2), starts, max_speed=0.0)
        assert none.vectors.shape == (0, 2)
        assert none.eigenvalues.shape == (0, 2)
        assert none.states.h.shape == (0, 2)
        points = analysis.fixed_points(line, (), np.zeros(2), starts, descent_steps=0)
        assert len(points.vectors) >= 15
        assert points.fixed.all()
        np.testing.assert_allclose(points.vectors[:, 1], 0, atol=1e-9)
        np.testing.assert_allclose(points.eigenvalues, np.tile([1, 0.5], (len(points.vectors), 1)))
        assert not points.stable.any()

    with pytest.raises(ValueError, match=r"`x` must be one input \[I\] without batch axes; got float32\[1, 2\]"):
        analysis.fixed_points(line, (), jnp.zeros((1, 2)), starts)
    with pytest.raises(ValueError, match=r"`starts.h` must be \[\*B, 2\] for Map"):
        analysis.fixed_points(line, (), jnp.zeros(2), MapState(starts.h[:, :1]))


def flip_flop(key: jax.Array, batch: int, steps: int) -> tuple[jax.Array, jax.Array]:
    """Rare pulses of -1 or 1 in three channels, and the last pulse of each channel."""
    pulses = jax.random.choice(key, jnp.array([-1.0, 0.0, 1.0]), (batch, steps, 3), p=jnp.array([0.1, 0.8, 0.1]))
    pulses = pulses.at[:, 0].set(jnp.where(pulses[:, 0] == 0, 1.0, pulses[:, 0]))  # every channel begins with a pulse

    def keep(last: jax.Array, pulse: jax.Array) -> tuple:
        last = jnp.where(pulse == 0, last, pulse)
        return last, last

    _, targets = jax.lax.scan(keep, jnp.zeros((batch, 3)), jnp.moveaxis(pulses, 1, 0))
    return pulses, jnp.moveaxis(targets, 0, 1)


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
def test_a_trained_flip_flop_has_a_stable_point_for_each_memory() -> None:
    cell, optimizer = rx.GRUCell(16), optax.adam(2e-2)

    def loss_of(params: Any, key: jax.Array) -> jax.Array:
        xs, targets = flip_flop(key, 32, 25)
        _, ys = rx.scan(cell, params["cell"], xs, implementation="hoisted")
        return jnp.square(ys @ params["readout"] - targets).mean()

    @jax.jit
    def train(params: Any) -> tuple[Any, jax.Array]:
        def train_step(carry: tuple, key: jax.Array) -> tuple:
            loss, grads = jax.value_and_grad(loss_of)(carry[0], key)
            updates, opt_state = optimizer.update(grads, carry[1])
            return (optax.apply_updates(carry[0], updates), opt_state), loss

        keys = jax.random.split(jax.random.key(1), 600)
        (params, _), losses = jax.lax.scan(train_step, (params, optimizer.init(params)), keys)
        return params, losses[-1]

    readout = 0.2 * jax.random.normal(jax.random.key(3), (16, 3))
    params, loss = train({"cell": cell.init(jax.random.key(0), 3), "readout": readout})
    assert loss < 0.01

    found = []
    with jax.enable_x64(True):
        for seed in (0, 1):
            xs, _ = flip_flop(jax.random.key(seed), 8, 32)
            states = rx.scan(cell, params["cell"], xs.astype(jnp.float32))[1]  # the outputs are the states
            starts = rx.cells.GRUState(
                states + 0.3 * jax.random.normal(jax.random.key(seed), states.shape, jnp.float32)
            )
            points = analysis.fixed_points(
                cell, params["cell"], np.zeros(3), starts, descent_steps=100, newton_steps=40
            )
            assert points.vectors.dtype == np.float64
            assert (points.speed[points.fixed] ** 2 <= 1e-20).all()
            stable = points.vectors[points.fixed & points.stable]
            memories = np.sign(stable @ np.asarray(params["readout"]))
            assert len(stable) >= 8
            assert len(np.unique(memories, axis=0)) == 8
            found.append(stable)
    one, other = found
    assert len(one) == len(other)
    distances = np.abs(one[:, None] - other[None]).max(axis=-1)
    assert distances.min(axis=0).max() < 1e-8
    assert distances.min(axis=1).max() < 1e-8


@pytest.mark.thorough
def test_gradients_by_distance() -> None:
    layer = rx.Stack((rx.GRUCell(3), rx.Dense(2)))
    params = perturbed_params(layer, 3, scale=0.3)
    xs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    jacobian = jax.jacrev(lambda xs: rx.scan(layer, params, xs)[1][:, -1].sum(axis=0))(xs)  # [2, 2, 6, 3]
    expected = jnp.sqrt(jnp.square(jacobian).sum(axis=(0, 3)))[:, ::-1]
    norms = analysis.gradient_by_distance(layer, params, xs)
    assert_close("brute force", norms, expected, 1e-6)
    norms = analysis.gradient_by_distance(layer, params, xs.swapaxes(0, 1), time_major=True)
    assert_close("time-major", norms, expected, 1e-6)


def test_gradients_vanish_and_explode_as_the_textbooks_say() -> None:
    # At zero, tanh is linear: |kernel @ recurrent_kernel^d| grows as the spectral radius to the power of d (Gelfand).
    rng = np.random.default_rng(0)
    recurrent_kernel = rng.standard_normal((16, 16)).astype(np.float32)
    recurrent_kernel /= np.abs(np.linalg.eigvals(recurrent_kernel)).max()
    kernel = rng.standard_normal((4, 16)).astype(np.float32)
    xs = rng.standard_normal((2, 121, 4)).astype(np.float32)
    elman = rx.ElmanCell(16, bias=False)
    for radius in (0.7, 1.0, 1.3):
        params = rx.cells.ElmanParams(kernel, radius * recurrent_kernel)
        norms = analysis.gradient_by_distance(elman, params, 0 * xs)[0]
        np.testing.assert_allclose((norms[120] / norms[40]) ** (1 / 80), radius, rtol=0.02)
    # Inputs that saturate tanh only make a vanishing gradient smaller.
    params = rx.cells.ElmanParams(kernel, 0.7 * recurrent_kernel)
    driven, linear = (analysis.gradient_by_distance(elman, params, x)[:, 100].mean() for x in (xs, 0 * xs))
    assert driven < linear < 1e-10

    kept = {}
    for forget_bias in (0.0, 1.0):
        lstm = rx.LSTMCell(16, forget_bias=forget_bias)
        norms = analysis.gradient_by_distance(lstm, lstm.init(jax.random.key(0), 4), xs).mean(axis=0)
        kept[forget_bias] = float(norms[100] / norms[0])
    # sigmoid(0) = 0.5 and sigmoid(1) = 0.73, so about 1.46^100 = 3e16 times as much is left.
    assert kept[1.0] > 1e10 * kept[0.0]
    assert kept[0.0] < 1e-20


def test_principal_components() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 20, 5)).astype(np.float32) @ np.diag([3, 1, 2, 0.1, 0.5])
    vectors = vectors.astype(np.float32) + np.arange(5, dtype=np.float32)
    mask = np.arange(20) < np.array([[20], [13], [7]])
    rows = vectors[mask]
    _, sizes, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    padded = np.where(mask[..., None], vectors, np.nan)
    found = jax.jit(lambda v, mask: analysis.principal_components(v, 3, mask=mask))(padded, mask)
    directions *= np.sign(np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1))
    assert_close("directions", found.directions, directions[:3], 1e-4)
    assert_close("variances", found.variances, sizes[:3] ** 2 / len(rows), 1e-3)
    assert_close("shares", found.shares, (sizes**2 / (sizes**2).sum())[:3], 1e-5)
    assert_close("coordinates", found.project(vectors), (vectors - rows.mean(axis=0)) @ directions[:3].T, 1e-3)
    with pytest.raises(ValueError, match="`number` must be an int from 1 to 5, the size of a vector; got 6"):
        analysis.principal_components(vectors, 6)


CODE = 'def f(a, b):\n    return {"(": [a, b]}\n'


def test_units_of_a_text() -> None:
    features = analysis.text_features(CODE)
    assert all(feature.shape == (len(CODE),) for feature in features.values())
    at = {
        name: dict(zip(CODE, feature.tolist(), strict=True)) for name, feature in features.items()
    }  # the last of each
    assert [at["brackets"][c] for c in "f:[]}"] == [0, 1, 2, 1, 0]
    assert at["indentation"]["r"] == 4
    assert at["position"]["\n"] == 0
    assert features["quotes"].sum() == 2  # the opening quote, and the bracket

    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(CODE), 6))
    values[:, 4] = -2 * features["brackets"] + 0.1 * values[:, 4]
    values[:, 1] = features["quotes"] + 0.01 * values[:, 1]
    values[:, 5] = 0.1  # never changes
    found = analysis.find_units(values, features, 6)
    assert found["brackets"].units[0] == 4
    assert found["quotes"].units[0] == 1
    expected = [np.corrcoef(values[:, unit], features["brackets"])[0, 1] for unit in range(5)]
    order = found["brackets"].units
    assert order[-1] == 5
    np.testing.assert_allclose(found["brackets"].correlations, [*np.array(expected)[order[:-1]], 0], atol=1e-12)
    with pytest.raises(ValueError, match=r"`features\['x'\]` must be \[38\], one number per step of `values`"):
        analysis.find_units(values, {"x": np.zeros(3)})

    # The text itself comes back from the colored text, and the color is the size of the value.
    colored = analysis.text_html(CODE, values[:, 4])
    pieces = re.findall(r'<span style="background:#(\w+)" title="([^"]+)">(.*?)</span>', colored, re.DOTALL)
    assert html.unescape("".join(piece for _, _, piece in pieces)) == CODE
    np.testing.assert_allclose([float(value) for _, value, _ in pieces], values[:, 4], rtol=0.01)
    strongest = int(np.abs(values[:, 4]).argmax())
    assert pieces[strongest][0] == "3a76c3"  # the full blue, since the value is negative
    terminal = analysis.text_ansi(CODE, values[:, 4], limit=100)
    assert re.sub(r"\x1b\[[\d;]*m", "", terminal) == CODE
    assert analysis.text_ansi(["two\n", "words"], [0.0, 1.0]).startswith(
        "\x1b[38;2;0;0;0;48;2;255;255;255mtwo\x1b[0m\n"
    )
    with pytest.raises(ValueError, match=r"`values` must be \[38\], one number per piece of `text`; got float64\[3\]"):
        analysis.text_html(CODE, values[:3, 0])


@pytest.mark.thorough
def test_pictures_show_the_numbers() -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    gates = {"input": rng.uniform(size=(38, 6)), "cell": rng.uniform(-2, 2, (38, 6))}
    series = rng.standard_normal(38)
    figure = analysis.plot_gates(gates, text=CODE, series=series)
    above, first, second = figure.axes[:3]
    np.testing.assert_array_equal(above.lines[0].get_ydata(), series)
    for panel, values in ((first, gates["input"]), (second, gates["cell"])):
        np.testing.assert_array_equal(panel.images[0].get_array(), values.T)
    assert first.images[0].get_clim() == (0, 1)
    # The scale leaves out the largest 2 %.
    limit = -second.images[0].get_clim()[0]
    assert second.images[0].get_clim()[1] == limit
    assert 0.97 < (np.abs(gates["cell"]) <= limit).mean() < 0.99
    written = "".join(label.get_text() for label in second.get_xticklabels())
    assert written == CODE.replace(" ", "·").replace("\n", "↵")

    values = gates["input"]
    axes = analysis.plot_units(values, [5, 2], text=list(CODE))
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], values[:, [5, 2]].T)

    mask = np.arange(38) < 30
    own = figure.add_subplot()
    axes = analysis.plot_saturation({"input": values}, mask=mask, axes=own)
    assert axes is own
    expected = np.stack([(values[:30] > 0.9).mean(axis=0), (values[:30] < 0.1).mean(axis=0)], axis=-1)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), expected, atol=1e-6)

    norms = rng.uniform(1, 2, (3, 10))
    axes = analysis.plot_gradients({"one": norms, "two": norms[0]})
    for line, norm in zip(axes.lines, (norms.mean(axis=0), norms[0]), strict=False):
        np.testing.assert_allclose(line.get_ydata(), norm / norm[0])
    assert axes.get_yscale() == "log"

    vectors = rng.standard_normal((3, 12, 4)).astype(np.float32)
    points = analysis.FixedPoints(
        states=None,
        vectors=vectors[0, :4],
        speed=np.zeros(4),
        fixed=np.array([True, True, True, False]),
        jacobians=np.zeros((4, 4, 4)),
        eigenvalues=np.zeros((4, 4)),
        stable=np.array([True, False, True, True]),
        starts=np.ones(4, int),
    )
    components = analysis.principal_components(vectors)
    axes = analysis.plot_trajectories(components, vectors, points)
    projected = np.asarray(components.project(vectors))
    np.testing.assert_array_equal([line.get_xydata() for line in axes.lines], projected)
    drawn = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections[1:]}
    assert list(drawn) == ["stable (2)", "unstable (1)", "slow (1)"]
    np.testing.assert_allclose(drawn["stable (2)"], components.project(points.vectors[[0, 2]]), atol=1e-6)
    np.testing.assert_allclose(drawn["slow (1)"], components.project(points.vectors[3:]), atol=1e-6)
    solid = analysis.plot_trajectories(analysis.principal_components(vectors, 3), vectors)
    assert solid.name == "3d"
    for made in (figure, axes.figure, solid.figure):  # All of it can be drawn.
        made.canvas.draw()

    for call, message in (
        (
            lambda: analysis.plot_gates({"a": values[None]}),
            r"`gates\['a'\]` must be \[T, H\], one sequence .* got float64\[1, 38",
        ),
        (lambda: analysis.plot_gates(gates, text="short"), r"`text` must have 38 characters or tokens, .* got 5"),
        (lambda: analysis.plot_gates(gates, series=series[:3]), r"`series` must have 38 steps; got float64\[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
