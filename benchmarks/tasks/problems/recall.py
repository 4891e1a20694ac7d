"""Associative recall: keys with values, then the keys again in another order, each asking for its value."""

import jax
import jax.numpy as jnp

from benchmarks.tasks.problems._tracking import CONTENDERS, B, accuracy, cross_entropy
from benchmarks.tasks.task import Batch, Claim, Measure, Task

KEYS, VALUES, TRAINED, LONG = 24, 8, 6, 12
SHORT_ACCURACY, LONG_ACCURACY = f"accuracy for {TRAINED}", f"accuracy for {LONG}"


def draw(key: jax.Array, split: str) -> Batch:
    """One-hot keys and values by turns, then keys."""
    keys_key, values_key, order_key = jax.random.split(key, 3)
    pairs = LONG if split == "long" else TRAINED
    keys = jax.random.uniform(keys_key, (B, KEYS)).argsort(-1)[:, :pairs]
    values = jax.random.randint(values_key, (B, pairs), 0, VALUES)
    order = jax.random.uniform(order_key, (B, pairs)).argsort(-1)
    asked, answers = (jnp.take_along_axis(a, order, axis=-1) for a in (keys, values))
    told = jnp.stack([keys, KEYS + values], axis=-1).reshape(B, 2 * pairs)
    xs = jnp.concatenate([told, asked], axis=-1)
    return Batch(jax.nn.one_hot(xs, KEYS + VALUES), jnp.concatenate([jnp.full_like(told, -1), answers], axis=-1))


TASK = Task(
    name="recall",
    what=f"""{TRAINED} of {KEYS} keys, each followed by one of {VALUES} values; then each key again, and its value is
    asked for. Tested on {LONG} keys as well. Chance is {1 / VALUES:.3f}.""",
    draw=draw,
    outputs=VALUES,
    loss=cross_entropy,
    measures={
        SHORT_ACCURACY: Measure(accuracy, higher_is_better=True, solved=0.95),
        LONG_ACCURACY: Measure(accuracy, "long", higher_is_better=True),
    },
    contenders=CONTENDERS,
    claims=(
        Claim(
            "The mLSTM, which stores values under keys, solves it (Beck et al. 2024).",
            lambda s: s.solved("mLSTM in blocks"),
        ),
        Claim(
            "It does better than linear cells whose state is a vector (Arora et al. 2023).",
            lambda seen: all(
                seen.median("mLSTM in blocks", SHORT_ACCURACY) > seen.median(f"{name} in blocks", SHORT_ACCURACY)
                for name in ("MinGRU", "LRU", "RG-LRU")
            ),
        ),
        Claim(
            "Linear recurrences whose gates see the input do better than the LRU, whose decay does not (Arora et al. "
            "2023).",
            lambda seen: all(
                seen.median("LRU in blocks", SHORT_ACCURACY) < seen.median(f"{name} in blocks", SHORT_ACCURACY)
                for name in ("MinGRU", "RG-LRU")
            ),
        ),
    ),
    steps=5000,
    rates=(3e-3,),
)
