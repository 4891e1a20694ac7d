"""What it costs to call one step after another from Python: microseconds a step, against a bare jitted function.

Run `python -m benchmarks.dispatch`. An LSTM takes `--steps` steps at batch 1, the state carried. All contenders take
turns within one process. The figure of a contender is the median over rounds, and so is its ratio to `bare` in the
same round.

Called from Python, once a step:

- `nothing`: a jitted function of the same arguments that returns the state and the input. This is dispatch alone.
- `bare`: a jitted step that is written by hand.
- `jitted step`: `recurrax.step` under `jax.jit`.
- `step`: `recurrax.step` without `jax.jit`. It checks its arguments at each call.
- `nnx step`: the method `step` of `recurrax.nnx.Recurrent`, without `jax.jit`.
- `nnx jitted`: the same under `nnx.jit`, which hands the parameters over at each call.

In one call for all steps, under `jax.jit`:

- `bare loop`: a `lax.scan` of the step that is written by hand.
- `loop of steps`: a `lax.scan` of `recurrax.step`.
- `scan`: `recurrax.scan`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from rich.console import Console
from rich.table import Table

import recurrax
from benchmarks import quiet
from benchmarks.speed.race import ratios
from recurrax.cells import LSTMParams, LSTMState
from recurrax.nnx import Recurrent

Taken = tuple[LSTMState, jax.Array]


def by_hand(params: LSTMParams, x: jax.Array, state: LSTMState) -> Taken:
    """A step of an LSTM without a library."""
    z = x @ params.kernel + state.h @ params.recurrent_kernel + params.bias
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMState(h, c), h


def contenders(input_size: int, hidden_size: int, steps: int) -> dict[str, Callable[[], Any]]:
    """One call of each takes all steps."""
    cell = recurrax.LSTMCell(hidden_size)
    params = cell.init(jax.random.key(0), input_size)
    state, x = cell.initial_state((1,)), jnp.ones((1, input_size))
    module = Recurrent(cell, input_size, rngs=nnx.Rngs(0))

    def of_library(params: LSTMParams, x: jax.Array, state: LSTMState) -> Taken:
        return recurrax.step(cell, params, x, state)

    def of_module(module: Recurrent, x: jax.Array, state: LSTMState) -> tuple[jax.Array, LSTMState]:
        return module.step(x, state)

    def nothing(params: LSTMParams, x: jax.Array, state: LSTMState) -> Taken:
        return state, x

    def called(function: Callable[..., Taken]) -> Callable[[], Any]:
        def run() -> Any:
            now = state
            for _ in range(steps):
                now, y = function(params, x, now)
            return jax.block_until_ready(y)

        return run

    def called_module(function: Callable[..., Any]) -> Callable[[], Any]:
        def run() -> Any:
            now = state
            for _ in range(steps):
                y, now = function(module, x, now)
            return jax.block_until_ready(y)

        return run

    def looped(function: Callable[..., Taken]) -> Callable[[], Any]:
        @jax.jit
        def loop(params: LSTMParams, xs: jax.Array, state: LSTMState) -> Taken:
            return lax.scan(lambda now, x: function(params, x, now), state, xs)

        xs = jnp.ones((steps, 1, input_size))
        return lambda: jax.block_until_ready(loop(params, xs, state))

    @jax.jit
    def scanned(params: LSTMParams, xs: jax.Array, state: LSTMState) -> Taken:
        return recurrax.scan(cell, params, xs, state, time_major=True)

    xs = jnp.ones((steps, 1, input_size))
    return {
        "nothing": called(jax.jit(nothing)),
        "bare": called(jax.jit(by_hand)),
        "jitted step": called(jax.jit(of_library)),
        "step": called(of_library),
        "nnx step": called_module(of_module),
        "nnx jitted": called_module(nnx.jit(of_module)),
        "bare loop": looped(by_hand),
        "loop of steps": looped(of_library),
        "scan": lambda: jax.block_until_ready(scanned(params, xs, state)),
    }


def main() -> None:
    """Measures in turns, prints the table and keeps the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="a turn (default %(default)s)")
    parser.add_argument("--input-size", type=int, default=64, help="default %(default)s")
    parser.add_argument("--hidden-size", type=int, default=128, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dispatch.json")
    quiet.add_option(parser)
    options = parser.parse_args()
    watch = quiet.Watch(options.busy)
    runs = contenders(options.input_size, options.hidden_size, options.steps)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(options.rounds + 1):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            runs[name]()
            if turn:  # The first one compiles.
                seconds[name].append((time.perf_counter() - start) / options.steps)
    rows = []
    table = Table("", "µs a step", "over bare", "quartiles")
    for name, times in seconds.items():
        row: dict[str, Any] = {"contender": name, "microseconds": 1e6 * statistics.median(times)}
        row |= ratios("ratio", times, seconds["bare"])
        rows.append(row)
        quartiles = row.get("ratio_quartiles", (row["ratio"],) * 2)
        table.add_row(name, f"{row['microseconds']:.1f}", f"{row['ratio']:.2f}", "{:.2f} to {:.2f}".format(*quartiles))
    Console().print(table)
    size = {"input_size": options.input_size, "hidden_size": options.hidden_size, "steps": options.steps}
    result = {"platform": jax.default_backend(), "jax": jax.__version__, "cores": quiet.own_cores(), **size}
    result |= {"machine": watch.verdict(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
