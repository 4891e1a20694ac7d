"""Running sums: of bits modulo 2, which is parity, and of digits modulo 5."""

import jax
import jax.numpy as jnp

from benchmarks.tasks.problems._tracking import LONG, TRAINED, B, running
from benchmarks.tasks.task import Batch, Task


def modulo(number: int, name: str, steps: int) -> Task:
    """The sum so far modulo `number`."""

    def draw(key: jax.Array, split: str) -> Batch:
        digits = jax.random.randint(key, (B, LONG if split == "long" else TRAINED), 0, number)
        return Batch(jax.nn.one_hot(digits, number), jnp.cumsum(digits, axis=-1) % number)

    return running(name, f"Numbers below {number}, and their sum modulo {number}.", draw, number, 1 / number, steps)


TASK = modulo(5, "running sum", steps=5000)
PARITY = modulo(2, "running parity", steps=3000)
