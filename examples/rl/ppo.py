"""Proximal policy optimization (PPO) of an agent with a memory. All of it is in this file.

An agent with a memory learns from its own steps. A rollout keeps three things of them:

- the observations,
- for each observation the flag `reset`: whether it is the first one of an episode,
- the state of the agent before the first step.

Learning computes the outputs of the agent again from these, all steps at once. Before the first
gradient step, they equal those of the rollout: `recurrax.testing.check_replay` asserts that in
`tests/test_rl.py`.

References:
    J. Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
        https://arxiv.org/abs/1707.06347
    B. Bakker, "Reinforcement Learning with Long Short-Term Memory" (the T-maze), 2001
    S. Morad et al., "POPGym: Benchmarking Partially Observable Reinforcement Learning"
        (repeat-previous), 2023, https://arxiv.org/abs/2303.01859
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import recurrax
from examples.char_lm.config import UserError, number, program
from recurrax import nnx as rnn

__all__ = ["POLICIES", "PROGRAM", "TASKS", "Agent", "Config", "Learner", "UserError", "train"]

PROGRAM = program("examples.rl")


# The tasks ---------------------------------------------------------------------------------------
#
# A task has `begin(key) -> state`, `observe(state) -> float[O]` and
# `step(key, state, action) -> (state, reward, done)`, for one environment. `jax.vmap` makes many.
# The rewards of an episode sum up to its score, from 0 to 1.


class Symbols(NamedTuple):
    """The state of `RepeatPrevious`: the time, and the latest symbols, the present one first."""

    time: jax.Array  # int[]
    latest: jax.Array  # int[delay + 1]


@dataclasses.dataclass(frozen=True)
class RepeatPrevious:
    """Each step shows a symbol. The right action is the symbol of some steps before.

    The score is the share of right actions. Without a memory it is a quarter at best.
    """

    delay: int = 4
    symbols: int = 4
    steps: int = 24

    name = "repeat-previous"
    chance = 0.25

    @property
    def observation_size(self) -> int:
        """Returns the number of features of an observation."""
        return self.symbols

    @property
    def actions(self) -> int:
        """Returns the number of actions."""
        return self.symbols

    def begin(self, key: jax.Array) -> Symbols:
        """Begins an episode."""
        latest = jax.random.randint(key, [self.delay + 1], 0, self.symbols)
        return Symbols(jnp.zeros([], jnp.int32), latest)

    def observe(self, state: Symbols) -> jax.Array:
        """Shows the present symbol."""
        return jax.nn.one_hot(state.latest[0], self.symbols)

    def step(self, key: jax.Array, state: Symbols, action: jax.Array) -> tuple:
        """Rewards the symbol that was shown `delay` steps ago, and shows another one."""
        # The first steps have no symbol to repeat.
        counts = state.time >= self.delay
        right = counts & (action == state.latest[self.delay])
        reward = right.astype(jnp.float32) / (self.steps - self.delay)
        new = jax.random.randint(key, [1], 0, self.symbols)
        latest = jnp.concatenate([new, state.latest[:-1]])
        # The new symbol comes first, and the oldest one is forgotten.
        time = state.time + 1
        return Symbols(time, latest), reward, time == self.steps


class Place(NamedTuple):
    """The state of `TMaze`: the time, the place in the corridor, and the arm with the reward."""

    time: jax.Array  # int[]
    place: jax.Array  # int[]
    arm: jax.Array  # int[], 0 or 1


@dataclasses.dataclass(frozen=True)
class TMaze:
    """A corridor with two arms at its end. The first place alone shows which arm has the reward.

    Actions are: go on, turn into arm 0, turn into arm 1. The score of an episode is 1 for the right
    arm. Without a memory it is one half at best, on average.
    """

    corridor: int = 10

    name = "T-maze"
    chance = 0.5
    observation_size = 4
    actions = 3

    def begin(self, key: jax.Array) -> Place:
        """Begins an episode."""
        zero = jnp.zeros([], jnp.int32)
        return Place(zero, zero, jax.random.randint(key, [], 0, 2))

    def observe(self, state: Place) -> jax.Array:
        """Shows the arm at the first place. All later places look the same, up to the end."""
        between = jnp.where(state.place == self.corridor, 3, 2)
        # Feature 0 or 1 is the arm, feature 2 the corridor, feature 3 its end.
        shown = jnp.where(state.place == 0, state.arm, between)
        return jax.nn.one_hot(shown, self.observation_size)

    def step(self, key: jax.Array, state: Place, action: jax.Array) -> tuple:
        """Goes on, or turns. Turns within the corridor do nothing."""
        at_end = state.place == self.corridor
        turned = at_end & (action > 0)
        reward = (turned & (action - 1 == state.arm)).astype(jnp.float32)
        place = jnp.where(action == 0, state.place + 1, state.place)
        time = state.time + 1
        new = Place(time, jnp.minimum(place, self.corridor), state.arm)
        # An episode without a turn ends, too.
        return new, reward, turned | (time == 4 * self.corridor)


TASKS: dict[str, Any] = {"repeat": RepeatPrevious(), "maze": TMaze()}
POLICIES = {"gru": "GRU", "feed-forward": "feed-forward"}


# The settings ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run, beside the task, the policy and the seed."""

    hidden_size: int = number(64, 1, 65536, "units of the GRU")

    environments: int = number(64, 1, 10**6, "environments side by side")
    steps: int = number(64, 1, 10**6, "steps of a rollout")
    updates: int = number(120, 1, 10**8, "rollouts to learn from")
    epochs: int = number(4, 1, 1000, "passes over a rollout")
    minibatches: int = number(8, 1, 10**6, "parts of a rollout, each with some environments")

    learning_rate: float = number(0.004, 1e-8, 10.0, "Adam's rate at first; it goes down to 0")
    gradient_norm: float = number(0.5, 1e-6, 1e6, "gradients are scaled down to this global norm")
    discount: float = number(0.9, 0.0, 1.0, "gamma: the weight of the next step's reward")
    trace: float = number(0.7, 0.0, 1.0, "lambda of the generalized advantage estimation")
    clip: float = number(0.2, 1e-6, 10.0, "how far the ratio of probabilities may move")
    value_weight: float = number(0.5, 0.0, 100.0, "weight of the loss of the values")
    entropy_weight: float = number(0.01, 0.0, 100.0, "weight of the entropy of the actions")

    def __post_init__(self) -> None:
        """Checks what one option alone cannot tell."""
        if self.environments % self.minibatches:
            raise UserError(
                f"--environments {self.environments} must be a multiple of --minibatches "
                f"{self.minibatches}"
            )


# The agent ---------------------------------------------------------------------------------------


class Agent(nnx.Module):
    """An actor and a critic behind one layer with a memory, or without.

    Example:
        >>> import jax.numpy as jnp
        >>> agent = Agent("maze", "gru", 8, rngs=nnx.Rngs(0))
        >>> observations, resets = jnp.ones((7, 2, 4)), jnp.zeros((7, 2), bool)  # [T, B, O]
        >>> state, (logits, values) = agent(agent.initial_state(2), (observations, resets))
        >>> logits.shape, values.shape
        ((7, 2, 3), (7, 2))
    """

    def __init__(self, task: str, policy: str, hidden: int, *, rngs: nnx.Rngs):
        """Makes the parameters."""
        layer: recurrax.Layer = recurrax.GRUCell(hidden)
        if policy == "feed-forward":
            # As many parameters as the GRU has, and one more.
            wide = recurrax.Dense(3 * hidden + 1, jnp.tanh)
            layer = recurrax.Stack((wide, recurrax.Dense(hidden, jnp.tanh)))
        self.encoder = nnx.Linear(TASKS[task].observation_size, hidden, rngs=rngs)
        self.memory = rnn.ScannedRNN(layer, hidden, rngs=rngs)
        # Small logits make all actions likely at first.
        small = nnx.initializers.orthogonal(0.01)
        self.actor = nnx.Linear(hidden, TASKS[task].actions, kernel_init=small, rngs=rngs)
        self.critic = nnx.Linear(hidden, 1, rngs=rngs)

    def initial_state(self, batch: int) -> Any:
        """Returns the state before the first step of B environments."""
        return self.memory.initial_state((batch,))

    def __call__(self, state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, tuple]:
        """Returns the state, and the logits of the actions `[T, B, A]` with the values `[T, B]`.

        Args:
            state: the state before the first step.
            inputs: observations `[T, B, O]`, and `bool[T, B]`: whether each is the first one of an
                episode.
        """
        observations, resets = inputs
        xs = jnp.tanh(self.encoder(observations))  # [T, B, H]
        state, ys = self.memory(state, (xs, resets))
        return state, (self.actor(ys), self.critic(ys)[..., 0])


# Learning ----------------------------------------------------------------------------------------


class World(NamedTuple):
    """Where environments and agent are between two steps.

    Attributes:
        environments: the state of B environments.
        resets: `bool[B]`, whether the present observation is the first one of an episode.
        memory: the state of the agent.
        scores: `[B]`, the rewards so far in the present episodes.
    """

    environments: Any
    resets: jax.Array
    memory: Any
    scores: jax.Array


class Steps(NamedTuple):
    """The steps of a rollout, each `[T, B, ...]`.

    `resets` came with the observations. `dones` came after the actions: they tell that the next
    observation begins an episode.
    """

    observations: jax.Array
    resets: jax.Array
    actions: jax.Array
    log_probs: jax.Array
    values: jax.Array
    rewards: jax.Array
    dones: jax.Array
    scores: jax.Array


class TrainState(NamedTuple):
    """Everything that changes from one update to the next."""

    params: nnx.State
    opt_state: optax.OptState
    world: World
    key: jax.Array


class Learner:
    """The compiled functions that training is made of. They do not depend on the seed.

    Args:
        task: a key of `TASKS`.
        policy: "gru", or "feed-forward".
        config: the settings.
    """

    def __init__(self, task: str, policy: str, config: Config):
        self.config = config
        self.task = TASKS[task]
        self.names = task, policy
        parts: tuple[Any, ...] = nnx.split(self._new_agent(0), nnx.Param, ...)
        self.graphdef, _, self.rest = parts
        gradients = config.updates * config.epochs * config.minibatches
        rate = optax.linear_schedule(config.learning_rate, 0.0, gradients)
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(config.gradient_norm), optax.adam(rate, eps=1e-5)
        )

    def _new_agent(self, seed: int) -> Agent:
        return Agent(*self.names, self.config.hidden_size, rngs=nnx.Rngs(seed))

    def agent(self, params: nnx.State) -> Agent:
        """Returns an agent with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest, copy=True)

    def first_state(self, seed: int) -> TrainState:
        """Returns the state before the first update."""
        params = nnx.state(self._new_agent(seed), nnx.Param)
        key, world_key = jax.random.split(jax.random.key(seed))
        world = self.first_world(params, world_key)
        return TrainState(params, self.optimizer.init(params), world, key)

    def first_world(self, params: nnx.State, key: jax.Array) -> World:
        """Begins an episode in every environment."""
        number = self.config.environments
        environments = jax.vmap(self.task.begin)(jax.random.split(key, number))
        memory = self.agent(params).initial_state(number)
        return World(environments, jnp.ones([number], bool), memory, jnp.zeros([number]))

    def rollout(
        self, params: nnx.State, world: World, key: jax.Array, greedy: bool = False
    ) -> tuple[World, Steps]:
        """Plays in all environments.

        Args:
            params: the parameters of the agent.
            world: where to go on.
            key: the randomness of actions and environments.
            greedy: whether to take the most likely action, rather than a random one. Then eight
                times as many steps are played, for a mean of many episodes.
        """
        task, number = self.task, self.config.environments
        length = self.config.steps
        if greedy:
            length = 8 * length

        def play(world: World, key: jax.Array) -> tuple[World, Steps]:
            act_key, step_key, begin_key = jax.random.split(key, 3)
            observations = jax.vmap(task.observe)(world.environments)  # [B, O]
            # One step is a sequence of length 1.
            inputs = (observations[None], world.resets[None])
            memory, (logits, values) = self.agent(params)(world.memory, inputs)
            if greedy:
                actions = jnp.argmax(logits[0], axis=-1)  # [B]
            else:
                actions = jax.random.categorical(act_key, logits[0])
            log_probs = _log_probs(logits[0], actions)

            step_keys = jax.random.split(step_key, number)
            stepped = jax.vmap(task.step)(step_keys, world.environments, actions)
            environments, rewards, dones = stepped
            scores = world.scores + rewards
            # Where an episode ended, the next one begins.
            begun = jax.vmap(task.begin)(jax.random.split(begin_key, number))
            pick = partial(_where, dones)
            environments = jax.tree.map(pick, begun, environments)
            steps = Steps(
                observations, world.resets, actions, log_probs, values[0], rewards, dones, scores
            )
            # `dones` belong to the next observations.
            running = pick(jnp.zeros_like(scores), scores)
            return World(environments, dones, memory, running), steps

        return jax.lax.scan(play, world, jax.random.split(key, length))

    def advantages(self, steps: Steps, last_values: jax.Array) -> jax.Array:
        """Estimates how much better each action was than expected, `[T, B]`.

        Generalized advantage estimation: J. Schulman et al., 2016, https://arxiv.org/abs/1506.02438
        """
        config = self.config
        next_values = jnp.concatenate([steps.values[1:], last_values[None]])
        # Nothing after the end of an episode counts.
        goes_on = 1.0 - steps.dones
        # The error of each value against the next reward and the next value, [T, B].
        errors = steps.rewards + config.discount * goes_on * next_values - steps.values

        def back(after: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
            error, on = at
            advantage = error + config.discount * config.trace * on * after
            return advantage, advantage

        nothing = jnp.zeros_like(last_values)
        return jax.lax.scan(back, nothing, (errors, goes_on), reverse=True)[1]

    def loss(
        self, params: nnx.State, memory: Any, steps: Steps, advantages: jax.Array
    ) -> jax.Array:
        """The loss of PPO on some environments of a rollout.

        Args:
            params: the present parameters.
            memory: the state of the agent before the first step of the rollout.
            steps: the steps, `[T, B, ...]`.
            advantages: `[T, B]`.
        """
        config = self.config
        # The agent reads what it read in the rollout: the same observations, resets and state.
        inputs = (steps.observations, steps.resets)
        _, (logits, values) = self.agent(params)(memory, inputs)
        ratio = jnp.exp(_log_probs(logits, steps.actions) - steps.log_probs)  # [T, B]
        clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
        scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gain = jnp.minimum(ratio * scaled, clipped * scaled).mean()
        # The critic learns the return that was estimated with its older values.
        value_loss = 0.5 * jnp.square(values - (advantages + steps.values)).mean()
        # The entropy keeps actions random for a while, so that all of them are tried.
        log_p = jax.nn.log_softmax(logits)  # [T, B, A]
        entropy = -(jnp.exp(log_p) * log_p).sum(axis=-1).mean()
        return config.value_weight * value_loss - gain - config.entropy_weight * entropy

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def update(self, state: TrainState) -> tuple[TrainState, jax.Array]:
        """Plays a rollout and learns from it; returns the mean score of its complete episodes."""
        config = self.config
        key, play_key, learn_key = jax.random.split(state.key, 3)
        # The state before the rollout is the state that learning begins with.
        memory = state.world.memory
        world, steps = self.rollout(state.params, state.world, play_key)
        # The value of the observation after the last step stands for all later rewards.
        observations = jax.vmap(self.task.observe)(world.environments)  # [B, O]
        inputs = (observations[None], world.resets[None])
        _, (_, last_values) = self.agent(state.params)(world.memory, inputs)
        advantages = self.advantages(steps, last_values[0])

        def learn(carry: tuple, rows: jax.Array) -> tuple[tuple, None]:
            params, opt_state = carry
            # Environments are divided, never the steps of one environment.
            part = jax.tree.map(lambda leaf: leaf[:, rows], (steps, advantages))
            start = jax.tree.map(lambda leaf: leaf[rows], memory)
            grads = jax.grad(self.loss)(params, start, *part)
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        def order(key: jax.Array) -> jax.Array:
            shuffled = jax.random.permutation(key, config.environments)
            return shuffled.reshape(config.minibatches, -1)

        # Each epoch has its own order of environments.
        orders = jax.vmap(order)(jax.random.split(learn_key, config.epochs))
        rows = orders.reshape(-1, orders.shape[-1])  # [epochs * minibatches, B of a part]
        learned, _ = jax.lax.scan(learn, (state.params, state.opt_state), rows)
        return TrainState(*learned, world, key), _mean_score(steps)

    @partial(jax.jit, static_argnums=0)
    def evaluate(self, params: nnx.State, key: jax.Array) -> jax.Array:
        """Returns the mean score of episodes with the most likely actions."""
        first_key, key = jax.random.split(key)
        world = self.first_world(params, first_key)
        _, steps = self.rollout(params, world, key, greedy=True)
        return _mean_score(steps)


def _where(flags: jax.Array, yes: jax.Array, no: jax.Array) -> jax.Array:
    """Chooses by row: `flags` is `bool[B]`, the others are `[B, ...]`."""
    axes = tuple(range(1, yes.ndim))
    return jnp.where(jnp.expand_dims(flags, axes), yes, no)


def _log_probs(logits: jax.Array, actions: jax.Array) -> jax.Array:
    """The log-probabilities of the actions that were taken."""
    log_p = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_p, actions[..., None], axis=-1)[..., 0]


def _mean_score(steps: Steps) -> jax.Array:
    """The mean score of the episodes that ended; NaN if none did."""
    return (steps.scores * steps.dones).sum() / steps.dones.sum()


def train(learner: Learner, seed: int, show: Any = None) -> tuple[np.ndarray, float]:
    """Trains an agent.

    Args:
        learner: the compiled functions.
        seed: the seed of all randomness.
        show: called after each update with the number of the update and its score, or None.

    Returns:
        The score of each update `[updates]`, and the score with the most likely actions at the end.
    """
    state = learner.first_state(seed)
    curve = []
    for update in range(learner.config.updates):
        state, score = learner.update(state)
        curve.append(float(score))
        if show is not None:
            show(update, curve[-1])
    final = learner.evaluate(state.params, jax.random.key(seed))
    return np.array(curve), float(final)
