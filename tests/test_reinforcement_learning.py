"""Replays of rollouts: five misalignments that were published are found. `ScannedRNN` equals `scan`."""

import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import recurrax as rx
from recurrax import linen
from recurrax import nnx as rnn
from recurrax.testing import Rollout, assert_close, check_replay, normal_like, perturbed_params

T, B, F, H, A = 12, 4, 3, 5, 3
# The first steps of the episodes in each row. The last row is in one episode throughout.
STARTS = np.zeros((T, B), bool)
for row, starts in enumerate([(0, 4, 9), (3, 7), (5,), ()]):
    STARTS[list(starts), row] = True


class Played(NamedTuple):
    """What an agent met in T steps of environments that begin the next episode by themselves."""

    observations: jax.Array  # [T, B, F]
    resets: np.ndarray  # bool[T, B], the flag that came with each observation
    dones: np.ndarray  # bool[T, B], the flag that each step returned, together with the next observation
    states: Any  # the state that went into each step, before its reset
    outputs: Any  # the output of each step
    last: Any  # the state after the last step


def play(step, state: Any, observations: Any) -> Played:
    states, outputs = [], []
    for t in range(T):
        states.append(state)
        state, output = step(state, jax.tree.map(lambda leaf: leaf[t], observations), STARTS[t])  # noqa: B023
        outputs.append(output)
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    dones = np.concatenate([STARTS[1:], [[True, False, False, False]]])
    states, outputs = jax.tree.map(stack, *states), jax.tree.map(stack, *outputs)
    return Played(observations, STARTS, dones, states, outputs, state)


def step_of(cell: rx.Layer, params: Any):
    return jax.jit(lambda state, x, reset: rx.step(cell, params, x, state, reset=reset))


GRU = rx.GRUCell(H)
PARAMS = perturbed_params(GRU, F)
XS = normal_like(jax.ShapeDtypeStruct((T, B, F), jnp.float32), 1)
STATE = normal_like(jax.eval_shape(lambda: GRU.initial_state((B,))), 2)
STEP = step_of(GRU, PARAMS)


@pytest.fixture(scope="module")
def played() -> Played:
    return play(STEP, STATE, XS)


def cause_of(*args: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        check_replay(*args, **options)
    return str(caught.value)


# The published misalignments, each from its description --------------------------------------------------------------


def test_jaxmarl_119_the_new_done_beside_the_last_observation(played: Played) -> None:
    """The network of a Q-learner acts on the last `done`; its buffer gets the last observation and the new `done`."""
    right = Rollout(played.observations, played.resets, STATE, {"q": played.outputs})
    q_network = lambda state, x, reset: (lambda s, y: (s, {"q": y}))(*STEP(state, x, reset))  # noqa: E731
    assert check_replay(q_network, right) < 1e-6
    text = cause_of(q_network, right._replace(resets=played.dones))
    # The flag of the first observation of row 0 came from the step before the rollout, so it is not in the buffer.
    assert "first at step 0 of row 0" in text
    assert "`resets` are stored one step early" in text


def test_mava_1006_chunks_that_begin_with_stored_states(played: Played) -> None:
    """Chunks of a rollout, from the states stored at their first steps, with the transition's `done` as the reset."""
    steps = {"x": played.observations, "y": played.outputs, "reset": played.resets, "done": played.dones}
    chunks, state = rx.rl.cut_sequences(steps, played.states, 4)
    right = Rollout(chunks["x"], np.asarray(chunks["reset"]), state, chunks["y"])
    assert check_replay(STEP, right) < 1e-6
    assert "stored one step early" in cause_of(STEP, right._replace(resets=np.asarray(chunks["done"])))
    # The issue first proposed another flag, which environments that reset by themselves never set.
    assert "a reset is missing" in cause_of(STEP, right._replace(resets=np.zeros((4, 3 * B), bool)))


@pytest.mark.parametrize("cell", [GRU, pytest.param(rx.S5Cell(H, 4), marks=pytest.mark.thorough)], ids=str)
def test_jax_aht_115_the_ratio_of_ppo_is_one(cell: rx.Layer) -> None:
    """Transitions get the flag from before the step for the network, and the flag from after it for the advantages."""
    params = perturbed_params(cell, F)
    # Below -2, neighboring float32 numbers are 2.4e-7 apart. So the policy is uncertain, as before it has learned.
    head = 0.3 * normal_like(jax.ShapeDtypeStruct((H, A), jnp.float32), 3)
    actions = np.random.default_rng(0).integers(0, A, (T, B))

    def log_prob(ys, actions):
        return jnp.take_along_axis(jax.nn.log_softmax(ys @ head), actions[..., None], -1)[..., 0]

    @jax.jit
    def step(state, observation, reset):
        x, action = observation
        state, y = rx.step(cell, params, x, state, reset=reset)
        return state, log_prob(y, action)

    @jax.jit
    def train(state, observations, resets):
        xs, actions = observations
        state, ys = rx.scan(cell, params, xs, state, reset=resets, time_major=True)
        return state, log_prob(ys, actions)

    first = cell.initial_state((B,))
    played = play(step, first, (XS, actions))
    right = Rollout(played.observations, played.resets, first, played.outputs)
    assert check_replay(step, right, sequence_function=train, tol=1e-6) < 1e-6
    new = train(first, right.observations, right.resets)[1]
    ratio = np.exp(np.asarray(new, np.float64) - np.asarray(right.outputs, np.float64))
    assert np.abs(ratio - 1).max() <= 3e-7
    wrong = right._replace(resets=played.dones)
    assert "`resets` are stored one step early" in cause_of(step, wrong, sequence_function=train)
    # The flags of the rollout follow from those of its steps.
    np.testing.assert_array_equal(rx.rl.dones_to_resets(played.dones, STARTS[0]), right.resets)


def test_pufferlib_622_training_resets_one_step_late() -> None:
    """MinGRU: the rollout resets on `terminal[t]`, which belongs to `observation[t]`; training on `terminal[t - 1]`."""
    cell = rx.MinGRUCell(H)
    params = perturbed_params(cell, F)
    step, state = step_of(cell, params), cell.initial_state((B,))

    @jax.jit
    def parallel(state, xs, resets):
        return rx.scan(cell, params, xs, state, reset=resets, time_major=True)

    def late(state, xs, resets):
        return parallel(state, xs, np.concatenate([np.zeros((1, B), bool), resets[:-1]]))

    played = play(step, state, XS)
    rollout = Rollout(XS, played.resets, state, played.outputs)
    assert check_replay(step, rollout, sequence_function=parallel) < 1e-6
    text = cause_of(step, rollout, sequence_function=late)
    assert "`sequence_function` differs" in text
    assert "it resets one step late" in text


def test_rllib_15737_the_burn_in_holds_steps_of_the_episode_before(played: Played) -> None:
    """R2D2: each sequence has a window before it to update its state; the window ignored where the episode began."""
    steps = (played.observations, played.outputs, played.resets)
    (xs, ys, resets), state = rx.rl.cut_sequences(steps, played.states, 4, burn_in=4, stride=2)
    right = Rollout(xs, np.asarray(resets), state, ys, burn_in=4)
    assert check_replay(STEP, right) < 1e-6
    # RLlib cuts sequences at episodes, so no flag is stored in them. The window before was cut without regard to them.
    rows = ~right.resets[5:].any(axis=0)
    assert right.resets[1:5, rows].any(axis=0).sum() > 2
    xs, resets, ys = (leaf[:, rows] for leaf in (xs, np.zeros_like(right.resets), ys))
    state = jax.tree.map(lambda leaf: leaf[rows], state)
    text = cause_of(STEP, Rollout(xs, resets, state, ys, burn_in=4))
    assert "the burn-in reaches across the start of an episode" in text
    assert "True at step" in text


# The other causes ----------------------------------------------------------------------------------------------------


def without_reset(state, x, reset):
    return STEP(state, x, np.zeros_like(reset))


def replayed(flags: np.ndarray) -> jax.Array:
    return rx.scan(GRU, PARAMS, XS, STATE, reset=flags, time_major=True)[1]


def plus(flags: np.ndarray, t: int, row: Any, value: bool) -> np.ndarray:
    flags = flags.copy()
    flags[t, row] = value
    return flags


def test_each_cause_is_named(played: Played) -> None:
    right = Rollout(XS, STARTS, STATE, played.outputs)
    late = np.concatenate([plus(STARTS, 0, 0, False)[:1], STARTS[:-1]])
    initial = GRU.initial_state((B,))
    from_initial = play(STEP, initial, XS).outputs
    second = STEP(STATE, XS[0], STARTS[0])[0]
    mixed = jax.tree.map(lambda leaf: leaf[np.array([2, 3, 0, 1])], STATE)
    cases = {
        "stored one step late": right._replace(resets=late),
        "the rollout did not reset": right._replace(outputs=play(without_reset, STATE, XS).outputs),
        "inverted": right._replace(resets=~STARTS),
        "began with the initial state": right._replace(outputs=from_initial),
        "the state of the next step": right._replace(state=second),
        "a reset is missing": right._replace(resets=plus(STARTS, 5, 2, False)),
        "True at step 5 of row 2": right._replace(resets=plus(STARTS, 5, 2, False)),
        "a reset too many": right._replace(resets=plus(STARTS, 6, 3, True)),
        "False at step 6 of row 3": right._replace(resets=plus(STARTS, 6, 3, True)),
        "at other steps": right._replace(resets=plus(plus(STARTS, 6, 3, True), 5, 2, False)),
        "in another order": right._replace(state=mixed),
        "the initial state is stored": right._replace(state=initial),
        "the state after the last step": right._replace(state=played.last),
        "is not the state before the first step": right._replace(state=jax.tree.map(lambda leaf: leaf / 2, STATE)),
        "Steps with a reset differ too": right._replace(observations=XS + 1),
    }
    for words, rollout in cases.items():
        assert words in cause_of(STEP, rollout), words
    # Where each row is reset at step 1, nothing tells that the state is of the next step.
    at_one = plus(np.zeros_like(STARTS), 1, slice(None), True)
    assert "the initial state is stored" in cause_of(STEP, Rollout(XS, at_one, initial, replayed(at_one)))


def test_each_fault_of_a_sequence_function_is_named(played: Played) -> None:
    right = Rollout(XS, STARTS, STATE, played.outputs)
    scan = jax.jit(lambda state, xs, flags: rx.scan(GRU, PARAMS, xs, state, reset=flags, time_major=True))
    none, last = np.zeros_like(STARTS), np.zeros_like(STARTS[:1])
    initial = GRU.initial_state((B,))
    cases = {
        "one step early": lambda s, xs, r: scan(s, xs, np.concatenate([r[1:], last])),
        "ignores `resets`": lambda s, xs, r: scan(s, xs, none),
        "inverted": lambda s, xs, r: scan(s, xs, ~r),
        "ignores `state`": lambda s, xs, r: scan(initial, xs, r),
        "misses a reset: False at step 7 of row 1": lambda s, xs, r: scan(s, xs, plus(r, 7, 1, False)),
        "begins with another state": lambda s, xs, r: scan(jax.tree.map(lambda leaf: leaf / 2, s), xs, r),
    }
    for words, function in cases.items():
        assert words in cause_of(STEP, right, sequence_function=function), words


def test_chance_and_wrong_shapes_are_told(played: Played) -> None:
    right = Rollout(XS, STARTS, STATE, played.outputs)
    rng = np.random.default_rng(0)

    def noisy(state, x, reset):
        state, y = STEP(state, x, reset)
        return state, np.asarray(y) + rng.normal(size=y.shape)

    assert "`step_function` is random" in cause_of(noisy, right)
    with pytest.raises(TypeError, match=r"`resets` must be bool\[T, \*B\].*got float64\[12, 4\]"):
        check_replay(STEP, right._replace(resets=STARTS.astype(float)))
    with pytest.raises(ValueError, match=r"`observations` must begin with the axes \[12, 4\].*batch-major"):
        check_replay(STEP, right._replace(observations=jnp.swapaxes(XS, 0, 1)))
    with pytest.raises(ValueError, match=r"must be like `outputs` of the rollout, \[4, 5\]; got \[4, 3\]"):
        check_replay(lambda state, x, reset: (state, x), right)
    with pytest.raises(ValueError, match="`burn_in` must be an int from 0 to 11"):
        check_replay(STEP, right._replace(burn_in=12))
    with pytest.raises(TypeError, match=r"must be a recurrax.testing.Rollout.*got tuple"):
        check_replay(STEP, tuple(right))


@pytest.mark.thorough
def test_a_rollout_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(F, H)

    def step(state, x, reset):
        state = torch.where(torch.from_numpy(reset)[:, None], 0.0, state)
        state = cell(x, state)
        return state, state

    xs, first = torch.randn(T, B, F), torch.randn(B, H)
    state, outputs = first, []
    for t in range(T):
        state, y = step(state, xs[t], STARTS[t])
        outputs.append(y)
    right = Rollout(xs, torch.from_numpy(STARTS), first, torch.stack(outputs))
    assert check_replay(step, right) < 1e-6
    assert "stored one step early" in cause_of(step, right._replace(resets=np.roll(STARTS, -1, axis=0)))
    assert "in another order" in cause_of(step, right._replace(state=first.flip(0)))


# ScannedRNN and the helpers ------------------------------------------------------------------------------------------


def test_scanned_rnn_equals_scan_in_both_frontends() -> None:
    layer = rx.LSTMCell(H)
    params = perturbed_params(layer, F)
    state = normal_like(jax.eval_shape(lambda: layer.initial_state((B,))), 2)
    expected = rx.scan(layer, params, XS, state, reset=STARTS, time_major=True)
    inputs = (XS, STARTS)
    model = rnn.ScannedRNN(layer, F, params=params)
    assert_close("nnx", model(state, inputs), expected, 1e-6)
    module, variables = linen.ScannedRNN(layer), linen.variables(params)
    assert_close("linen", module.apply(variables, state, inputs), expected, 1e-6)
    drawn = module.init(jax.random.key(0), state, inputs)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, variables)
    assert pickle.loads(pickle.dumps(module)) == module
    # One step at a time, as a rollout does it, and from no state.
    rollout = state
    for t in range(2):
        rollout, _ = model(rollout, (XS[t : t + 1], STARTS[t : t + 1].astype(float)))
    assert_close("steps", rollout, model(state, (XS[:2], STARTS[:2]))[0], 1e-6)
    assert_close("no state", model(None, inputs), model(model.initialize_carry(B), inputs), 0)
    with pytest.raises(TypeError, match=r"`inputs` must be a pair \(xs, resets\)"):
        model(state, XS)


def test_scanned_rnn_stands_where_that_of_purejaxrl_stood() -> None:
    class Network(nn.Module):
        """An actor as there: a layer before, and the class without arguments."""

        @nn.compact
        def __call__(self, hidden, x):
            obs, dones = x
            return linen.ScannedRNN()(hidden, (nn.Dense(H)(obs), dones))

    network, hidden = Network(), linen.ScannedRNN.initialize_carry(B, H)
    # There the flags are float at first, and the state of a rollout gets an axis of time before it is shuffled.
    variables = network.init(jax.random.key(0), hidden, (jnp.zeros((1, B, F)), jnp.zeros((1, B))))
    assert set(variables["params"]["ScannedRNN_0"]) == set(GRU.init(jax.random.key(0), H)._fields)
    new, ys = network.apply(variables, hidden[None, :][0], (XS, jnp.asarray(STARTS)))
    assert new.shape == hidden.shape
    assert_close("the output of a GRU is its state", ys[-1], new, 0)
    with pytest.raises(ValueError, match="`layer` must be given"):
        linen.ScannedRNN().initial_state((B,))


def test_burn_in_and_sequences() -> None:
    model = rnn.ScannedRNN(GRU, F, params=PARAMS)
    graphdef, weights = nnx.split(model, nnx.Param)

    def outputs(weights, state, steps):
        function = nnx.merge(graphdef, weights)
        state, inputs = rx.rl.burn_in(function, state, (XS, STARTS), steps)
        return function(state, inputs)[1]

    expected = rx.scan(GRU, PARAMS, XS, STATE, reset=STARTS, time_major=True)[1]
    assert_close("after a burn-in", outputs(weights, STATE, 5), expected[5:], 1e-6)
    last_row = lambda state: outputs(weights, state, 5)[:, -1].sum()  # noqa: E731
    assert not jax.tree.leaves(jax.grad(last_row)(STATE))[0].any()
    with pytest.raises(ValueError, match="`steps` must be an int from 0 to 12"):
        outputs(weights, STATE, 13)

    steps, states = np.arange(T * B).reshape(T, B), {"h": np.random.default_rng(0).normal(size=(T, B, H))}
    sequences, first = rx.rl.cut_sequences(steps, states, 3, burn_in=2, stride=1)
    assert sequences.shape == (5, 8 * B)
    for n, b in np.ndindex(8, B):
        np.testing.assert_array_equal(sequences[:, n * B + b], steps[n : n + 5, b])
        np.testing.assert_array_equal(first["h"][n * B + b], states["h"][n, b])
    with pytest.raises(ValueError, match=r"must have 7 steps, or 4 more .* sequences of 3 \+ 4 steps.*got 12"):
        rx.rl.cut_sequences(steps, states, 4, burn_in=3)
    with pytest.raises(ValueError, match=r"same first axes \[T, B\]; got \[1, 4\], \[12, 4\]"):
        rx.rl.cut_sequences(steps, steps[:1], 4)
    with pytest.raises(ValueError, match=r"`before` must have the shape \[4\]"):
        rx.rl.dones_to_resets(STARTS, STARTS)
