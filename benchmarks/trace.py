"""What `recurrax.trace` costs beside the plain forward pass, in one process, in turns.

Run `python -m benchmarks.trace`. A round runs each contender once, and the order turns with the round. The figure is
the median of the ratios within the rounds, with their quartiles.

- `scan`: outputs and the final state.
- `states`: a program that takes the states of every step from `trace`.
- `gates`: a program that takes states and gates.
- `trace`: all results of `trace`: states, gates and pre-activations of every step.
- `loop by hand`: what people write to look at gates: a `lax.scan` whose steps return gates and pre-activations.
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
from rich.console import Console
from rich.table import Table

import recurrax

CELLS = {"LSTM": recurrax.LSTMCell, "GRU": recurrax.GRUCell}


def by_hand(cell: recurrax.AffineCell, params: Any, xs: jax.Array) -> Any:
    """Outputs, states and gates from one loop, with the inputs projected before it."""
    zs = jnp.moveaxis(cell.project_inputs(params, xs), 1, 0)  # [T, B, G*H]

    def body(state: Any, z: jax.Array) -> tuple[Any, Any]:
        a = cell.step_preactivations(params, state, z)
        others = cell.other_params(params)
        gates = cell.pointwise_gates(others, a, state)
        state, y = cell.pointwise(others, a, state)
        return state, (y, state, gates)

    state, kept = jax.lax.scan(body, cell.initial_state(xs.shape[:1]), zs)
    return state, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), kept)


def contenders(cell: recurrax.AffineCell, params: Any, xs: jax.Array) -> dict[str, Callable]:
    """One call of each runs the cell over the sequences."""

    def states(params: Any, xs: jax.Array) -> Any:
        trace = recurrax.trace(cell, params, xs)
        return trace.state, trace.ys, trace.states

    def gates(params: Any, xs: jax.Array) -> Any:
        trace = recurrax.trace(cell, params, xs)
        return trace.state, trace.ys, trace.states, trace.gates

    runs = {
        "scan": jax.jit(lambda params, xs: recurrax.scan(cell, params, xs)),
        "states": jax.jit(states),
        "gates": jax.jit(gates),
        "trace": jax.jit(lambda params, xs: recurrax.trace(cell, params, xs)),
        "loop by hand": jax.jit(lambda params, xs: by_hand(cell, params, xs)),
    }
    return {name: lambda run=run: jax.block_until_ready(run(params, xs)) for name, run in runs.items()}


def measure(runs: dict[str, Callable], rounds: int, repeats: int) -> dict[str, list[float]]:
    """The seconds of a call of each contender, by round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # The first call compiles.
    order = list(runs)
    for turn in range(rounds):
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            start = time.perf_counter()
            for _ in range(repeats):
                runs[name]()
            seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def main() -> None:
    """Measures in turns, prints the table and keeps the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs=4, default=[100, 20, 200, 200], help="T B I H (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="default %(default)s")
    parser.add_argument("--repeats", type=int, default=2, help="calls of a contender in a round (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "trace.json")
    options = parser.parse_args()
    steps, rows, features, units = options.sizes
    xs = jax.random.normal(jax.random.key(0), (rows, steps, features))
    table = Table("cell", "", "milliseconds", "ratio to scan", "quartiles")
    lines = []
    for name, kind in CELLS.items():
        cell = kind(units)
        params = cell.init(jax.random.key(1), features)
        seconds = measure(contenders(cell, params, xs), options.rounds, options.repeats)
        for contender, times in seconds.items():
            ratios = [a / b for a, b in zip(times, seconds["scan"], strict=True)]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            milliseconds = 1000 * statistics.median(times)
            table.add_row(name, contender, f"{milliseconds:.2f}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}")
            figures = {"milliseconds": milliseconds, "ratio": ratio, "quartiles": [low, high]}
            lines.append({"cell": name, "contender": contender, **figures})
    Console().print(table)
    result = {"platform": jax.default_backend(), "jax": jax.__version__, "sizes": options.sizes, "rows": lines}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
