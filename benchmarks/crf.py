"""A training step of a linear-chain CRF: `recurrax.losses.crf` and pytorch-crf, in turn.

Run `python -m benchmarks.crf --cores 1`. A step is the mean negative log-likelihood of a batch and its gradients for
the emissions and all parameters. Each contender has its own process, and both get the same numbers. They take turns in
rounds of alternating order, and one works at a time. A ratio is recurrax's time over pytorch-crf's in the same round:
below 1, recurrax is faster. The median of the rounds and their quartiles are reported.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import quiet
from benchmarks.speed.race import PAUSE

# B, T and L: the first is the case that `recurrax` promises.
SHAPES = ((32, 128, 32), (32, 128, 9), (1, 512, 32), (128, 64, 32), (32, 128, 128))


def data(shape: tuple[int, int, int], ragged: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Emissions `[B, T, L]`, labels `[B, T]`, and lengths `[B]`: T, or from T down to T/5 if ragged."""
    rows, steps, size = shape
    rng = np.random.default_rng(0)
    lengths = np.linspace(steps, steps // 5 if ragged else steps, rows).astype(np.int32)
    return rng.standard_normal(shape, np.float32), rng.integers(0, size, (rows, steps)), lengths


def recurrax_step(shape: tuple[int, int, int], ragged: bool) -> Callable[[], float]:
    """A step in recurrax; it returns the loss, once everything is computed."""
    import jax

    from recurrax.losses import crf

    emissions, labels, lengths = jax.tree.map(jax.numpy.asarray, data(shape, ragged))
    params = jax.tree.map(jax.numpy.zeros_like, crf.init(jax.random.key(0), shape[-1]))
    options = {"lengths": lengths} if ragged else {}

    @jax.jit
    def step(params: crf.CRFParams, emissions: jax.Array) -> Any:
        loss = lambda *args: -crf.log_likelihood(*args, labels, **options).mean()  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(params, emissions)

    return lambda: jax.block_until_ready(step(params, emissions))[0].item()


def torch_step(shape: tuple[int, int, int], ragged: bool) -> Callable[[], float]:
    """The same step in pytorch-crf."""
    import torch
    import torchcrf

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    emissions, labels, lengths = data(shape, ragged)
    model = torchcrf.CRF(shape[-1], batch_first=True)
    for parameter in model.parameters():
        parameter.data.zero_()
    inputs, tags = torch.tensor(emissions, requires_grad=True), torch.tensor(labels)
    mask = torch.tensor(np.arange(shape[1]) < lengths[:, None])

    def step() -> float:
        model.zero_grad()
        inputs.grad = None
        loss = -model(inputs, tags, mask=mask, reduction="mean")
        loss.backward()
        return loss.item()

    return step


CONTENDERS = {"recurrax": recurrax_step, "pytorch-crf": torch_step}


def serve(pipe: Any, name: str, shape: tuple[int, int, int], ragged: bool, seconds: float) -> None:
    """A contender's process: it prepares, then takes a turn at each request and answers with seconds a step."""
    step = CONTENDERS[name](shape, ragged)
    losses = [step() for _ in range(3)]
    began = time.perf_counter()
    step()
    calls = max(1, round(seconds / (time.perf_counter() - began)))
    pipe.send(losses[0])
    while pipe.recv():
        began = time.perf_counter()
        for _ in range(calls):
            step()
        pipe.send((time.perf_counter() - began) / calls)


def race(shape: tuple[int, int, int], ragged: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """The figures of one shape."""
    spawn, pipes, processes, losses = multiprocessing.get_context("spawn"), {}, [], {}
    for name in CONTENDERS:
        pipes[name], theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs, name, shape, ragged, seconds), daemon=True)
        process.start()
        theirs.close()  # So that a contender that dies is noticed at once.
        processes.append(process)
        losses[name] = pipes[name].recv()
    np.testing.assert_allclose(*losses.values(), rtol=1e-4, err_msg="the contenders compute different losses")
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in list(CONTENDERS)[:: -1 if number % 2 else 1]:
            time.sleep(PAUSE)
            pipes[name].send(True)
            taken[name].append(pipes[name].recv())
    for name, process in zip(CONTENDERS, processes, strict=True):
        pipes[name].send(False)
        process.join()
    ratios = [a / b for a, b in zip(*taken.values(), strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    result = {"shape": shape, "ragged": ragged, "ratio": middle, "quartiles": (low, high), "ratios": ratios}
    return result | {name: statistics.median(seconds) for name, seconds in taken.items()}


def shape_of(text: str) -> tuple[int, ...]:
    """B, T and L of a text such as `32x128x32`."""
    return tuple(map(int, text.split("x")))


def main() -> None:
    """Measures one shape after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crf", description=__doc__)
    parser.add_argument("--cores", type=int, help="how many cores everyone has; default all")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contender; default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn; default %(default)s")
    parser.add_argument("--shapes", nargs="+", type=shape_of, default=SHAPES, metavar="BxTxL")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "crf.json")
    quiet.add_option(parser)
    options, console, rows = parser.parse_args(), Console(), []
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, for quartiles; got {options.rounds}")
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # Children inherit it.
    watch = quiet.Watch(options.busy)
    table = Table("B×T×L", "recurrax, ms", "pytorch-crf, ms", "ratio", "quartiles", title="a training step")
    for shape in options.shapes:
        for ragged in (False, True):
            name = "×".join(map(str, shape)) + (" ragged" if ragged else "")
            with console.status(name):
                row = race(shape, ragged, options.rounds, options.seconds)
            rows.append(row)
            times = [f"{1000 * row[contender]:.2f}" for contender in CONTENDERS]
            table.add_row(name, *times, f"{row['ratio']:.3f}", "{:.3f} to {:.3f}".format(*row["quartiles"]))
            cores = len(os.sched_getaffinity(0))
            options.out.parent.mkdir(parents=True, exist_ok=True)
            result = {"cores": cores, "machine": watch.verdict(), "rows": rows}
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    console.print(table)


if __name__ == "__main__":
    main()
