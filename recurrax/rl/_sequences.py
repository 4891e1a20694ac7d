"""The resets of a rollout, the sequences in it, and the burn-in of a stored state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax._arguments import as_int, check_number, describe, named_leaves


def dones_to_resets(dones: jax.Array, before: jax.Array) -> jax.Array:
    """Makes the resets of a rollout from the flags that its steps returned.

    resets[0] = before, resets[t] = dones[t - 1]

    A step returns `done` together with the next observation. So the flag says that the next
    observation is the first one of an episode.

    Args:
        dones: `bool[T, *B]`, what each step returned: True if it ended an episode.
        before: `bool[*B]`, True where the first observation of the rollout is the first one of an
            episode: the last `done` of the rollout before, or True at the very beginning.

    Returns:
        `bool[T, *B]`, the flag that belongs to each observation.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> dones = jnp.array([[False], [True], [False]])
        >>> recurrax.rl.dones_to_resets(dones, jnp.array([True])).tolist()
        [[True], [False], [True]]
    """
    dones, before = jnp.asarray(dones), jnp.asarray(before)
    if not dones.ndim or dones.shape[1:] != before.shape:
        raise ValueError(
            f"`before` must have the shape {list(dones.shape[1:])}, one flag for each row of "
            f"`dones` {describe(dones)}, which has time first; got {describe(before)}."
        )
    flags = jnp.concatenate([before.astype(bool)[None], dones.astype(bool)])  # [T + 1, *B]
    return flags[:-1]


def burn_in(function: Callable, state: Any, inputs: Any, steps: int) -> tuple[Any, Any]:
    """Updates a stored state by some first steps, through which no gradient flows.

    A stored state was computed with older parameters. A few steps with the present parameters
    bring it closer to the state that they would give.

    Args:
        function: `(state, inputs) -> (state, outputs)`, such as a `ScannedRNN`.
        state: the state before the first step.
        inputs: a pytree of arrays `[T, *B, ...]`, such as `(xs, resets)`.
        steps: the number of first steps.

    Returns:
        The state after these steps, as a constant, and the inputs of the other steps.

    Raises:
        ValueError: if there are fewer inputs than `steps`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from flax import nnx
        >>> rnn = recurrax.nnx.ScannedRNN(recurrax.GRUCell(4), 3, rngs=nnx.Rngs(0))
        >>> inputs = (jnp.ones((6, 2, 3)), jnp.zeros((6, 2), bool))  # xs and resets
        >>> state, inputs = recurrax.rl.burn_in(rnn, rnn.initial_state((2,)), inputs, steps=2)
        >>> rnn(state, inputs)[1].shape
        (4, 2, 4)

    References:
        S. Kapturowski et al., "Recurrent Experience Replay in Distributed Reinforcement Learning",
            2019, https://openreview.net/forum?id=r1lyTjAqYX
    """
    count = as_int(steps)
    total = min(np.shape(leaf)[0] for leaf in jax.tree.leaves(inputs))
    if count is None or not 0 <= count <= total:
        raise ValueError(
            f"`steps` must be an int from 0 to {total}, the number of steps in `inputs`; "
            f"got {steps!r}."
        )
    first = jax.tree.map(lambda leaf: leaf[:count], inputs)
    rest = jax.tree.map(lambda leaf: leaf[count:], inputs)
    if count:
        state, _ = function(state, first)
    return jax.lax.stop_gradient(state), rest


def cut_sequences(
    steps: Any, states: Any, length: int, *, burn_in: int = 0, stride: int | None = None
) -> tuple[Any, Any]:
    """Cuts a rollout into sequences, each with the state that was stored before its first step.

    Sequences begin at every `stride`-th step. Each has `burn_in` steps to update its state, then
    `length` steps to learn from.

    Args:
        steps: a pytree of arrays `[T, B, ...]`: observations, resets, actions and more.
        states: the state before each step, a pytree of arrays `[T, B, ...]`.
        length: the number of steps to learn from.
        burn_in: the number of steps before them.
        stride: the number of steps between two beginnings; `length` by default, so that each step
            after the first burn-in is learned from once.

    Returns:
        The sequences, `[burn_in + length, N * B, ...]`, and the state before each, `[N * B, ...]`.
        Sequence n of row b is at n * B + b.

    Raises:
        ValueError: if the sequences do not end with the rollout.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> xs, h = jnp.arange(6).reshape(6, 1), 10 * jnp.arange(6).reshape(6, 1)
        >>> sequences, state = recurrax.rl.cut_sequences(xs, h, 2, burn_in=2)
        >>> sequences.T.tolist(), state.tolist()
        ([[0, 1, 2, 3], [2, 3, 4, 5]], [0, 20])
    """
    length = check_number("length", length)
    if stride is None:
        stride = length
    stride = check_number("stride", stride)
    before = as_int(burn_in)
    if before is None or before < 0:
        raise ValueError(f"`burn_in` must be an int of at least 0; got {burn_in!r}.")
    size = before + length

    leaves = named_leaves((steps, states))
    shapes = {np.shape(leaf)[:2] for leaf in leaves.values()}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        got = ", ".join(f"{list(shape)}" for shape in sorted(shapes))
        raise ValueError(
            f"`steps` and `states` must have the same first axes [T, B]; got {got}. "
            "Is there one state for each step?"
        )
    [(total, _)] = shapes
    if total < size or (total - size) % stride:
        raise ValueError(
            f"`steps` must have {size} steps, or {stride} more or any multiple, for sequences of "
            f"{before} + {length} steps every {stride} steps; got {total}."
        )
    starts = np.arange(0, total - size + 1, stride)  # [N]
    places = starts[None] + np.arange(size)[:, None]  # [size, N]

    def cut(leaf: jax.Array) -> jax.Array:
        rows = leaf[places]  # [size, N, B, ...]
        return rows.reshape(size, -1, *rows.shape[3:])

    def take(leaf: jax.Array) -> jax.Array:
        rows = leaf[starts]  # [N, B, ...]
        return rows.reshape(-1, *rows.shape[2:])

    return jax.tree.map(cut, steps), jax.tree.map(take, states)
