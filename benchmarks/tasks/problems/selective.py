"""Selective copying: symbols among noise; then the symbols alone."""

import jax
import jax.numpy as jnp

from benchmarks.tasks.problems._tracking import CONTENDERS, B, accuracy, cross_entropy
from benchmarks.tasks.task import Batch, Claim, Measure, Task

SYMBOLS, LENGTH, TRAINED, LONG = 8, 4, 24, 72
NOISE, SIGNAL = SYMBOLS, SYMBOLS + 1
SHORT_ACCURACY, LONG_ACCURACY = f"accuracy at {TRAINED}", f"accuracy at {LONG}"


def draw(key: jax.Array, split: str) -> Batch:
    """One-hot symbols at random places, then a signal for each."""
    symbols_key, places_key = jax.random.split(key)
    T = LONG if split == "long" else TRAINED
    symbols = jax.random.randint(symbols_key, (B, LENGTH), 0, SYMBOLS)
    places = jnp.sort(jax.random.uniform(places_key, (B, T)).argsort(-1)[:, :LENGTH], axis=-1)
    xs = jnp.full((B, T + LENGTH), NOISE).at[:, T:].set(SIGNAL).at[jnp.arange(B)[:, None], places].set(symbols)
    return Batch(jax.nn.one_hot(xs, SYMBOLS + 2), jnp.full((B, T + LENGTH), -1).at[:, T:].set(symbols))


TASK = Task(
    name="selective copying",
    what=f"""{LENGTH} symbols of {SYMBOLS} at random among {TRAINED} steps, the rest of which are noise; then they are
    to be repeated. Tested on as many among {LONG} as well. Chance is {1 / SYMBOLS:.3f}.""",
    draw=draw,
    outputs=SYMBOLS,
    loss=cross_entropy,
    measures={
        SHORT_ACCURACY: Measure(accuracy, higher_is_better=True, solved=0.95),
        LONG_ACCURACY: Measure(accuracy, "long", higher_is_better=True),
    },
    contenders=CONTENDERS,
    claims=(
        Claim(
            "Linear recurrences whose gates see the input solve it (Gu and Dao 2023).",
            lambda seen: seen.solved("MinGRU in blocks", "RG-LRU in blocks", "mLSTM in blocks"),
        ),
        Claim(
            "One whose decay does not see it, the LRU, does less well than any of them (Gu and Dao 2023).",
            lambda seen: all(
                seen.median("LRU in blocks", SHORT_ACCURACY) < seen.median(f"{name} in blocks", SHORT_ACCURACY)
                for name in ("MinGRU", "RG-LRU", "mLSTM")
            ),
        ),
        Claim("The LSTM solves it too.", lambda seen: seen.solved("LSTM")),
    ),
    steps=4000,
    rates=(3e-3,),
)
