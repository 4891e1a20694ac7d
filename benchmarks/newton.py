"""How many Newton iterations a trajectory takes, and how long, against the loop that takes one step after another.

Run `python -m benchmarks.newton`. Every cell is taken as it is drawn and after training on a task that needs a memory:
keep the sign of the last input that was large. Both go forward over one row; the time is the least of alternating
rounds, since other programs only make it longer. `results/newton.json` is written after every case,
`results/newton.md` at the end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.progress import track

import recurrax as rx
from benchmarks import quiet

RESULTS = Path(__file__).parent / "results"
CELLS = {
    "Elman": rx.ElmanCell,
    "GRU": rx.GRUCell,
    "LSTM": rx.LSTMCell,
    "IndRNN": rx.IndRNNCell,
    "diagonal GRU": rx.DiagonalGRUCell,
    "diagonal LSTM": rx.DiagonalLSTMCell,
}
MODES = {
    "full": rx.experimental.Newton("full"),
    "diagonal": rx.experimental.Newton("diagonal"),
    "diagonal, damped": rx.experimental.Newton("diagonal", damping=0.1),
}
THRESHOLD = 1.5


def inputs(key: jax.Array, rows: int, steps: int) -> tuple[jax.Array, jax.Array]:
    """Noise, and the sign of the last of it that was beyond the threshold."""
    xs = jax.random.normal(key, (rows, steps))
    large = jnp.where(jnp.abs(xs) > THRESHOLD, jnp.arange(steps), 0)
    last = jax.lax.cummax(large, axis=1)
    return xs[..., None], jnp.sign(jnp.take_along_axis(xs, last, axis=1))


def trained(cell: rx.Cell, params: Any, updates: int) -> tuple[Any, float]:
    """The parameters after training, and the loss, which is 1 for an output of zero."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    readout = jax.random.normal(jax.random.key(3), (cell.hidden_size,)) / cell.hidden_size

    def loss(everything: Any, key: jax.Array) -> jax.Array:
        xs, wanted = inputs(key, 32, 128)
        return jnp.mean((rx.scan(cell, everything[0], xs)[1] @ everything[1] - wanted) ** 2)

    def train_step(learner: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        everything, state = learner
        value, grads = jax.value_and_grad(loss)(everything, key)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(everything, updates), state), value

    @jax.jit
    def train(everything: Any) -> Any:
        keys = jax.random.split(jax.random.key(4), updates)
        return jax.lax.scan(train_step, (everything, optimizer.init(everything)), keys)

    ((params, _), _), values = train((params, readout))
    return params, float(values[-20:].mean())


def seconds(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
    """The least time of each compiled call, in turn; those that take long have fewer rounds."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if not taken[name] or sum(taken[name]) < 5:
                began = time.perf_counter()
                jax.block_until_ready(call())
                taken[name].append(time.perf_counter() - began)
    return {name: min(times) for name, times in taken.items()}


def case(
    cell: rx.Cell, params: Any, newton: rx.experimental.Newton, steps: int, rounds: int, limit: int
) -> dict[str, Any]:
    """One line of the table."""
    newton = rx.experimental.Newton(newton.jacobian, newton.damping, max_iterations=min(limit, steps))
    xs = inputs(jax.random.key(7), 1, steps)[0]
    run = {
        name: jax.jit(lambda params, xs, name=name, i=i: rx.scan(cell, params, xs, implementation=i)[1])
        for name, i in {"newton": newton, "loop": "xla"}.items()
    }
    report = jax.jit(lambda params, xs: rx.experimental.newton_report(cell, params, xs, newton=newton))(params, xs)
    solved = bool(report.converged.all())
    error = jnp.abs(run["newton"](params, xs) - run["loop"](params, xs)).max()
    return {
        "iterations": int(report.iterations.max()),
        "converged": solved,
        "error": float(error) if solved else None,
        **{
            f"{k}_seconds": v
            for k, v in seconds({k: lambda f=f: f(params, xs) for k, f in run.items()}, rounds).items()
        },
    }


def table(result: dict[str, Any]) -> str:
    """All cases in Markdown, the lengths beside each other."""
    lengths = result["lengths"]
    head = ["cell", "parameters", "Jacobian", *(f"T = {steps}" for steps in lengths)]
    found: dict[tuple, dict[int, dict]] = {}
    for row in result["rows"]:
        found.setdefault((row["cell"], row["parameters"], row["jacobian"]), {})[row["steps"]] = row

    def lines(title: str, show: Callable[[dict], str]) -> list[str]:
        body = [
            "| " + " | ".join([*key, *(show(rows[s]) if s in rows else "–" for s in lengths)]) + " |"
            for key, rows in found.items()
        ]
        return [f"## {title}", "", "| " + " | ".join(head) + " |", "|---" * 3 + "|---:" * len(lengths) + "|", *body, ""]

    many = lambda row: f"{row['iterations']}" if row["converged"] else f"> {row['iterations']}"  # noqa: E731
    ratio = lambda row: f"{row['newton_seconds'] / row['loop_seconds']:.3g}"  # noqa: E731
    about = (
        f"H = {result['hidden_size']}, one row, forward, float32, on {result['device']} ({result['cores']} cores), "
        f"jax {result['jax']}, {result['date']}."
    )
    losses = ", ".join(f"{name} {loss:.2f}" for name, loss in result["losses"].items())
    return "\n".join(
        [
            "# Newton iterations\n",
            f"{about}\n",
            f"Losses of the trained cells (1 before): {losses}.\n",
            *lines("Iterations", many),
            *lines("Time, of that of the loop", ratio),
        ]
    )


def main() -> None:
    """Goes through all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-size", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--updates", type=int, default=1000, help="of training")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=200, help="the most iterations")
    parser.add_argument("--out", type=Path, default=RESULTS / "newton.json")
    quiet.add_option(parser)
    args = parser.parse_args()
    watch = quiet.Watch(args.busy)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax": jax.__version__,
        **{name: getattr(args, name) for name in ("hidden_size", "lengths", "updates", "limit")},
        "losses": {},
        "rows": [],
    }
    args.out.parent.mkdir(exist_ok=True)
    cases = [
        (name, kind, mode, steps)
        for name in args.cells
        for kind in ("drawn", "trained")
        for mode in (["full"] if CELLS[name].independent_units else MODES)
        for steps in args.lengths
    ]
    drawn = {name: CELLS[name](args.hidden_size).init(jax.random.key(0), 1) for name in args.cells}
    params: dict[tuple[str, str], Any] = {(name, "drawn"): p for name, p in drawn.items()}
    for name, kind, mode, steps in track(cases, "Newton"):
        cell = CELLS[name](args.hidden_size)
        if (name, kind) not in params:
            params[name, kind], result["losses"][name] = trained(cell, drawn[name], args.updates)
        row = case(cell, params[name, kind], MODES[mode], steps, args.rounds, args.limit)
        mode = "by units" if cell.independent_units else mode
        result["rows"].append({"cell": name, "parameters": kind, "jacobian": mode, "steps": steps, **row})
        result["machine"] = watch.verdict()
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
