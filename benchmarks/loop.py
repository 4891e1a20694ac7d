"""Time of a training step in the loop of `examples.char_lm`, against the bare compiled step.

Run `python -m benchmarks.loop`. The contenders take turns within one process; figures are medians over rounds. The text
is the source of Python's standard library, and the settings are the defaults, but for the options.

- `bare`: the compiled step of the example. Python dispatches it again and again on one batch that is on the device, and
  waits for the last one alone.
- `loop`: `train` of the example with all that a step needs: windows out of the file, the loss on the screen and in the
  log, and a checkpoint every 50 steps, five times as often as by default. Validations and samples are left out: they
  are other work.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from examples.char_lm import data, train
from examples.char_lm.config import Config
from examples.char_lm.files import LOG, TEXT
from examples.char_lm.lock import Lock
from examples.char_lm.log import read
from examples.char_lm.run import Run

# The first steps compile, and fill caches.
SKIPPED = 10


def bare(config: Config, text: data.Text, corpus: data.Corpus) -> float:
    """Returns the seconds of a step that is dispatched alone."""
    learner = train.Learner(config, len(text.vocabulary))
    windows, first = data.training_windows(corpus.train, 0, config)
    windows, first = jax.device_put(windows), jax.device_put(np.array(first))
    state = learner.first_state()
    for step in range(config.steps):
        if step == SKIPPED:
            jax.block_until_ready(state)
            before = time.perf_counter()
        state, _ = learner.train_step(state, windows, first)
    jax.block_until_ready(state)
    return (time.perf_counter() - before) / (config.steps - SKIPPED)


def loop(config: Config, text: data.Text, corpus: data.Corpus, folder: Path) -> float:
    """Returns the seconds of a step by the log of a training."""
    with open(os.devnull, "w") as nowhere, Lock(folder) as lock:
        Run.clear(folder, overwrite=True)
        # A terminal takes time, so the console behaves as with one.
        console = Console(file=nowhere, force_terminal=True)
        train.train(Run(folder, config, text, lock), corpus, console)
    seconds = [row["seconds"] for row in read(folder / LOG) if "loss" in row]
    return (seconds[-1] - seconds[SKIPPED - 1]) / (config.steps - SKIPPED)


def main() -> None:
    """Measures in turns, prints the table and keeps the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--text", help="default: Python's standard library")
    parser.add_argument("--steps", type=int, default=120, help="steps of a turn, default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--hidden-size", type=int, default=Config.hidden_size, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=Config.batch, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "loop.json")
    options = parser.parse_args()
    # One validation of one window at the end, which is not timed.
    rare = {"eval_every": 10**8, "eval_windows": 1, "sample_every": 10**8, "checkpoint_every": 50, "report": False}
    sizes = {"steps": options.steps, "hidden_size": options.hidden_size, "batch": options.batch}
    config = Config(**sizes, **rare)
    # All turns share the compiled functions.
    train.Learner = functools.cache(train.Learner)
    seconds: dict[str, list[float]] = {"bare": [], "loop": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = data.count(options.text)
        text = data.store(folder / TEXT, options.text, counts)
        corpus = data.load(folder / TEXT, text)
        for turn in range(options.rounds + 1):
            times = {"bare": bare(config, text, corpus), "loop": loop(config, text, corpus, folder / "run")}
            if turn:  # The first one compiles.
                for contender, value in times.items():
                    seconds[contender].append(value)
    rows = []
    table = Table("", "milliseconds a step", "speed over `bare`")
    for contender, times in seconds.items():
        milliseconds = 1000 * statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(seconds["bare"], times, strict=True))
        rows.append({"contender": contender, "milliseconds": milliseconds, "ratio": ratio})
        table.add_row(contender, f"{milliseconds:.2f}", f"{ratio:.3f}")
    Console().print(table)
    result = {"platform": jax.default_backend(), "jax": jax.__version__, **dataclasses.asdict(config), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
