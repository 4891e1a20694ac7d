"""Cells in continuous time against float64 loops after the papers, and against the authors' package `ncps`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax as rx
from quick import quick_first
from recurrax import CfCCell, LTCCell
from recurrax import nnx as rnn
from recurrax.cells._wiring import NCPWiring
from recurrax.cells.timed import TimedInputs, in_reverse
from recurrax.testing import assert_close, check_contract, normal_like, perturbed_params

WIRING = NCPWiring(4, 3, 2, sensory_fanout=2, inter_fanout=2, recurrent_command_synapses=3, motor_fanin=2)
CELLS = [CfCCell(4, 5, 2), CfCCell(4, backbone_layers=0), LTCCell(9, WIRING), LTCCell(4, ode_unfolds=3)]
RNG = np.random.default_rng(0)
X, DT = RNG.standard_normal((2, 5, 3)), RNG.uniform(0.1, 3, (2, 5))


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def cfc_loop(cell: CfCCell, params: Any, x: np.ndarray, dt: np.ndarray, h: np.ndarray) -> tuple[Any, np.ndarray]:
    ys = []
    for t in range(x.shape[1]):
        joined = np.concatenate([x[:, t], h], axis=1)
        a = joined @ np.concatenate([params.kernel, params.recurrent_kernel]) + params.bias
        for kernel, bias in params.maps:
            a = (1.7159 * np.tanh(0.666 * a)) @ kernel + bias
        f, g, time_a, time_b = np.split(a, 4, axis=1)
        at = _sigmoid(time_a * dt[:, t, None] + time_b)
        h = np.tanh(f) * (1 - at) + at * np.tanh(g)
        ys.append(h)
    return h, np.stack(ys, axis=1)


def ltc_loop(cell: LTCCell, params: Any, x: np.ndarray, dt: np.ndarray, v: np.ndarray) -> tuple[Any, np.ndarray]:
    """One neuron and one synapse at a time, the time of a step dividing the capacitance as in the paper."""
    soft, ys = lambda a: np.logaddexp(0, a), []
    size = cell.hidden_size
    wired = cell.wiring.polarities(x.shape[2]) if cell.wiring else (np.ones((x.shape[2], size)), np.ones((size, size)))
    for t in range(x.shape[1]):
        inputs = x[:, t] * params.input_scale + params.input_bias
        for _ in range(cell.ode_unfolds):
            after = np.empty_like(v)
            for j in range(size):
                cm_t = soft(params.cm[j]) / (dt[:, t] / cell.ode_unfolds)
                leak = soft(params.gleak[j])
                up, down = cm_t * v[:, j] + leak * params.vleak[j], cm_t + leak
                for synapses, sources, which in zip(params[:2], (inputs, v), wired, strict=True):
                    for s in np.flatnonzero(which[:, j]):
                        gate = _sigmoid(synapses.sigma[s, j] * (sources[:, s] - synapses.mu[s, j]))
                        up = up + soft(synapses.w[s, j]) * gate * synapses.erev[s, j]
                        down = down + soft(synapses.w[s, j]) * gate
                after[:, j] = up / down
            v = after
        ys.append(v[:, : len(params.output_scale)] * params.output_scale + params.output_bias)
    return v, np.stack(ys, axis=1)


@pytest.mark.parametrize("cell", quick_first(CELLS, 2), ids=str)
def test_equations(cell: Any) -> None:
    params = _double(perturbed_params(cell, 3))
    h = 0.5 * np.random.default_rng(2).standard_normal((2, cell.hidden_size))
    loop = cfc_loop if isinstance(cell, CfCCell) else ltc_loop
    expected = loop(cell, params, X, DT, h)
    weigh = [np.random.default_rng(3).standard_normal(leaf.shape) for leaf in expected]
    with jax.enable_x64(True):

        def total(*args: Any) -> tuple[Any, Any]:
            params, x, dt, h = args
            state, ys = rx.scan(cell, params, TimedInputs(x, dt), cell.initial_state()._replace(h=h))
            return (weigh[0] * state.h).sum() + (weigh[1] * ys).sum(), (state.h, ys)

        args = (params, X, DT, h)
        (_, got), gradients = jax.jit(jax.value_and_grad(total, tuple(range(4)), has_aux=True))(*args)
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-10)
        directions = _double(normal_like(args, 5))
    for at, name in enumerate(("params", "x", "dt", "h")):

        def moved(by: float, at: int = at) -> float:
            there = jax.tree.map(lambda a, way: a + by * way, args[at], directions[at])
            leaves = loop(cell, *args[:at], there, *args[at + 1 :])
            return float(sum((w * leaf).sum() for w, leaf in zip(weigh, leaves, strict=True)))

        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
        leaves = zip(jax.tree.leaves(gradients[at]), jax.tree.leaves(directions[at]), strict=True)
        np.testing.assert_allclose(sum(np.vdot(g, d) for g, d in leaves), slope, rtol=1e-6, atol=1e-6, err_msg=name)


def _cfc_of_ncps(cell: CfCCell, tree: Any) -> Any:
    """The authors' cell as a function of our parameters, which are tensors here."""
    import torch
    from ncps.torch import CfCCell as Theirs

    module = Theirs(3, cell.hidden_size, backbone_units=cell.backbone_size, backbone_layers=cell.backbone_layers)
    first = (torch.cat([tree.kernel, tree.recurrent_kernel]), tree.bias)
    *hidden, last = (first, *tree.maps)
    named = {}
    for depth, (kernel, bias) in enumerate(hidden):
        named |= {f"backbone.{2 * depth}.weight": kernel.T, f"backbone.{2 * depth}.bias": bias}
    for k, name in enumerate(("ff1", "ff2", "time_a", "time_b")):
        own = slice(k * cell.hidden_size, (k + 1) * cell.hidden_size)
        named |= {f"{name}.weight": last[0][:, own].T, f"{name}.bias": last[1][own]}
    return lambda x, h, dt: torch.func.functional_call(module.double(), named, (x, h, dt))


def _ltc_of_ncps(cell: LTCCell, tree: Any) -> Any:
    import torch
    from ncps.torch import LTCCell as Theirs
    from ncps.wirings import FullyConnected

    wiring = FullyConnected(cell.hidden_size, cell.output_size(3))
    module = Theirs(wiring, 3, ode_unfolds=cell.ode_unfolds, implicit_param_constraints=True)
    named = {f"sensory_{name}": leaf for name, leaf in tree.sensory._asdict().items()} | tree.recurrent._asdict()
    named |= {name: getattr(tree, name) for name in ("gleak", "vleak", "cm")}
    named |= {"input_w": tree.input_scale, "input_b": tree.input_bias}
    named |= {"output_w": tree.output_scale, "output_b": tree.output_bias}
    if cell.wiring:
        sensory, recurrent = (torch.tensor(abs(p), dtype=torch.float64) for p in cell.wiring.polarities(3))
        named |= {"sensory_sparsity_mask": sensory, "sparsity_mask": recurrent}
    assert named.keys() <= module._params.keys()
    module._params.update(named)
    return module


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_ncps(cell: Any) -> None:
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("ncps")
    params = _double(perturbed_params(cell, 3))
    h = 0.5 * np.random.default_rng(2).standard_normal((2, cell.hidden_size))
    tree, x, dt, state = jax.tree.map(lambda leaf: torch.tensor(leaf, requires_grad=True), (params, X, DT, h))
    theirs = (_cfc_of_ncps if isinstance(cell, CfCCell) else _ltc_of_ncps)(cell, tree)
    ys, v = [], state
    for t in range(X.shape[1]):
        y, v = theirs(x[:, t], v, dt[:, t, None])
        ys.append(y)
    expected = torch.stack(ys, dim=1)
    weigh = np.random.default_rng(3).standard_normal(expected.shape)
    (expected * torch.tensor(weigh)).sum().backward()
    wanted = jax.tree.map(lambda leaf: leaf.grad.numpy(), (tree, x, dt, state))
    with jax.enable_x64(True):

        def total(params: Any, x: Any, dt: Any, h: Any) -> tuple[Any, Any]:
            _, ys = rx.scan(cell, params, TimedInputs(x, dt), cell.initial_state()._replace(h=h))
            return (weigh * ys).sum(), ys

        run = jax.jit(jax.value_and_grad(total, tuple(range(4)), has_aux=True))
        (_, got), gradients = run(params, X, DT, h)
    np.testing.assert_allclose(got, expected.detach(), atol=1e-7)  # Their solver adds 1e-8 to each denominator.
    assert_close("gradients", gradients, wanted, 1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("cell", [CfCCell(4, 5), LTCCell(9, WIRING)], ids=str)
def test_timed_inputs_are_ragged_and_streamed(cell: Any) -> None:
    params, xs = perturbed_params(cell, 3), TimedInputs(jnp.asarray(X, jnp.float32), jnp.asarray(DT, jnp.float32))
    lengths = jnp.array([5, 3])
    unmasked = rx.lengths_to_mask(lengths, 5)
    holed = TimedInputs(jnp.where(unmasked[..., None], xs.x, jnp.nan), jnp.where(unmasked, xs.dt, jnp.nan))

    @jax.jit
    def run(params: Any, xs: Any) -> Any:
        state, ys = rx.scan(cell, params, xs, lengths=lengths)
        return jnp.sum(jnp.sin(ys)) + jnp.sum(state.h), (state, ys)

    (_, (state, ys)), gradients = jax.value_and_grad(run, (0, 1), has_aux=True)(params, holed)
    for row, length in enumerate((5, 3)):
        alone, y = rx.scan(cell, params, jax.tree.map(lambda leaf, row=row, n=length: leaf[row, :n], xs))
        assert_close("a trimmed row", (state.h[row], ys[row, :length]), (alone.h, y), 1e-5)
    assert not ys[1, 3:].any()
    assert not gradients[1].dt[1, 3:].any()
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), gradients))

    step, streamed = jax.jit(lambda state, x, unmasked: rx.step(cell, params, x, state, mask=unmasked)), None
    for t in range(5):
        streamed = cell.initial_state((2,)) if streamed is None else streamed
        streamed, y = step(streamed, jax.tree.map(lambda leaf, t=t: leaf[:, t], holed), unmasked[:, t])
        assert_close(f"step {t}", y, ys[:, t], 1e-5)
    assert_close("the state", streamed, state, 1e-5)

    both = rx.Bidirectional(cell)
    two = perturbed_params(both, 3)
    swapped = rx.scan(
        both, two, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), xs), lengths=lengths, time_major=True
    )
    assert_close("time-major", jnp.swapaxes(swapped[1], 0, 1), rx.scan(both, two, holed, lengths=lengths)[1], 1e-5)

    ones = TimedInputs(xs.x, jnp.ones((2, 5)))
    assert_close("dt = 1", rx.scan(cell, params, xs.x), rx.scan(cell, params, ones), 1e-6)
    assert_close("no dt", rx.scan(cell, params, xs.x), rx.scan(cell, params, TimedInputs(xs.x)), 0.0)


TIMED = TimedInputs(jnp.asarray(X, jnp.float32), jnp.asarray(DT, jnp.float32))
MASK = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 0]], bool)
RESET = np.array([[0, 0, 0, 1, 0], [0, 0, 1, 0, 1]], bool)


@pytest.mark.thorough
def test_the_time_goes_on_to_every_layer() -> None:
    cfc, others = CfCCell(4, 3), (rx.Activation(jnp.tanh), rx.LayerNorm(), rx.Zoneout(rx.GRUCell(4)))
    stack = rx.Stack(
        (
            rx.Dense(4),
            rx.CausalConv(4, 2),
            rx.Dropout(0.5, shared=True),
            rx.Residual(rx.Zoneout(cfc)),
            rx.Gated(rx.LearnedInitialState(cfc), rx.Window(4, 1)),
            rx.Bidirectional(cfc, rx.MinGRUCell(4), merge="sum"),
        ),
        dropout=0.3,
    )
    params = perturbed_params(stack, 3)
    options = {"mask": MASK, "reset": RESET, "reverse": True}

    @jax.jit
    def both(params: Any, xs: TimedInputs) -> Any:
        ys = xs
        for layer, own in zip(stack.layers, params, strict=True):
            ys = xs._replace(x=rx.scan(layer, own, ys if layer.reads_time else ys.x, **options)[1])
        return rx.scan(stack, params, xs, **options)[1], ys.x

    assert_close("layer by layer", *both(params, TIMED), 1e-5)
    drawn = rx.Stack((stack, *others, rx.WeightDrop(cfc, 0.5), LTCCell(4)), dropout=0.5)
    key = jax.random.key(0)
    ys = jax.eval_shape(lambda: rx.scan(drawn, drawn.init(key, 3), TIMED, key=key)[1])
    assert ys.shape == (2, 5, 4)


def test_in_reverse_each_step_takes_the_gap_to_the_next_of_its_segment() -> None:
    rng = np.random.default_rng(0)
    dt, mask, reset = rng.uniform(size=(11, 5)), rng.random((11, 5)) < 0.7, rng.random((11, 5)) < 0.3
    mask[:, 4], none = False, np.zeros_like(reset)
    for unmasked, restart in ((mask, reset), (mask, none), (np.ones_like(mask), reset), (np.ones_like(mask), none)):
        expected = np.zeros_like(dt)
        for row in range(5):
            segment = np.cumsum(restart[:, row])
            for own in np.unique(segment):
                steps = np.flatnonzero(unmasked[:, row] & (segment == own))
                expected[steps, row] = np.roll(dt[steps, row], -1)
        flags: list[Any] = [None, None]
        if not unmasked.all():
            flags[0] = jnp.asarray(unmasked)
        if restart.any():
            flags[1] = jnp.asarray(restart)
        nested = in_reverse({"a": TimedInputs(jnp.ones((11, 5, 2)), jnp.asarray(dt)), "b": 0}, *flags)
        np.testing.assert_array_equal(np.where(unmasked, nested["a"].dt, 0), np.float32(expected))
    for shape in ((0, 5), (5, 0)):
        empty = in_reverse(TimedInputs(None, jnp.ones(shape)), jnp.ones(shape, bool), jnp.ones(shape, bool))
        assert empty.dt.shape == shape


@pytest.mark.thorough
def test_a_reversed_run_is_a_run_over_the_reversed_sequence() -> None:
    cell = CfCCell(4, 3)
    params = perturbed_params(cell, 3)
    flipped = TimedInputs(TIMED.x[:, ::-1], jnp.roll(TIMED.dt[:, ::-1], 1, axis=1))
    state, ys = rx.scan(cell, params, TIMED, reverse=True)
    expected, zs = rx.scan(cell, params, flipped)
    assert_close("the sequence", (state, ys), (expected, zs[:, ::-1]), 1e-6)

    # The segments of a packed row, each by itself.
    _, packed = rx.scan(cell, params, TIMED, mask=MASK, reset=RESET, reverse=True)
    for row, steps in ((0, [0, 1]), (0, [3, 4]), (1, [2, 3])):  # those that are not masked
        part = jax.tree.map(lambda leaf, row=row, steps=steps: leaf[row, jnp.array(steps)], TIMED)
        _, alone = rx.scan(cell, params, part, reverse=True)
        assert_close(f"steps {steps} of row {row}", packed[row, jnp.array(steps)], alone, 1e-6)
    kept = rx.scan(cell, params, TIMED, mask=MASK, reset=RESET, reverse=True, remat=2)[1]
    assert_close("in parts that keep no step", kept, packed, 1e-6)


def test_no_time_leaves_a_liquid_network_as_it_is() -> None:
    cell = LTCCell(4)
    state = normal_like(jax.eval_shape(lambda: cell.initial_state((2,))), 2)
    after, _ = rx.step(cell, perturbed_params(cell, 3), TimedInputs(jnp.ones((2, 3)), jnp.zeros(2)), state)
    assert_close("the state", after, state, 1e-6)


def test_in_a_module() -> None:
    cell, xs = CfCCell(4, 5), TimedInputs(jnp.asarray(X, jnp.float32), jnp.asarray(DT, jnp.float32))
    model = rnn.Recurrent(cell, 3, rngs=nnx.Rngs(0))
    output, state = model(xs, lengths=jnp.array([5, 3]))
    params = jax.tree.map(lambda p: p[...], model.params, is_leaf=lambda p: isinstance(p, nnx.Variable))
    assert_close("the core", (state, output), rx.scan(cell, params, xs, lengths=jnp.array([5, 3])), 1e-6)
    gradients = nnx.grad(lambda model: model(xs)[0].sum())(model)
    assert all(bool(leaf.any()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.thorough
def test_wirings_leave_no_neuron_alone_and_follow_the_seed() -> None:
    wiring = NCPWiring(7, 5, 3, sensory_fanout=1, inter_fanout=1, recurrent_command_synapses=2, motor_fanin=1, seed=4)
    sensory, recurrent = wiring.polarities(4)
    motor, command, inter = slice(0, 3), slice(3, 8), slice(8, 15)
    assert abs(sensory[:, inter]).sum(axis=0).min() == 1
    assert not sensory[:, :8].any()
    assert abs(recurrent[inter, command]).sum(axis=1).max() <= 2
    for targets, sources in ((command, inter), (motor, command)):
        assert recurrent[sources, targets].any(axis=0).all()
        assert recurrent[sources, targets].any(axis=1).all()
    assert not recurrent[motor].any()
    assert not recurrent[inter, motor].any()
    assert 1 <= abs(recurrent[command, command]).sum() <= 2
    twin = NCPWiring(7, 5, 3, 1, 1, 2, 1, seed=4)
    assert twin == wiring
    np.testing.assert_array_equal(twin.polarities(4)[1], recurrent)
    assert not np.array_equal(NCPWiring(7, 5, 3, 1, 1, 2, 1, seed=5).polarities(4)[1], recurrent)

    # What is not wired has no gradient.
    cell = LTCCell(15, wiring)
    params = perturbed_params(cell, 4)
    gradient = jax.jit(jax.grad(lambda p: rx.scan(cell, p, jnp.ones((2, 9, 4)))[1].sum()))(params)
    for got, wired in zip((gradient.sensory, gradient.recurrent), wiring.polarities(4), strict=True):
        assert all(not leaf[wired == 0].any() and leaf[wired != 0].all() for leaf in map(np.asarray, got))


@pytest.mark.parametrize("cell", [CfCCell(4, 5, 2), LTCCell(9, WIRING, ode_unfolds=2)], ids=str)
def test_contract(cell: Any, promises: tuple[str, ...] | None) -> None:
    check_contract(cell, promises=promises)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CfCCell(4, backbone_layers=-1), "`backbone_layers` must be at least 0; got -1"),
        (lambda: CfCCell(4, backbone_size=0), "`backbone_size` of CfCCell must be at least 1; got 0"),
        (lambda: LTCCell(4, ode_unfolds=0), "`ode_unfolds` must be at least 1; got 0"),
        (lambda: LTCCell(4, WIRING), "`hidden_size` must be the number of neurons of `wiring`, 9; got 4"),
        (lambda: NCPWiring(4, 3, 2, 5, 2, 3, 2), "`sensory_fanout` must be at least 1 and at most `inter_neurons` 4"),
        (
            lambda: rx.step(CfCCell(4), CfCCell(4).init(jax.random.key(0), 3), TimedInputs(X[:, 0], DT)),
            r"`dt` must be \[2\], one number per step of `x` float32\[2, 3\]; got float32\[2, 5\]\.",
        ),
        (
            lambda: rx.scan(rx.GRUCell(4), rx.GRUCell(4).init(jax.random.key(0), 3), TIMED),
            r"`xs` must be an array of features, since no part of GRUCell\(hidden_size=4\) reads the time",
        ),
    ],
)
def test_errors_teach(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
