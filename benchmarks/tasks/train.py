"""Trains one contender on one task: every seed with every learning rate, in one compiled program."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

import recurrax
from benchmarks.tasks.task import Batch, Contender, Task

CHECKPOINTS = 20
EVALUATION_BATCHES = 8
VALIDATION, TEST = 0, 1


class Run(NamedTuple):
    """One training run: a seed with a learning rate."""

    seed: jax.Array
    rate: jax.Array
    params: Any
    opt_state: Any
    step: jax.Array


def train(task: Task, contender: Contender, seeds: int, steps: int, told: Callable[[float], None]) -> dict[str, Any]:
    """Trains and measures; returns a row of results.

    Args:
        task: the task.
        contender: who is to learn it.
        seeds: the number of seeds, each with its own parameters and its own data.
        steps: the number of updates.
        told: is told the share of the work that is done.

    Returns:
        The measures of each seed on test draws, at the learning rate whose median over seeds is the best by the task's
        first measure on validation draws.
    """
    rates, began = contender.rates or task.rates, time.perf_counter()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    every = max(1, steps // CHECKPOINTS)
    grid = [(rate, seed) for rate in rates for seed in range(seeds)]
    spread = functools.partial(_spread, runs=len(grid))
    advance = spread(functools.partial(_advance, task, contender, optimizer, every, steps))
    evaluate = spread(functools.partial(_evaluate, task, contender))
    rate, seed = (jnp.array(column) for column in zip(*grid, strict=True))
    runs = spread(functools.partial(_start, task, contender, optimizer))((seed, rate))
    curves: dict[str, list[np.ndarray]] = {name: [] for name in task.measures}
    for done in range(every, steps + 1, every):
        runs = advance(runs)
        for name, figures in evaluate(runs).items():
            curves[name].append(np.asarray(figures))
        told(done / steps)
    # By measure: [checkpoint, validation or test, rate, seed].
    shape = (-1, len(rates), seeds, 2)
    stacked = {name: np.moveaxis(np.stack(curve).reshape(shape), -1, 1) for name, curve in curves.items()}
    chosen = _best_rate(task, stacked)
    return {
        "parameters": sum(leaf[0].size for leaf in jax.tree.leaves(runs.params)),
        "steps": steps,
        "every": every,
        "rate": rates[chosen],
        "rates": list(rates),
        **_figures(task, {name: curve[:, :, chosen] for name, curve in stacked.items()}, every),
        "seconds": time.perf_counter() - began,
    }


def _spread(f: Callable, runs: int) -> Callable:
    """`f` for every run: on each device its share, one after another, which on a CPU takes no longer than `vmap`."""
    devices = min(runs, jax.device_count())
    idle = -runs % devices  # runs that are there to give every device as many
    mesh = jax.make_mesh((devices,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,))
    each = jax.shard_map(
        functools.partial(jax.lax.map, f),
        mesh=mesh,
        in_specs=PartitionSpec("runs"),
        out_specs=PartitionSpec("runs"),
        check_vma=False,
    )

    @jax.jit
    def spread(args: Any) -> Any:
        filled = jax.tree.map(lambda a: jnp.concatenate([a, *[a[-1:]] * idle]), args)
        return jax.tree.map(lambda a: a[:runs], each(filled))

    return spread


def _start(task: Task, contender: Contender, optimizer: Any, which: tuple[jax.Array, jax.Array]) -> Run:
    seed, rate = which
    layer_key, readout_key = jax.random.split(jax.random.fold_in(jax.random.key(0), seed))
    xs = contender.view(task.draw(layer_key, "train").xs)
    size = jax.tree.leaves(xs)[0].shape[-1]
    shape = (contender.layer.output_size(size), contender.outputs or task.outputs)
    params = {
        "layer": contender.layer.init(layer_key, size),
        "readout": (recurrax.initializers.glorot_uniform(readout_key, shape), jnp.zeros(shape[1])),
    }
    return Run(seed, rate, params, optimizer.init(params), jnp.zeros((), jnp.int32))


def _outputs(contender: Contender, params: Any, batch: Batch, key: jax.Array | None) -> jax.Array:
    xs = contender.view(batch.xs)
    _, ys = recurrax.scan(contender.layer, params["layer"], xs, lengths=batch.lengths, key=key)
    kernel, bias = params["readout"]
    return contender.shape(ys @ kernel + bias)


def _advance(task: Task, contender: Contender, optimizer: Any, every: int, steps: int, run: Run) -> Run:
    """`every` updates of Adam, the gradient's norm clipped to 1: linear warm-up, then a cosine down to a tenth."""
    warmup = max(1, steps // 20)

    def loss_of(params: Any, data_key: jax.Array, noise_key: jax.Array) -> jax.Array:
        batch = task.draw(data_key, "train")
        return task.loss(_outputs(contender, params, batch, noise_key), batch)

    def train_step(run: Run, _: None) -> tuple[Run, None]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), run.seed), run.step)
        grads = jax.grad(loss_of)(run.params, *jax.random.split(key))
        updates, opt_state = optimizer.update(grads, run.opt_state)
        progress = jnp.clip((run.step - warmup) / max(1, steps - warmup), 0, 1)
        cosine = 0.1 + 0.9 * (1 + jnp.cos(jnp.pi * progress)) / 2
        rate = run.rate * jnp.minimum((run.step + 1) / warmup, cosine)
        params = jax.tree.map(lambda p, u: p - rate * u, run.params, updates)
        params["layer"] = contender.constrain(params["layer"])
        return run._replace(params=params, opt_state=opt_state, step=run.step + 1), None

    return jax.lax.scan(train_step, run, length=every)[0]


def _evaluate(task: Task, contender: Contender, run: Run) -> dict[str, jax.Array]:
    """Each measure on validation and test draws, which are the same for all."""

    def at(key: jax.Array) -> dict[str, jax.Array]:
        batches = {split: task.draw(key, split) for split in {m.split: None for m in task.measures.values()}}
        outputs = {split: _outputs(contender, run.params, batch, None) for split, batch in batches.items()}
        return {name: m.of(outputs[m.split], batches[m.split]) for name, m in task.measures.items()}

    keys = jax.random.split(jax.random.key(2), (2, EVALUATION_BATCHES))
    return jax.tree.map(lambda figures: figures.mean(1), jax.lax.map(lambda k: jax.lax.map(at, k), keys))


def _best_rate(task: Task, curves: dict[str, np.ndarray]) -> int:
    """By the median at the end; among equals by the mean along the way."""
    name, measure = next(iter(task.measures.items()))
    curve = np.nan_to_num((-1 if measure.higher_is_better else 1) * curves[name][:, VALIDATION], nan=np.inf)
    if measure.stopped_early:
        curve = np.minimum.accumulate(curve)
    median, mean = np.median(curve[-1], axis=-1), np.median(curve.mean(0), axis=-1)
    return min(range(len(median)), key=lambda rate: (median[rate], mean[rate]))


def _figures(task: Task, curves: dict[str, np.ndarray], every: int) -> dict[str, Any]:
    """What is reported, from each measure's `[checkpoint, validation or test, seed]`."""
    first, measure = next(iter(task.measures.items()))
    sign = -1 if measure.higher_is_better else 1
    best = np.argmin(np.nan_to_num(sign * curves[first][:, VALIDATION], nan=np.inf), axis=0)
    seeds = range(len(best))
    measures = {
        name: [float(curves[name][best[seed] if m.stopped_early else -1, TEST, seed]) for seed in seeds]
        for name, m in task.measures.items()
    }

    def solved(figures: dict[str, float]) -> bool:
        return all(m.reached(figures[name]) for name, m in task.measures.items())

    def solved_at(seed: int) -> int | None:
        checkpoints = range(len(curves[first]))
        done = (i for i in checkpoints if solved({name: curves[name][i, VALIDATION, seed] for name in curves}))
        return next(((i + 1) * every for i in done), None)

    asked = any(m.solved is not None for m in task.measures.values())
    return {
        "measures": measures,
        "solved": [solved({name: measures[name][seed] for name in measures}) for seed in seeds] if asked else None,
        "solved_at": [solved_at(seed) for seed in seeds] if asked else None,
        "median_along_the_way": {
            name: [float(statistics.median(point)) for point in curve[:, TEST].tolist()]
            for name, curve in curves.items()
        },
    }
