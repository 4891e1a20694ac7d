"""Comparing: the same model with and without the CRF, with several seeds, on the test part."""

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from examples.char_lm.files import CURVES, LOG
from examples.char_lm.log import read

from .config import Config, UserError
from .data import Corpus
from .run import Run
from .spans import ALL, Score
from .train import Learner

_NAMES = {True: "BiLSTM-CRF", False: "BiLSTM"}


class Trained(NamedTuple):
    """A trained run: its settings, its seconds, and its scores on the test part by type."""

    config: Config
    seconds: float
    scores: dict[str, Score]


def compare(
    folder: Path, corpus: Corpus, config: Config, *, seeds: int, jobs: int, console: Console
) -> list[Trained]:
    """Trains with and without the CRF with each seed, and scores each run on the test part.

    A run that is complete is not trained again. A run that was stopped is resumed. So a comparison
    can be stopped and started again.

    Args:
        folder: the folder that holds a run folder for each run.
        corpus: the data.
        config: the settings; `crf` and `seed` are replaced.
        seeds: the number of seeds, from 0.
        jobs: the number of runs side by side, each in its own process with one thread.
        console: where progress is shown.

    Returns:
        The runs, those without the CRF first.

    Raises:
        UserError: if a run fails, or has other settings or other data than these.
    """
    configs = []
    # The runs with one seed come one after another, so a stopped comparison says something too.
    for seed in range(seeds):
        for crf in (False, True):
            configs.append(dataclasses.replace(config, crf=crf, seed=seed))

    # The seed does not matter for scoring, so all seeds share compiled functions.
    learners = {}
    for crf in _NAMES:
        learners[crf] = Learner(dataclasses.replace(config, crf=crf), corpus.facts)

    def run_of(config: Config) -> Trained:
        path = folder / f"{_NAMES[config.crf].lower()}-{config.seed}"
        _train(path, corpus, config, folder / "compiled", jobs)
        trained = _score(path, corpus, learners[config.crf])
        f1 = 100 * trained.scores[ALL].f1
        console.print(f"{path.name}: test F1 {f1:.2f} %, {trained.seconds:.0f} s", highlight=False)
        return trained

    with ThreadPoolExecutor(jobs) as pool:
        runs = list(pool.map(run_of, configs))
    return sorted(runs, key=lambda run: run.config.crf)


def table(runs: list[Trained]) -> str:
    """Writes the scores of some runs as a table in Markdown: the mean over seeds, by type."""
    lines = [
        "| model | type | precision % | recall % | F1 % | F1 % of each seed |",
        "|---|---|---:|---:|---:|---|",
    ]
    for crf, name in sorted(_NAMES.items()):
        ours = [run for run in runs if run.config.crf == crf]
        for type_ in ours[0].scores:
            # A row for each seed: precision, recall and F1.
            shares = np.array([run.scores[type_].percents for run in ours])
            means = map("{:.2f}".format, shares.mean(axis=0))
            each = ", ".join(map("{:.2f}".format, shares[:, 2]))
            lines.append(f"| {' | '.join([name, type_, *means, each])} |")
    return "\n".join(lines)


def _train(path: Path, corpus: Corpus, config: Config, compiled: Path, jobs: int) -> None:
    """Trains a run in a separate process, unless it is complete."""
    if Run.exists(path):
        run = Run.open(path)
        if run.config != config or run.text != corpus.facts:
            raise UserError(
                f"{str(path)!r} holds a run of other settings or other data; name another --out."
            )
        rows = read(path / LOG)
        if rows and rows[-1]["step"] == config.steps and (path / CURVES).exists():
            return
        arguments = ["resume", str(path)]
    else:
        arguments = ["train", "--data", corpus.facts.source, "--out", str(path)]
        arguments += _options(config)
    environment = dict(os.environ)
    # Runs that differ in their seeds alone share their compiled programs.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(compiled.absolute())
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    if jobs > 1:
        # The threads of several processes would wait for each other.
        flags = environment.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
        environment["XLA_FLAGS"] = flags.strip()
    command = [sys.executable, "-m", "examples.tagger", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the run in {str(path)!r} failed: {done.stderr.strip()[-1000:]}")


def _options(config: Config) -> list[str]:
    """Writes a config as options of the command line."""
    options = []
    for name, value in dataclasses.asdict(config).items():
        name = name.replace("_", "-")
        if value is True:
            options.append(f"--{name}")
        elif value is False:
            options.append(f"--no-{name}")
        else:
            options += [f"--{name}", repr(value)]
    return options


def _score(path: Path, corpus: Corpus, learner: Learner) -> Trained:
    """Scores the best checkpoint of a run on the test part."""
    run = Run.open(path)
    best = run.restore("best", learner.split.first_state().params)
    labels = learner.labels(best.tree, corpus.test.examples)
    scores = learner.score(corpus.test.sentences, labels)
    return Trained(run.config, read(path / LOG)[-1]["seconds"], scores)
