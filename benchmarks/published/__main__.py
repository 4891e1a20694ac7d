"""Trains the runs of a preset, and writes their figures beside the published ones.

    python -m benchmarks.published jsb --data FOLDER
    python -m benchmarks.published jsb --data FOLDER --cells lstm --tune hidden_size=150 rate=0.01
    python -m benchmarks.published ptb-char --data FOLDER --seeds 0

A run that is in the results with the same recipe is not repeated. So the same command continues after a
stop. A run of text takes hours: it has checkpoints in a folder below `--runs`, and continues from the last
one. `--tune` tries another recipe: it shows the validation loss alone, and keeps nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.published import report
from benchmarks.published.presets import PRESETS, Preset, Recipe, TextRecipe, checked_file
from examples.char_lm.command import run_command
from examples.char_lm.config import UserError

# Trains a run of a cell, a recipe and a seed, and returns its row of the results.
Train = Callable[[str, Any, int], dict[str, Any]]

RESULTS = Path(__file__).parents[1] / "results" / "published.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    about, _, _ = __doc__.partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=about)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--data", type=Path, required=True, help="the file of the preset, or the folder that holds it")
    cells_help = "cells that have a recipe (default: lstm, and gru if it has one)"
    parser.add_argument("--cells", nargs="+", choices=("lstm", "gru", "elman"), help=cells_help)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="repeat runs that the results hold")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/published"), help="folder for the runs of text")
    parser.add_argument("--dynamic", action="store_true", help="score text by dynamic evaluation too")
    parser.add_argument("--tune", nargs="+", metavar="NAME=NUMBER", help="try a recipe by its validation loss")
    return parser.parse_args(arguments)


def cells_of(preset: Preset, asked: list[str] | None) -> list[str]:
    """Returns the cells to train.

    Raises:
        UserError: if the preset has no recipe for a cell.
    """
    if asked is None:
        return [cell for cell in ("lstm", "gru") if cell in preset.recipes]
    for cell in asked:
        if cell not in preset.recipes:
            known = ", ".join(preset.recipes)
            raise UserError(f"--cells must be among {known}, which {preset.name} has recipes for; got {cell}.")
    return asked


def changed(recipe: Any, changes: list[str]) -> Any:
    """Returns the recipe with other numbers, each given as `name=number`.

    Raises:
        UserError: if a recipe has no such name, or the number is none.
    """
    fields = {field.name: type(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}
    values: dict[str, Any] = {}
    for change in changes:
        name, _, number = change.partition("=")
        if name not in fields:
            raise UserError(f"--tune must name a number of the recipe: {', '.join(fields)}; got {change!r}.")
        try:
            values[name] = fields[name](number)
        except ValueError as error:
            kind = fields[name].__name__
            raise UserError(f"--tune must give {name} as {kind}, such as {name}=1; got {change!r}.") from error
    return dataclasses.replace(recipe, **values)


def about() -> dict[str, Any]:
    """The versions and the device of a run."""
    import jax

    distributions = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in distributions}
    cores = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "versions": {"python": platform.python_version()} | versions,
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The runs that the results hold."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["rows"]
    for row in rows:
        # An older run lacks newer numbers, whose defaults do what was done before.
        recipe = PRESETS[row["preset"]].recipes[row["cell"]]
        for field in dataclasses.fields(recipe):
            if field.default is not dataclasses.MISSING:
                row["recipe"].setdefault(field.name, field.default)
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the results so that a kill leaves the old file or the new one."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    draft.replace(path)


def trainer_of(preset: Preset, options: argparse.Namespace) -> Train:
    """Reads the data of a preset, and returns what trains its runs.

    Raises:
        WrongDataError: if the data is absent, or another version.
    """
    path = checked_file(preset, options.data)
    # Wrong data is told before these imports, which take a second.
    if isinstance(preset.recipes["lstm"], TextRecipe):
        from benchmarks.published.text import train_in
        from benchmarks.published.texts import read as read_texts

        texts = read_texts(preset, path)

        def train_text(cell: str, recipe: TextRecipe, seed: int) -> dict[str, Any]:
            train = partial(train_in, preset=preset, cell=cell, recipe=recipe, texts=texts, seed=seed)
            # A trial has a folder of its own, which goes with it.
            if options.tune:
                with tempfile.TemporaryDirectory() as folder:
                    return train(Path(folder), adapts=options.dynamic, tests=False)
            folder_of_run = options.runs / f"{preset.name}-{cell}-{seed}"
            return train(folder_of_run, again=options.again, adapts=options.dynamic)

        return train_text

    from benchmarks.published.music import train
    from examples.music.pieces import read_mat

    parts = read_mat(path)

    def train_music(cell: str, recipe: Recipe, seed: int) -> dict[str, Any]:
        def told(epoch: int, loss: float, validation: float) -> None:
            if epoch % max(1, recipe.epochs // 25) == 0:
                print(f"epoch {epoch:3}: training {loss:.3f}, validation {validation:.4f}", flush=True)

        return train(cell, recipe, parts, seed, told, tests=not options.tune)

    return train_music


def run(preset: Preset, options: argparse.Namespace) -> None:
    """Trains the runs that the options ask for and the results do not hold."""
    cells = cells_of(preset, options.cells)
    train = trainer_of(preset, options)
    for cell in cells:
        recipe = preset.recipes[cell]
        if options.tune:
            recipe = changed(recipe, options.tune)
        for seed in options.seeds:
            # What decides a run. A row of the results adds what was found.
            facts = {"preset": preset.name, "cell": cell, "seed": seed, "recipe": dataclasses.asdict(recipe)}
            done = kept(facts, options)
            if done is not None:
                print(report.line(done), "(kept)")
                continue

            found = train(cell, recipe, seed)
            # A trial leaves no row, so that no table can hold it.
            if options.tune:
                print(f"{cell}, seed {seed}, {' '.join(options.tune)}: {found}", flush=True)
                continue
            row = facts | {"published": preset.published[cell]} | found | about()
            # Another program may have written its rows meanwhile.
            others = [row for row in read(options.out) if not _same_run(row, facts)]
            write(options.out, [*others, row])
            print(report.line(row), flush=True)
    if not options.tune:
        print(report.table(preset, read(options.out)))


def kept(facts: dict[str, Any], options: argparse.Namespace) -> dict[str, Any] | None:
    """Returns the row of a run that need not be repeated, or None."""
    if options.again or options.tune:
        return None
    for row in read(options.out):
        lacks = options.dynamic and "dynamic" not in row
        if facts.items() <= row.items() and not lacks:
            return row
    return None


def _same_run(row: dict[str, Any], facts: dict[str, Any]) -> bool:
    return all(row[name] == facts[name] for name in ("preset", "cell", "seed"))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code: 0; 2 with a message about a fault that the user can mend; 130 or 75 if a run of text was
        saved and stopped, as `examples.char_lm` has it.
    """

    def command(options: argparse.Namespace) -> int:
        run(PRESETS[options.preset], options)
        return 0

    return run_command(command, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
