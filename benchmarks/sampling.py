"""Characters per second of `examples.char_lm sample` at batch 1, against two other loops over the same model.

Run `python -m benchmarks.sampling`. All contenders take turns within one process. The figure of a contender is the
median over rounds, and so is its ratio to `generate` in the same round. The weights are as drawn: they do not matter.

- `generate`: `write` of the example, 256 characters a dispatch.
- `dispatched`: the example's way before `generate`: one compiled step a character, dispatched from Python.
- `scan`: a bare `lax.scan` of the model's step in one `jax.jit`. It reads given characters and draws none.
- `drawn scan`: the same scan, closed by hand: each step draws the next character at a temperature.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console
from rich.table import Table

from benchmarks import quiet
from examples.char_lm.config import Config
from examples.char_lm.model import CharLM
from examples.char_lm.sample import write

TEMPERATURE = 0.8


@partial(jax.jit, static_argnames="graphdef")
def next_char(graphdef, leaves, state, char, key, temperature):
    """Reads one character and draws the next one."""
    model = nnx.merge(graphdef, leaves)
    model.eval()
    logits, state = model.step(char, state)  # [V]
    return jax.random.categorical(key, logits / temperature), state


@partial(jax.jit, static_argnames=("graphdef", "length", "draws"))
def one_scan(graphdef, leaves, state, char, key, temperature, length, draws):
    """Takes `length` steps, closed by draws or over given characters."""
    model = nnx.merge(graphdef, leaves)
    model.eval()

    def body(before, t):
        state, char = before
        if not draws:
            # Characters that are known only in the loop: a constant one would be embedded before it.
            char = jnp.full_like(char, t % 32)
        logits, state = model.step(char, state)
        if draws:
            char = jax.random.categorical(jax.random.fold_in(key, t), logits / temperature).astype(char.dtype)
            return (state, char), char
        return (state, char), logits

    return jax.lax.scan(body, (state, char), jnp.arange(length))[1]


def contenders(config: Config, vocabulary: str, length: int) -> dict[str, Callable]:
    """One call of each writes `length` characters."""
    model = CharLM(len(vocabulary), config, rngs=nnx.Rngs(0))
    graphdef, leaves = nnx.split(model)
    key, temperature = jax.random.key(0), jnp.float32(TEMPERATURE)

    def generated() -> str:
        chunks = write(model, vocabulary, length=length, temperature=TEMPERATURE, key=key)
        return "".join(chunk[0] for chunk in chunks)

    def dispatched() -> str:
        state, char, text = model.initial_state(), jnp.int32(0), []
        for i in range(length):
            char, state = next_char(graphdef, leaves, state, char, jax.random.fold_in(key, i), temperature)
            text.append(vocabulary[int(char)])
        return "".join(text)

    def scanned(draws: bool) -> jax.Array:
        state, char = model.initial_state(1), jnp.zeros(1, jnp.int32)
        return one_scan(graphdef, leaves, state, char, key, temperature, length, draws).block_until_ready()

    return {
        "generate": generated,
        "dispatched": dispatched,
        "scan": partial(scanned, draws=False),
        "drawn scan": partial(scanned, draws=True),
    }


def main() -> None:
    """Measures in turns, prints the table and keeps the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--length", type=int, default=2048, help="characters a call (default %(default)s)")
    parser.add_argument("--hidden-size", type=int, default=Config.hidden_size, help="default %(default)s")
    parser.add_argument("--vocabulary", type=int, default=100, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sampling.json")
    quiet.add_option(parser)
    options = parser.parse_args()
    watch = quiet.Watch(options.busy)
    vocabulary = "".join(map(chr, range(32, 32 + options.vocabulary)))
    runs = contenders(Config(hidden_size=options.hidden_size), vocabulary, options.length)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # The first one compiles.
                seconds[name].append(time.perf_counter() - start)
    rows = []
    table = Table("", "characters per second", "generate is faster by")
    for name, times in seconds.items():
        speed = options.length / statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(times, seconds["generate"], strict=True))
        rows.append({"contender": name, "characters_per_second": speed, "ratio": ratio})
        table.add_row(name, f"{speed:,.0f}", f"{ratio:.2f}")
    Console().print(table)
    size = {"hidden_size": options.hidden_size, "vocabulary": options.vocabulary, "length": options.length}
    result = {"platform": jax.default_backend(), "jax": jax.__version__, **size}
    result |= {"machine": watch.verdict(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
