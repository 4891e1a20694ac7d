"""Swaps: which of five things is where, after each swap of two; the word problem of the symmetric group S5."""

import itertools

import jax
import jax.numpy as jnp

from benchmarks.tasks.problems._tracking import LONG, TRAINED, B, running
from benchmarks.tasks.task import Batch

THINGS = 5
PAIRS = list(itertools.combinations(range(THINGS), 2))


def draw(key: jax.Array, split: str) -> Batch:
    """One-hot swaps, or none; the targets are the things from the first place to the last."""
    swaps = [tuple({a: b, b: a}.get(i, i) for i in range(THINGS)) for a, b in PAIRS]
    table = jnp.array([*swaps, tuple(range(THINGS))])
    drawn = jax.random.randint(key, (B, LONG if split == "long" else TRAINED), 0, len(table))

    def swap(things: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        things = jnp.take_along_axis(things, table[number], axis=-1)
        return things, things

    start = jnp.broadcast_to(jnp.arange(THINGS), (B, THINGS))
    _, things = jax.lax.scan(swap, start, drawn.T)
    return Batch(jax.nn.one_hot(drawn, len(table)), things.swapaxes(0, 1))


TASK = running(
    name="swaps",
    what=f"""{THINGS} things, of which each step swaps those at two places, or none; which is where? An answer is right
    where all {THINGS} are.""",
    draw=draw,
    outputs=THINGS**2,
    chance=1 / 120,
    steps=1500,
    shape=lambda ys: ys.reshape(*ys.shape[:-1], THINGS, THINGS),
)
