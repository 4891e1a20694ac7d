"""Linear recurrences against the number of steps: time and temporary memory of every implementation.

Run `python -m benchmarks.linear`. Contenders take turns within one process, since all are JAX; the time is the median
of the rounds, beside it stands the ratio to one of them: for a minGRU a hand-written `lax.associative_scan` whose
derivative is left to JAX, for an mLSTM an LSTM. The memory is that of XLA's own analysis of the compiled program.
Results are written after each length.
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
from jax import lax
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import recurrax
from benchmarks import quiet

B, I, H = 4, 64, 64  # noqa: E741
LENGTHS = tuple(2**n for n in range(8, 17))
BY_HAND = "by hand"


def by_hand(params: Any, xs: jax.Array) -> jax.Array:
    """A minGRU as it is written without a library."""
    z, n = jnp.split(xs @ params.kernel + params.bias, 2, axis=-1)
    a, b = jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * jnp.where(n >= 0, n + 0.5, jax.nn.sigmoid(n))
    return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b), axis=0)[1]


def driven(layer: recurrax.Layer, implementation: Any = None) -> tuple[recurrax.Layer, Callable]:
    """A layer, and how the driver runs it."""
    scan = recurrax.scan
    return layer, lambda params, xs: scan(layer, params, xs, time_major=True, implementation=implementation)[1]


MINGRU, MLSTM = recurrax.MinGRUCell(H), recurrax.MLSTMCell(H, num_heads=4)
LSTM = {"LSTM": driven(recurrax.LSTMCell(H))}  # a classic cell of the same size, for scale
# By what the cells are: who takes part, and in whose time the others' is given.
FAMILIES: dict[str, tuple[dict[str, tuple[recurrax.Layer, Callable]], str]] = {
    "minGRU": (
        {
            **{name: driven(MINGRU, name) for name in ("xla", "sequential", "associative", "blocked")},
            BY_HAND: (MINGRU, by_hand),
            **LSTM,
        },
        BY_HAND,
    ),
    "mLSTM": (
        {
            "xla": driven(MLSTM, "xla"),
            **{f"chunks of {n}": driven(MLSTM, recurrax.implementations.Chunked(n)) for n in (16, 64, 256)},
            **LSTM,
        },
        "LSTM",
    ),
}


def measure(family: str, steps: int, rounds: int, largest: int) -> list[dict[str, Any]]:
    """The rows of one length."""
    contenders, reference = FAMILIES[family]
    xs = jax.random.normal(jax.random.key(1), (steps, B, I))
    rows, programs = [], {}
    for name, (layer, forward) in contenders.items():
        params = layer.init(jax.random.key(0), I)

        def training(params: Any, xs: jax.Array, forward: Callable = forward) -> Any:
            return jax.grad(lambda params, xs: jnp.mean(forward(params, xs) ** 2), (0, 1))(params, xs)

        if name == "LSTM" != reference and steps > largest:
            continue
        for mode, run in {"forward": forward, "training": training}.items():
            programs[name, mode] = jax.jit(run).lower(params, xs).compile(), params
    seconds: dict[tuple[str, str], list[float]] = {which: [] for which in programs}
    for turn in range(rounds + 1):
        for which, (run, params) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(params, xs))
            if turn:  # The first one warms up.
                seconds[which].append(time.perf_counter() - start)
    for (name, mode), (run, _) in programs.items():
        pairs = zip(seconds[name, mode], seconds[reference, mode], strict=True)
        rows.append(
            {
                "cell": family,
                "steps": steps,
                "implementation": name,
                "mode": mode,
                "seconds": statistics.median(seconds[name, mode]),
                "ratio": statistics.median(a / b for a, b in pairs),
                "temporary_mb": run.memory_analysis().temp_size_in_bytes / 1e6,
            }
        )
    return rows


def plot(family: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against the number of steps, both axes logarithmic: a line of slope 1 is linear cost."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    for column, mode in enumerate(("forward", "training")):
        for row, (key, label) in enumerate({"seconds": "seconds", "temporary_mb": "temporary MB"}.items()):
            axes = panels[row, column]
            for name in FAMILIES[family][0]:
                points = [(r["steps"], r[key]) for r in rows if (r["implementation"], r["mode"]) == (name, mode)]
                if points:
                    axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=name)
            axes.set(xlabel="steps", ylabel=label, title=f"{mode}: {label}")
            axes.grid(alpha=0.3)
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures one length after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--cell", choices=FAMILIES, default="minGRU", help="default %(default)s")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--lstm-up-to", type=int, default=16384, help="the longest sequence for the LSTM beside a minGRU"
    )
    parser.add_argument("--out", type=Path, help="default results/linear.json, results/linear_mlstm.json")
    quiet.add_option(parser)
    options, console, rows = parser.parse_args(), Console(), []
    watch = quiet.Watch(options.busy)
    name = "linear" if options.cell == "minGRU" else f"linear_{options.cell.lower()}"
    out = options.out or Path(__file__).parent / "results" / f"{name}.json"
    for steps in options.lengths:
        with console.status(f"{steps} steps"):
            rows += measure(options.cell, steps, options.rounds, options.lstm_up_to)
        result = {"platform": jax.default_backend(), "jax": jax.__version__, "shape": {"B": B, "I": I, "H": H}}
        result["machine"] = watch.verdict()
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n")
        plot(options.cell, rows, out.with_suffix(".png"))
    contenders, reference = FAMILIES[options.cell]
    for mode in ("forward", "training"):
        table = Table("steps", *contenders, title=f"{mode}: time over that of {reference}; temporary MB")
        for steps in options.lengths:
            of = {r["implementation"]: r for r in rows if (r["steps"], r["mode"]) == (steps, mode)}
            cells = [f"{of[n]['ratio']:.2f}; {of[n]['temporary_mb']:.0f}" if n in of else "–" for n in contenders]
            table.add_row(f"{steps:,}", *cells)
        console.print(table)


if __name__ == "__main__":
    main()
