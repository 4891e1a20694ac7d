"""`recurrax.trace`: its states are those of a loop of steps, and its gates obey the equations of the cells."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrax as rx
from quick import quick_first
from recurrax.testing import assert_close, normal_like, perturbed_params

XS = normal_like(jax.ShapeDtypeStruct((3, 6, 3), jnp.float32), seed=1)
LENGTHS = jnp.array([6, 3, 0])
# A flag at an unmasked step, two at masked steps, and one at the first step.
RESET = jnp.zeros((3, 6), bool).at[0, 2].set(True).at[1, 4].set(True).at[2, 3].set(True).at[1, 0].set(True)


def looped(cell: rx.Layer, params: Any, xs: jax.Array, mask: jax.Array, reset: jax.Array, reverse: bool) -> Any:
    """The state after every step, `[B, T, ...]`, from a loop of `step`; a random state enters."""
    state = normal_like(jax.eval_shape(lambda: cell.initial_state(xs.shape[:1])), seed=5)
    restart, order = reset, range(xs.shape[1])
    if reverse:
        # The state returns between the flagged step and the step to its left.
        restart = jnp.concatenate([reset[:, 1:], jnp.zeros_like(reset[:, :1])], axis=1)
        order = reversed(order)
    step = jax.jit(lambda state, *at: rx.step(cell, params, at[0], state, mask=at[1], reset=at[2])[0])
    states: list[Any] = [None] * xs.shape[1]
    for t in order:
        state = step(state, xs[:, t], mask[:, t], restart[:, t])
        states[t] = state
    return jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *states)


@pytest.mark.parametrize(
    ("cell", "implementation"),
    quick_first(
        [
            (rx.LSTMCell(4, recurrent_bias=True), "hoisted"),
            (rx.MinGRUCell(4), None),
            (rx.GRUCell(4), "xla"),
            (rx.GRUCell(4, reset_after=False), None),
            (rx.SLSTMCell(4, num_heads=2), None),
            (rx.MLSTMCell(4, num_heads=2), "xla"),
            (rx.S5Cell(4), "associative"),
            (rx.Zoneout(rx.LSTMCell(4)), None),
            (rx.GRUCell(4), rx.experimental.Newton()),
        ],
        2,
    ),
    ids=str,
)
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_states_are_those_of_a_loop_of_steps(cell: rx.Layer, implementation: Any, reverse: bool) -> None:
    params = perturbed_params(cell, 3)
    mask = rx.lengths_to_mask(LENGTHS, 6)
    entering = normal_like(jax.eval_shape(lambda: cell.initial_state((3,))), seed=5)
    options = {"lengths": LENGTHS, "reset": RESET, "reverse": reverse, "implementation": implementation}
    trace = rx.trace(cell, params, XS, entering, **options)
    expected = looped(cell, params, XS, mask, RESET, reverse)
    assert_close("states", trace.states, expected, 2e-6)
    assert_close("states of the cell", trace[""].states, expected, 2e-6)
    assert_close("state and outputs", (trace.state, trace.ys), rx.scan(cell, params, XS, entering, **options), 1e-6)
    for gate in jax.tree.leaves((trace.gates, trace.preactivations)):
        assert gate.shape[:2] == (3, 6)
        assert not jnp.any(gate[~mask])
        assert jnp.all(gate[mask])


def test_paths_are_the_paths_of_the_states() -> None:
    both = rx.Bidirectional(rx.MinGRUCell(4), rx.GRUCell(4), merge="sum")
    layer = rx.Stack((rx.Window(3, 2), both, rx.Residual(rx.MinGRUCell(4))))
    params = perturbed_params(layer, 3)
    mask = rx.lengths_to_mask(LENGTHS, 6)
    trace = rx.trace(layer, params, XS, mask=mask, reset=RESET)
    assert set(trace.cells) == {"1.forward", "1.backward", "2"}
    # The layer below gives the inputs of the cell.
    _, windows = rx.scan(layer.layers[0], params[0], XS, mask=mask, reset=RESET)
    backward = rx.trace(rx.GRUCell(4), params[1].backward, windows, mask=mask, reset=RESET, reverse=True)
    assert_close("backward", trace["1.backward"], backward[""], 1e-6)
    assert_close("tree of states", trace.states[1].backward, backward.states, 1e-6)
    assert trace.states[0].xs is None
    with pytest.raises(KeyError, match=r"must be one of .*'1.forward'.*got '0'"):
        trace["0"]
    with pytest.raises(ValueError, match="must have one cell; it has 3"):
        _ = trace.gates


@pytest.mark.thorough
def test_compositions_and_wrappers_run_as_in_scan() -> None:
    both = rx.Bidirectional(rx.LSTMCell(4), rx.Reverse(rx.GRUCell(4)), merge="sum")
    layers = (both, rx.Residual(rx.Zoneout(rx.LSTMCell(4))), rx.Gated(rx.Dense(4), rx.MinGRUCell(4)))
    layer = rx.Stack(layers, dropout=0.3)
    params = perturbed_params(layer, 3)
    xs, mask, reset = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), (XS, rx.lengths_to_mask(LENGTHS, 6), RESET))
    options = {"mask": mask, "reset": reset, "time_major": True, "key": jax.random.key(7), "remat": 4}
    trace = rx.trace(layer, params, xs, **options)
    assert set(trace.cells) == {"0.forward", "0.backward", "1", "2.gate"}
    assert_close("state and outputs", (trace.state, trace.ys), rx.scan(layer, params, xs, **options), 1e-6)
    # Two reversals are none. The first layer has no dropout below it.
    backward = rx.trace(rx.GRUCell(4), params[0].backward, xs, mask=mask, reset=reset, time_major=True)
    assert_close("backward", trace["0.backward"], backward[""], 1e-6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(gates: dict, before: Any, x: np.ndarray) -> dict:
    c = gates["forget"] * before.c + gates["input"] * gates["cell"]
    return {"c": c, "h": gates["output"] * np.tanh(c)}


def coupled(gates: dict, before: Any, x: np.ndarray) -> dict:
    return lstm(gates | {"input": 1 - gates["forget"]}, before, x)


def mixed(name: str, keeps: bool) -> Callable:
    """h' is a mean of h and the candidate; an open gate keeps h, or takes the candidate."""

    def equations(gates: dict, before: Any, x: np.ndarray) -> dict:
        gate = gates[name] if keeps else 1 - gates[name]
        return {"h": gate * before.h + (1 - gate) * gates["new"]}

    return equations


def min_lstm(gates: dict, before: Any, x: np.ndarray) -> dict:
    i, f = gates["input"], gates["forget"]
    return {"h": (f * before.h + i * gates["cell"]) / (f + i)}


def slstm(gates: dict, before: Any, x: np.ndarray) -> dict:
    c = gates["forget"] * before.c + gates["input"] * gates["cell"]
    n = gates["forget"] * before.n + gates["input"]
    return {"c": c, "n": n, "h": gates["output"] * c / n}


def ifo(gates: dict, before: Any, x: np.ndarray) -> dict:
    return {"h": gates["forget"] * before.h + gates["input"] * gates["cell"]}


# The sigmoids and tangents of each cell; other gates have other activations.
TANH = {"cell", "new"}
EQUATIONS = [
    (rx.LSTMCell(4), lstm, set()),
    (rx.GRUCell(4), mixed("update", True), set()),
    (rx.GRUCell(4, reset_after=False), mixed("update", True), set()),
    (rx.MGUCell(4), mixed("forget", True), set()),
    (rx.MGUCell(4, reset_after=False), mixed("forget", False), set()),
    (rx.UGRNNCell(4), mixed("update", True), set()),
    (rx.PeepholeLSTMCell(4), lstm, set()),
    (rx.CIFGCell(4, peepholes=True), coupled, set()),
    (rx.MultiplicativeLSTMCell(4), lstm, set()),
    (rx.DiagonalLSTMCell(4), lstm, set()),
    (rx.LayerNormGRUCell(4), mixed("update", True), set()),
    (rx.SLSTMCell(4, num_heads=2), slstm, {"input", "forget"}),
    (rx.MinGRUCell(4), mixed("update", False), {"new"}),
    (rx.MinLSTMCell(4), min_lstm, {"cell"}),
    (rx.QRNNCell(4, pooling="ifo"), ifo, set()),
    (rx.ConvLSTMCell(4, 2, kernel_size=1), lstm, set()),
]


def name_of(argument: object) -> str:
    """The name of a case. The text of a function holds its address, which differs from process to process."""
    return str(argument) if isinstance(argument, rx.Cell) else "x"


@pytest.mark.parametrize(("cell", "equations", "others"), quick_first(EQUATIONS, 2), ids=name_of)
def test_the_next_state_follows_from_the_gates(cell: rx.Cell, equations: Callable, others: set) -> None:
    params = perturbed_params(cell, 3)
    space = (2,) * (cell.feature_ndim - 1)
    xs = normal_like(jax.ShapeDtypeStruct((2, 3, *space, 3), jnp.float32), seed=1)
    trace = jax.tree.map(np.asarray, rx.trace(cell, params, xs))
    for name, value in trace.gates.items():
        if name not in others:
            activation = np.tanh if name in TANH else sigmoid
            assert_close(name, value, activation(trace.preactivations[name]), 1e-6)
    for t in range(1, 3):
        before = jax.tree.map(lambda s, t=t: s[:, t - 1], trace.states)
        after = equations({name: value[:, t] for name, value in trace.gates.items()}, before, xs[:, t])
        for part, value in after.items():
            assert_close(part, getattr(trace.states, part)[:, t], value, 1e-5)


def test_pre_activations_are_those_of_the_equations() -> None:
    """In NumPy, from the parameters: the LSTM, the GRU with its reset gate, and the gates of four other cells."""
    wide = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)  # noqa: E731
    xs = wide(XS)

    def traced(cell: rx.Cell, size: int = 3) -> tuple[Any, np.ndarray, Any, np.ndarray]:
        params = perturbed_params(cell, size)
        trace = wide(rx.trace(cell, params, XS))
        h = trace.states.h
        return trace, np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1), wide(params), h

    trace, h, params, _ = traced(rx.LSTMCell(4, recurrent_bias=True))
    a = xs @ params.kernel + params.bias + h @ params.recurrent_kernel + params.recurrent_bias
    for name, part in zip(("input", "forget", "cell", "output"), np.split(a, 4, axis=-1), strict=True):
        assert_close(name, trace.preactivations[name], part, 1e-5)

    trace, h, params, _ = traced(rx.GRUCell(4))
    z = np.split(xs @ params.kernel + params.bias, 3, axis=-1)
    u = np.split(h @ params.recurrent_kernel + params.recurrent_bias, 3, axis=-1)
    assert_close("reset", trace.gates["reset"], sigmoid(z[0] + u[0]), 1e-5)
    assert_close("new", trace.preactivations["new"], z[2] + sigmoid(z[0] + u[0]) * u[2], 1e-5)


@pytest.mark.thorough
def test_the_gates_of_cells_in_other_forms() -> None:
    wide = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)  # noqa: E731
    sru, unit, cfc, heads = rx.SRUCell(3), rx.RGLRUCell(3), rx.CfCCell(3, backbone_size=4), rx.MLSTMCell(4, num_heads=2)
    params, arrays = {}, {}
    for cell in (sru, unit, cfc, heads):
        params[cell] = perturbed_params(cell, 3)
        arrays[cell] = wide(params[cell])
    xs = wide(XS)

    trace = rx.trace(sru, params[sru], XS)
    z = xs @ arrays[sru].kernel[:, :6] + arrays[sru].bias
    assert_close("SRU", (trace.gates["forget"], trace.gates["reset"]), tuple(np.split(sigmoid(z), 2, axis=-1)), 1e-5)

    trace = rx.trace(unit, params[unit], XS)
    z = xs @ arrays[unit].kernel[0] + arrays[unit].bias[0]
    gates = (trace.gates["recurrence"], trace.gates["input"])
    assert_close("RG-LRU", gates, tuple(np.split(sigmoid(z), 2, axis=-1)), 1e-5)

    # Of two steps, the second at another time.
    dt = jnp.array([1.0, 0.25])
    timed = rx.cells.TimedInputs(XS[0, :2], dt)
    trace = rx.trace(cfc, params[cfc], timed)
    h = np.stack([np.zeros(3), wide(trace.states.h[0])])
    first = xs[0, :2] @ arrays[cfc].kernel + h @ arrays[cfc].recurrent_kernel + arrays[cfc].bias
    a = 1.7159 * np.tanh(0.666 * first) @ arrays[cfc].maps[0].kernel + arrays[cfc].maps[0].bias
    assert_close("CfC", trace.preactivations["time"], a[:, 6:9] * wide(dt)[:, None] + a[:, 9:], 1e-5)

    trace = wide(rx.trace(heads, params[heads], XS))
    z = xs @ arrays[heads].kernel + arrays[heads].bias
    assert_close("output", trace.gates["output"], sigmoid(z[..., 12:16]), 1e-5)
    assert_close("log i", trace.preactivations["input"], z[..., 16:18], 1e-5)
    # n' = f * n + i * k, head by head.
    k = z[..., 4:8].reshape(3, 6, 2, 2) / np.sqrt(2)
    f, i = trace.gates["forget"][:, 1:, :, None], trace.gates["input"][:, 1:, :, None]
    n = trace.states.n
    assert_close("n", n[:, 1:], f * n[:, :-1] + i * k[:, 1:], 1e-5)


@pytest.mark.thorough
def test_the_gates_of_cells_for_science() -> None:
    mogrifier = rx.MogrifierLSTMCell(4)
    params = perturbed_params(mogrifier, XS.shape[-1])
    trace = rx.trace(mogrifier, params, XS)
    assert_close("the output of a Mogrifier", trace.ys, trace.gates["output"] * jnp.tanh(trace.states.c), 1e-6)

    entity = rx.EALSTMCell(4, static_size=2)
    static = normal_like(jax.ShapeDtypeStruct((XS.shape[0], 2), jnp.float32), 5)
    params = rx.layers.with_memory(perturbed_params(entity, XS.shape[-1]), static)
    trace = rx.trace(entity, params, XS)
    assert set(trace.gates) == {"forget", "cell", "output"}
    assert_close("the output of an EA-LSTM", trace.ys, trace.gates["output"] * jnp.tanh(trace.states.c), 1e-6)

    # The output gate divides the mass of a unit: one part leaves, the other stays.
    conserving = rx.MCLSTMCell(4, mass_size=1)
    params = perturbed_params(conserving, XS.shape[-1])
    trace = rx.trace(conserving, params, jnp.abs(XS))
    total = trace.ys + trace.states.c
    assert_close("the mass that leaves", trace.ys, trace.gates["output"] * total, 1e-5)


def test_the_gradient_of_a_penalty_is_that_of_a_loop_by_hand() -> None:
    cell = rx.LSTMCell(4)
    params = perturbed_params(cell, 3)
    mask = rx.lengths_to_mask(LENGTHS, 6)
    holed = jnp.where(mask[..., None], XS, jnp.nan)

    def penalty(params: Any, xs: jax.Array) -> jax.Array:
        trace = rx.trace(cell, params, xs, lengths=LENGTHS)
        # Open gates, and fast changes of the state.
        fast = jnp.sum((trace.states.c[:, 1:] - trace.states.c[:, :-1]) ** 2)
        return (
            jnp.sum(trace.gates["forget"] ** 2) + jnp.sum(trace.gates["cell"] * trace.preactivations["output"]) + fast
        )

    def by_hand(params: Any, xs: jax.Array) -> jax.Array:
        h = c = jnp.zeros((3, 4))
        loss = jnp.zeros(())
        for t in range(6):
            a = xs[:, t] @ params.kernel + params.bias[None] + h @ params.recurrent_kernel
            i, f, g, o = jnp.split(a, 4, axis=-1)
            new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
            unmasked = mask[:, t, None]
            loss += jnp.sum(jnp.where(unmasked, jax.nn.sigmoid(f) ** 2 + jnp.tanh(g) * o, 0))
            if t:
                loss += jnp.sum(jnp.where(unmasked, new_c - c, 0) ** 2)
            h, c = jnp.where(unmasked, new_h, h), jnp.where(unmasked, new_c, c)
        return loss

    expected = jax.jit(jax.value_and_grad(by_hand, (0, 1)))(params, XS)
    got = jax.jit(jax.value_and_grad(penalty, (0, 1)))(params, holed)
    assert_close("penalty and gradients", got, expected, 2e-5)


@pytest.mark.thorough
def test_second_order_and_vmap() -> None:
    cell = rx.GRUCell(3)
    params = perturbed_params(cell, 3)
    direction = normal_like(params, seed=4)

    def penalty(params: Any, implementation: str) -> jax.Array:
        trace = rx.trace(cell, params, XS, reset=RESET, implementation=implementation)
        return jnp.mean(trace.gates["update"] * trace.states.h)

    def curvature(implementation: str) -> Any:
        slope = lambda params: jax.grad(penalty)(params, implementation)  # noqa: E731
        return jax.jvp(slope, (params,), (direction,))[1]

    assert_close("second order", curvature("hoisted"), curvature("xla"), 1e-6)
    rows = jax.vmap(lambda row: rx.trace(cell, params, row))(XS)
    assert_close("vmap", rows, rx.trace(cell, params, XS), 1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "layer",
    [
        rx.UpdateDropout(rx.PeepholeLSTMCell(4), 0.5),
        rx.RecurrentDropout(rx.LSTMCell(4), 0.5),
        rx.WeightDrop(rx.UpdateDropout(rx.MultiplicativeLSTMCell(4), 0.5), 0.3),
        rx.GradientClip(rx.RecurrentDropout(rx.PeepholeLSTMCell(4), 0.5)),
        rx.LearnedInitialState(rx.LSTMCell(4)),
    ],
    ids=str,
)
def test_wrappers_show_the_run_with_their_randomness(layer: rx.Layer) -> None:
    """The next state follows from the gates, whatever the wrappers drop."""
    params = perturbed_params(layer, 3)
    key = jax.random.key(3)
    trace = rx.trace(layer, params, XS, key=key)
    assert_close("outputs", trace.ys, rx.scan(layer, params, XS, key=key)[1], 1e-6)
    c, gates = trace.states.c, jax.tree.map(lambda gate: gate[:, 1:], trace.gates)
    taken = c[:, 1:] - gates["forget"] * c[:, :-1]
    candidate = gates["input"] * gates["cell"]
    if "UpdateDropout" in str(layer):
        # One mask for all steps: each unit is dropped or doubled.
        dropped = jnp.all(jnp.abs(taken) < 1e-6, axis=1, keepdims=True)
        assert 0 < dropped.sum() < dropped.size
        candidate = jnp.where(dropped, 0.0, 2 * candidate)
    assert_close("c", taken, candidate, 1e-5)
    assert_close("h", trace.states.h[:, 1:], gates["output"] * jnp.tanh(c[:, 1:]), 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [rx.BahdanauAttention, rx.LuongAttention])
def test_attention_shows_the_gates_of_its_cell(kind: Any) -> None:
    layer = kind(rx.Zoneout(rx.GRUCell(4), 0.2), memory_size=2)
    memory = normal_like(jax.ShapeDtypeStruct((3, 5, 2), jnp.float32), seed=2)
    params = rx.layers.with_memory(perturbed_params(layer, 3), memory)
    trace = rx.trace(layer, params, XS, lengths=LENGTHS)
    h, gates = trace.states.layer.h, trace.gates
    new = gates["update"] * jnp.concatenate([jnp.zeros((3, 1, 4)), h[:, :-1]], axis=1)
    new += (1 - gates["update"]) * gates["new"]
    mixed = 0.2 * h[0, :-1] + 0.8 * new[0, 1:]
    assert_close("h", h[0, 1:], mixed, 1e-5)


@dataclasses.dataclass(frozen=True, repr=False)
class LeakyCell(rx.Cell):
    """A cell of the user. It has states by the loop, and no gates."""

    def init(self, key, input_size, dtype=jnp.float32):
        return jax.nn.initializers.glorot_uniform()(key, (input_size, 2 * self.hidden_size), dtype)

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return rx.cells.GRUState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def step(self, params, state, z):
        leak, x = jnp.split(z @ params, 2, axis=-1)
        h = jax.nn.sigmoid(leak) * state.h + jnp.tanh(x)
        return rx.cells.GRUState(h), h


@dataclasses.dataclass(frozen=True, repr=False)
class TellingCell(LeakyCell):
    """The same cell, with its gate."""

    def gate_values(self, params, state, xs):
        leak, _ = jnp.split(xs @ params, 2, axis=-1)
        return {"leak": rx.cells.Gate(jax.nn.sigmoid(leak), leak)}


@dataclasses.dataclass(frozen=True, repr=False)
class OtherLSTMCell(rx.LSTMCell):
    """A user's LSTM with other equations: the gates of the LSTM are not its gates."""

    def pointwise(self, params, a, state, update=lambda candidate: candidate):
        state, h = super().pointwise(params, a[::-1], state, update)
        return state, h


def test_a_cell_of_the_user() -> None:
    params = perturbed_params(LeakyCell(4), 3)
    trace = rx.trace(LeakyCell(4), params, XS)
    assert trace.gates == trace.preactivations == {}
    assert_close("states", trace.states.h, trace.ys, 0)

    told = rx.trace(TellingCell(4), params, XS)
    assert_close("states", told.states, trace.states, 0)
    leak, x = jnp.split(XS @ params, 2, axis=-1)
    assert_close("pre-activation", told.preactivations["leak"], leak, 1e-6)
    change = told.states.h[:, 1:] - told.gates["leak"][:, 1:] * told.states.h[:, :-1]
    assert_close("gate", change, jnp.tanh(x[:, 1:]), 1e-5)

    assert OtherLSTMCell(4).tells_gates is False
    assert OtherLSTMCell(4).is_affine


def test_an_implementation_that_keeps_no_states_is_refused() -> None:
    cell = rx.MLSTMCell(4)
    params = cell.init(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="does not return the state after every step"):
        rx.trace(cell, params, XS, implementation="chunked")


def test_both_frontends() -> None:
    pytest.importorskip("flax")
    layer = rx.MinGRUCell(4)
    params = perturbed_params(layer, 3)
    expected = rx.trace(layer, params, XS, lengths=LENGTHS, reset=RESET)
    model = rx.nnx.Recurrent(layer, 3, params=params)
    assert_close("nnx", model.trace(XS, lengths=LENGTHS, reset=RESET), expected, 0)
    variables, linen = rx.linen.variables(params), rx.linen.Recurrent(layer)
    got = linen.apply(variables, XS, lengths=LENGTHS, reset=RESET, method="trace")
    assert_close("linen", got, expected, 0)


@pytest.mark.thorough
def test_the_layers_of_pytorch() -> None:
    """The state is one array, and the trace has the structure of the core."""
    nnx = pytest.importorskip("flax.nnx")
    model = rx.nnx.LSTM(3, 4, bidirectional=True, batch_first=True, rngs=nnx.Rngs(0))
    state = normal_like((jnp.zeros((2, 3, 4)),) * 2, seed=6)
    trace = model.trace(XS, state, lengths=LENGTHS)
    output, (h, _) = model(XS, state, lengths=LENGTHS)
    assert_close("outputs", trace.ys, output, 1e-6)
    assert_close("state", trace.state[0].backward.h, h[1], 1e-6)
    assert trace["0.backward"].gates["forget"].shape == (3, 6, 4)
    module = rx.linen.LSTM(hidden_size=4, bidirectional=True, batch_first=True)
    variables = rx.linen.variables(rx.nnx.params_of(model))
    got = module.apply(variables, XS, state, lengths=LENGTHS, method="trace")
    assert_close("linen", got, trace, 0)
