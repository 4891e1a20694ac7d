"""The example of reinforcement learning: its tasks by hand, its replays, and that it learns."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.rl import ppo
from examples.rl.__main__ import main
from examples.rl.ppo import Config, Learner, RepeatPrevious, TMaze
from recurrax.testing import Rollout, check_replay

SMALL = Config(hidden_size=8, environments=4, steps=16, minibatches=2)


def test_repeat_previous_rewards_the_symbol_of_some_steps_before() -> None:
    task = RepeatPrevious(delay=2, symbols=3, steps=5)
    keys = jax.random.split(jax.random.key(0), 6)
    state, shown, rewards, dones = task.begin(keys[0]), [], [], []
    for t, key in enumerate(keys[1:]):
        shown.append(int(task.observe(state).argmax()))
        action = jnp.array(0)
        if t >= 2:
            action = jnp.array(shown[t - 2])
        if t == 3:
            action = (action + 1) % 3
        state, reward, done = task.step(key, state, action)
        rewards.append(float(reward))
        dones.append(bool(done))
    np.testing.assert_allclose(rewards, [0, 0, 1 / 3, 0, 1 / 3], rtol=1e-6)
    assert dones == [False, False, False, False, True]


@pytest.mark.parametrize("right", [True, False])
def test_the_maze_shows_its_arm_once(right: bool) -> None:
    task, key = TMaze(corridor=3), jax.random.key(1)
    state = task.begin(key)
    arm, seen, total = int(state.arm), [], 0.0
    # A turn in the corridor does nothing.
    actions = [0, 1, 0, 0, 1 + (arm if right else 1 - arm)]
    for t, action in enumerate(actions):
        seen.append(int(task.observe(state).argmax()))
        state, reward, done = task.step(key, state, jnp.array(action))
        total += float(reward)
        assert bool(done) == (t == 4)
    assert seen == [arm, 2, 2, 2, 3]
    assert total == float(right)
    # Who never turns is stopped.
    state = task.begin(key)
    for t in range(12):
        state, reward, done = task.step(key, state, jnp.array(0))
        assert (float(reward), bool(done)) == (0, t == 11)


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("task", ["repeat", "maze"])
def test_learning_computes_what_the_rollout_computed(task: str) -> None:
    learner = Learner(task, "gru", SMALL)
    params, _, world, key = learner.first_state(0)
    rollout = jax.jit(learner.rollout)
    # The second rollout begins within episodes.
    world, _ = rollout(params, world, key)
    last, steps = rollout(params, world, jax.random.fold_in(key, 1))

    @jax.jit
    def sequence(memory, observations, resets):
        return learner.agent(params)(memory, (observations, resets))

    def step(memory, observation, reset):
        memory, outputs = sequence(memory, observation[None], reset[None])
        return memory, jax.tree.map(lambda leaf: leaf[0], outputs)

    _, outputs = sequence(world.memory, steps.observations, steps.resets)
    stored = Rollout(steps.observations, steps.resets, world.memory, outputs)
    assert check_replay(step, stored) < 1e-6
    # The ratio of PPO before the first gradient step.
    log_p = np.asarray(jax.nn.log_softmax(outputs[0]), np.float64)
    new = np.take_along_axis(log_p, np.asarray(steps.actions)[..., None], -1)[..., 0]
    assert np.abs(np.exp(new - np.asarray(steps.log_probs, np.float64)) - 1).max() <= 3e-7
    if np.asarray(steps.dones).any():
        wrong = stored._replace(resets=steps.dones)
        with pytest.raises(AssertionError, match="one step early"):
            check_replay(step, wrong)
    np.testing.assert_array_equal(last.resets, steps.dones[-1])


@pytest.mark.usefixtures("standard_promotion")
def test_advantages_are_those_of_a_loop() -> None:
    learner, rng = Learner("maze", "gru", SMALL), np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6, 3)).astype(np.float32)
    dones, last = rng.random((6, 3)) < 0.3, rng.normal(size=3).astype(np.float32)
    nothing = jnp.zeros(())
    steps = ppo.Steps(nothing, nothing, nothing, nothing, values, rewards, jnp.asarray(dones), nothing)
    expected, after, following = np.zeros((6, 3)), np.zeros(3), last
    for t in reversed(range(6)):
        error = rewards[t] + 0.9 * ~dones[t] * following - values[t]
        expected[t] = after = error + 0.9 * 0.7 * ~dones[t] * after
        following = values[t]
    np.testing.assert_allclose(learner.advantages(steps, jnp.asarray(last)), expected, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
def test_the_gru_learns_in_a_few_updates(monkeypatch) -> None:
    """A delay of 1 is learned soon; the program itself has a longer one."""
    monkeypatch.setitem(ppo.TASKS, "repeat", RepeatPrevious(delay=1, symbols=2, steps=8))
    config = Config(hidden_size=16, environments=32, steps=32, updates=30, learning_rate=0.01)
    curve, final = ppo.train(Learner("repeat", "gru", config), 0)
    assert curve[0] < 0.7
    assert final > 0.9


@pytest.mark.thorough
@pytest.mark.usefixtures("standard_promotion")
def test_the_commands_run(tmp_path, capsys) -> None:
    options = ["--hidden-size", "8", "--environments", "4", "--steps", "48", "--updates", "2", "--epochs", "1"]
    options += ["--minibatches", "2"]
    assert main(["compare", "--seeds", "1", "--out", str(tmp_path), *options]) == 0
    assert "| T-maze | feed-forward |" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert main(["train", "--task", "maze", *options]) == 0
    assert "Score with the most likely actions" in capsys.readouterr().out
    assert main(["train", *options, "--minibatches", "3"]) == 2
    assert "--environments 4 must be a multiple" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_examples_in_docstrings_run() -> None:
    assert not doctest.testmod(ppo).failed
