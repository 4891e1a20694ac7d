"""Permutations: which of five things is where; the word problem of the symmetric group S5."""

import jax
import jax.numpy as jnp

from benchmarks.tasks.problems._tracking import LONG, TRAINED, B, running
from benchmarks.tasks.task import Batch

THINGS = 5
SWAP, TURN = (1, 0, *range(2, THINGS)), (*range(1, THINGS), 0)


def draw(key: jax.Array, split: str) -> Batch:
    """One-hot moves; the targets are the things from the first place to the last."""
    moves = jnp.array([SWAP, TURN])
    drawn = jax.random.randint(key, (B, LONG if split == "long" else TRAINED), 0, len(moves))

    def move(things: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        things = jnp.take_along_axis(things, moves[number], axis=-1)
        return things, things

    start = jnp.broadcast_to(jnp.arange(THINGS), (B, THINGS))
    _, things = jax.lax.scan(move, start, drawn.T)
    return Batch(jax.nn.one_hot(drawn, len(moves)), things.swapaxes(0, 1))


TASK = running(
    name="permutations",
    what=f"""{THINGS} things in a row; each step swaps the first two or moves the first behind the last, from which all
    120 orders come. An answer is right where all {THINGS} places are.""",
    draw=draw,
    outputs=THINGS**2,
    chance=1 / 120,
    steps=4000,
    rate=5e-3,
    shape=lambda ys: ys.reshape(*ys.shape[:-1], THINGS, THINGS),
)
