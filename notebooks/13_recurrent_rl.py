# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reinforcement learning with a memory
#
# An agent reads a sign at the beginning of a corridor. At the end it must know which way to turn.
# You will see:
#
# - the maze and the agent, in about a hundred lines,
# - that a GRU learns it, and that a network without a memory cannot,
# - what the state remembers on the way,
# - a mistake that hides well: the flag `reset` one step early. The agent then never learns, and
#   `check_replay` names the cause.

# %%
import functools
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import recurrax
from recurrax.rl import dones_to_resets
from recurrax.testing import Rollout, check_replay

# %% [markdown]
# ## The maze
#
# This is a T-maze (Bakker, 2001). The sign at the first place shows the arm with the reward. All
# places of the corridor look the same. At the end, the agent turns left or right: the right choice
# gives 1, the other one nothing. A corridor has 4 to 10 places, drawn for each episode.

# %%
figure, axis = plt.subplots(figsize=(9, 2.9))
for place in range(7):
    axis.add_patch(plt.Rectangle((place, 0), 1, 1, facecolor="white", edgecolor="black"))
for place in ((6, 1), (6, -1)):
    axis.add_patch(plt.Rectangle(place, 1, 1, facecolor="whitesmoke", edgecolor="black"))
axis.text(0.5, 0.5, "sign:\nleft", ha="center", va="center", color="tab:blue")
axis.text(3.5, 1.3, "the corridor: nothing to see", ha="center", va="center", color="grey")
axis.text(6.5, 0.5, "end", ha="center", va="center", color="tab:blue")
axis.text(6.5, 1.5, "left: 1", ha="center", va="center", color="tab:green")
axis.text(6.5, -0.5, "right: 0", ha="center", va="center", color="tab:red")
axis.annotate("", (5.8, -0.3), (0.5, -0.3), arrowprops={"arrowstyle": "->", "color": "grey"})
axis.text(3.2, -0.7, "remember the sign on the way", ha="center", va="center", color="grey")
axis.set(xlim=(-0.1, 7.1), ylim=(-1.1, 2.1), aspect="equal", title="a maze with 6 places")
axis.axis("off")
plt.show()

# %% [markdown]
# B mazes run side by side. The actions are: 0 goes on, 1 turns left, 2 turns right. A turn within
# the corridor does nothing.

# %%
B = 64
GO_ON, LONGEST = 0, 40


class Maze(NamedTuple):
    arm: jax.Array  # int[B], 0 is left and 1 is right
    length: jax.Array  # int[B], the places before the end
    place: jax.Array  # int[B]
    time: jax.Array  # int[B]


def begin(key):
    """Begins B episodes."""
    arm_key, length_key = jax.random.split(key)
    arm = jax.random.randint(arm_key, (B,), 0, 2)
    length = jax.random.randint(length_key, (B,), 4, 11)
    zeros = jnp.zeros(B, jnp.int32)
    return Maze(arm, length, zeros, zeros)


def observe(maze):
    """Shows one of four signs, `[B, 4]`: left, right, corridor, end."""
    shown = jnp.where(maze.place == maze.length, 3, 2)
    shown = jnp.where(maze.place == 0, maze.arm, shown)
    return jax.nn.one_hot(shown, 4)


def move(maze, actions):
    """Returns the mazes, the rewards `[B]`, and the flags `[B]`: whether an episode is over."""
    turned = (maze.place == maze.length) & (actions != GO_ON)
    rewards = (turned & (actions - 1 == maze.arm)).astype(jnp.float32)
    place = jnp.where(actions == GO_ON, maze.place + 1, maze.place)
    time = maze.time + 1
    maze = maze._replace(place=jnp.minimum(place, maze.length), time=time)
    # Too long an episode ends as well.
    return maze, rewards, turned | (time == LONGEST)


# %% [markdown]
# ## Playing
#
# The agent is a layer: a GRU, then a dense layer with four outputs. Three are the logits of the
# actions. The fourth one is the **value**, a guess of the reward to come.
#
# The flag `reset` tells `step` that an observation is the first one of an episode. An environment
# returns `done` with the step before. So the `dones` of one step are the `resets` of the next.

# %%
T = 48  # steps of a rollout


class World(NamedTuple):
    maze: Maze
    resets: jax.Array  # bool[B], whether the present observation begins an episode
    state: tuple  # the state of the agent


class Steps(NamedTuple):
    xs: jax.Array  # [T, B, 4]
    actions: jax.Array  # int[T, B]
    log_probs: jax.Array  # [T, B]
    values: jax.Array  # [T, B]
    rewards: jax.Array  # [T, B]
    dones: jax.Array  # bool[T, B], returned after the action


def first_world(layer, key):
    return World(begin(key), jnp.ones(B, bool), layer.initial_state((B,)))


def log_prob(logits, actions):
    return jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], -1)[..., 0]


def play(layer, params, world, key):
    """Plays T steps in all mazes. Returns the world after them, and the `Steps`."""

    def one_step(world, key):
        act_key, begin_key = jax.random.split(key)
        xs = observe(world.maze)
        state, ys = recurrax.step(layer, params, xs, world.state, reset=world.resets)
        logits, values = ys[:, :3], ys[:, 3]
        actions = jax.random.categorical(act_key, logits)
        maze, rewards, dones = move(world.maze, actions)
        # Where an episode is over, the next one begins at once.
        maze = jax.tree.map(functools.partial(jnp.where, dones), begin(begin_key), maze)
        steps = Steps(xs, actions, log_prob(logits, actions), values, rewards, dones)
        return World(maze, dones, state), steps

    return jax.lax.scan(one_step, world, jax.random.split(key, T))


# %% [markdown]
# ## Learning
#
# This is PPO (Schulman et al., 2017) in its simplest form. An action that brought more than its
# value becomes likelier, and another one less likely. Four gradient steps learn from each rollout.
#
# Learning computes all outputs again, from three stored things: the observations, the `resets`, and
# the state before the rollout. `scan` does it in one call.

# %%
DISCOUNT = 0.95
UPDATES = 100


def returns_of(steps, last_values):
    """The rewards to come after each step, discounted, `[T, B]`."""

    def back(after, step):
        reward, done = step
        value = reward + DISCOUNT * jnp.where(done, 0.0, after)
        return value, value

    return jax.lax.scan(back, last_values, (steps.rewards, steps.dones), reverse=True)[1]


def loss_of(params, layer, state, steps, resets, returns):
    _, ys = recurrax.scan(layer, params, steps.xs, state, reset=resets, time_major=True)
    logits, values = ys[..., :3], ys[..., 3]
    advantages = returns - steps.values
    advantages = advantages / (advantages.std() + 0.05)
    # How much likelier each action is now than in the rollout.
    ratio = jnp.exp(log_prob(logits, steps.actions) - steps.log_probs)  # [T, B]
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 0.8, 1.2) * advantages)
    # Entropy keeps all actions possible for a while.
    entropy = -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(-1)
    value_error = (values - returns) ** 2
    return jnp.mean(0.5 * value_error - gain - 0.01 * entropy)


schedule = optax.linear_schedule(5e-3, 0.0, 4 * UPDATES)
adam = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule))


@functools.partial(jax.jit, static_argnames=("layer", "early"))
def update(layer, params, opt_state, world, key, early=False):
    """Plays, and learns from it. Returns the share of episodes with the reward as well."""
    after, steps = play(layer, params, world, key)
    resets = dones_to_resets(steps.dones, world.resets)
    if early:
        # The mistake of this page: `dones` are stored as if they were `resets`.
        resets = steps.dones
    # What comes after the last step is not known, and its value stands for it.
    xs = observe(after.maze)
    _, ys = recurrax.step(layer, params, xs, after.state, reset=after.resets)
    returns = returns_of(steps, ys[:, 3])

    def learn(_, learned):
        params, opt_state = learned
        grads = jax.grad(loss_of)(params, layer, world.state, steps, resets, returns)
        updates, opt_state = adam.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = jax.lax.fori_loop(0, 4, learn, (params, opt_state))
    solved = steps.rewards.sum() / steps.dones.sum()
    return params, opt_state, after, solved


def train(layer, early=False):
    """Returns the parameters, the last world, and the share of solved episodes per update."""
    params = layer.init(jax.random.key(0), 4)
    opt_state, world = adam.init(params), first_world(layer, jax.random.key(1))
    curve = []
    for key in jax.random.split(jax.random.key(2), UPDATES):
        params, opt_state, world, solved = update(layer, params, opt_state, world, key, early)
        curve.append(float(solved))
    return params, world, np.array(curve)


# %% [markdown]
# Three agents: with a memory, without one, and with a memory whose `resets` are stored wrongly.

# %%
H = 32
gru = recurrax.Stack((recurrax.GRUCell(H), recurrax.Dense(4)))
dense = recurrax.Stack((recurrax.Dense(3 * H, jnp.tanh), recurrax.Dense(4)))

params, world, curve = train(gru)
curves = {"GRU": curve}
curves["without a memory"] = train(dense)[2]
curves["GRU, resets one step early"] = train(gru, early=True)[2]
for name, curve in curves.items():
    print(f"{name:28s} {curve[-20:].mean():.1%} of the episodes end with the reward")

# %%
figure, axis = plt.subplots(figsize=(9, 3.4))
played = np.arange(1, UPDATES + 1) * T * B / 1000
for name, curve in curves.items():
    axis.plot(played, 100 * curve, label=name)
axis.axhline(50, color="grey", linestyle=":", label="a guess")
axis.set(title="learning the maze", xlabel="steps of the environments, in thousands")
axis.set(ylabel="episodes with the reward, %", ylim=(0, 103))
axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %%
assert curves["GRU"][-20:].mean() > 0.95
assert curves["without a memory"][-20:].mean() < 0.6
assert curves["GRU, resets one step early"][-20:].mean() < 0.6

# %% [markdown]
# ## What the state remembers
#
# Two episodes with the same corridor and different signs. `trace` returns the state of every step.
# The left picture is the distance between the two states. The right one shows what the agent would
# do at each place.

# %%
PLACES = 10
numbers = np.full((2, PLACES + 1), 2)  # the corridor
numbers[:, 0] = (0, 1)  # the sign: left, right
numbers[:, -1] = 3  # the end
xs = jax.nn.one_hot(numbers, 4)  # [2, T, 4]
states = recurrax.trace(gru.layers[0], params[0], xs).states.h  # [2, T, H]
_, ys = recurrax.scan(gru, params, xs)
actions = np.asarray(jax.nn.softmax(ys[..., :3]))  # [2, T, 3]

figure, panels = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
panels[0].plot(jnp.linalg.norm(states[0] - states[1], axis=-1), marker="o")
panels[0].set(title="left sign against right sign", ylim=(0, None))
panels[0].set(ylabel="distance of the states")
for axis, row, sign in ((panels[1], 0, "left"), (panels[2], 1, "right")):
    image = axis.imshow(actions[row].T, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set(title=f"actions after the sign: {sign}")
    axis.set_yticks(range(3), ["go on", "left", "right"])
for axis in panels:
    axis.set(xlabel="place; 10 is the end", xticks=range(0, PLACES + 1, 2))
figure.colorbar(image, ax=panels[2], label="probability")
plt.show()

# %%
for row, sign in enumerate(("left", "right")):
    at_end = actions[row, -1]
    print(f"sign {sign:5s} at the end: left {at_end[1]:.3f}, right {at_end[2]:.3f}")
    assert at_end[1 + row] > 0.9

# %% [markdown]
# ## One step early
#
# Why did the third agent fail? It played with the right flags. Only the stored flags were early.
# So learning forgot the sign just before each turn, and never saw what the sign is good for. It
# even became worse than a guess: it judged turns from a state that no rollout had. Nothing raised
# an error.
#
# PPO has a number that tells. Before the first gradient step, learning computes what the rollout
# computed. So the **ratio** of probabilities is 1 everywhere.

# %%
world, _ = play(gru, params, world, jax.random.key(3))
after, steps = play(gru, params, world, jax.random.key(4))
resets = dones_to_resets(steps.dones, world.resets)
print("row 0, dones: ", np.flatnonzero(steps.dones[:, 0]))
print("row 0, resets:", np.flatnonzero(resets[:, 0]))


def learned_outputs(state, xs, resets):
    return recurrax.scan(gru, params, xs, state, reset=resets, time_major=True)


def ratios(resets):
    _, ys = learned_outputs(world.state, steps.xs, resets)
    return jnp.exp(log_prob(ys[..., :3], steps.actions) - steps.log_probs)  # [T, B]


aligned, early = ratios(resets), ratios(steps.dones)
print(f"resets aligned: the ratio is 1 within {float(jnp.abs(aligned - 1).max()):.0e}")
wrong = float(jnp.mean(jnp.abs(early - 1) > 0.1))
print(f"one step early: {wrong:.0%} of the ratios differ from 1 by more than 0.1")
assert wrong > 0.05

# %%
figure, panels = plt.subplots(2, 1, figsize=(10, 4.4), sharex=True, sharey=True)
for axis, ratio, flags, title in (
    (panels[0], aligned, resets, "resets aligned"),
    (panels[1], early, steps.dones, "resets one step early"),
):
    for row in range(3):
        axis.plot(ratio[:, row], marker=".", color=f"C{row}", label=f"maze {row}")
    for number, t in enumerate(np.flatnonzero(flags[:, 0])):
        label = "resets of maze 0" if number == 0 else None
        axis.axvline(t, color="C0", linewidth=0.8, linestyle=":", label=label)
    axis.set(title=title, ylabel="ratio", ylim=(0, 1.5))
panels[1].set(xlabel="step of the rollout")
panels[0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# With early flags the ratio is wrong at the end of each episode: the agent has just forgotten where
# to turn. It is also wrong at the beginning of the next episode, which keeps an old state.
#
# `check_replay` makes a test of this. It replays what is stored, step by step. If an output
# differs, it tries other flags and other states, and names the change that helps.


# %%
@jax.jit
def replay_step(state, xs, resets):
    return recurrax.step(gru, params, xs, state, reset=resets)


_, outputs = learned_outputs(world.state, steps.xs, resets)
rollout = Rollout(steps.xs, resets, world.state, outputs)
error = check_replay(replay_step, rollout, sequence_function=learned_outputs)
print(f"resets aligned: the outputs differ by {error:.0e} at most")

try:
    check_replay(replay_step, rollout._replace(resets=steps.dones))
except AssertionError as caught:
    message = str(caught)
else:
    raise AssertionError("the mistake was not found")
for line in message.splitlines():
    print(textwrap.fill(line, 90))
assert "one step early" in message

# %% [markdown]
# [Reinforcement learning](../docs/reinforcement_learning.md) has `ScannedRNN` with the arguments of
# PureJaxRL, stored states, and burn-in. `examples/rl` is a program with PPO on two such tasks.
