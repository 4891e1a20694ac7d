"""Trains the runs of a preset, and writes their figures beside the published ones.

    python -m benchmarks.published jsb --data FOLDER
    python -m benchmarks.published jsb --data FOLDER --cells lstm --tune hidden_size=150 rate=0.01

A run that is in the results with the same recipe is not repeated. So the same command continues after a
stop. `--tune` tries another recipe: it shows the validation loss alone, and writes nothing.
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
from pathlib import Path
from typing import Any

from benchmarks.published import report
from benchmarks.published.presets import PRESETS, Preset, Recipe, WrongDataError, checked_file

RESULTS = Path(__file__).parents[1] / "results" / "published.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    about, _, _ = __doc__.partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=about)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--data", type=Path, required=True, help="the file of the preset, or the folder that holds it")
    parser.add_argument("--cells", nargs="+", choices=("lstm", "gru", "elman"), default=["lstm", "gru"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="repeat runs that the results hold")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tune", nargs="+", metavar="NAME=NUMBER", help="try a recipe by its validation loss")
    return parser.parse_args(arguments)


def changed(recipe: Recipe, changes: list[str]) -> Recipe:
    """Returns the recipe with other numbers, each given as `name=number`.

    Raises:
        ValueError: if a recipe has no such name, or the number is none.
    """
    fields = {field.name: type(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)}
    values: dict[str, Any] = {}
    for change in changes:
        name, _, number = change.partition("=")
        if name not in fields:
            raise ValueError(f"--tune must name a number of the recipe: {', '.join(fields)}; got {change!r}.")
        values[name] = fields[name](number)
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
    return json.loads(path.read_text())["rows"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the results so that a kill leaves the old file or the new one."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    draft.replace(path)


def run(preset: Preset, options: argparse.Namespace) -> None:
    """Trains the runs that the options ask for and the results do not hold."""
    # They import jax, which takes seconds; wrong data is told before.
    from benchmarks.published.music import train
    from examples.music.pieces import read_mat

    parts = read_mat(checked_file(preset, options.data))
    for cell in options.cells:
        recipe = preset.recipes[cell]
        if options.tune:
            recipe = changed(recipe, options.tune)
        for seed in options.seeds:
            facts = {"preset": preset.name, "cell": cell, "seed": seed, "recipe": dataclasses.asdict(recipe)}
            done = [row for row in read(options.out) if facts.items() <= row.items()]
            if done and not options.again and not options.tune:
                print(report.line(done[0]), "(kept)")
                continue

            def told(epoch: int, loss: float, validation: float, epochs: int = recipe.epochs) -> None:
                if epoch % max(1, epochs // 25) == 0:
                    print(f"epoch {epoch:3}: training {loss:.3f}, validation {validation:.4f}", flush=True)

            found = train(cell, recipe, parts, seed, told, tests=not options.tune)
            if options.tune:
                print(f"{cell}, seed {seed}, {' '.join(options.tune)}: {found}", flush=True)
                continue
            row = facts | {"published": preset.published[cell]} | found | about()
            others = [row for row in read(options.out) if not _same_run(row, facts)]
            write(options.out, [*others, row])
            print(report.line(row), flush=True)
    if not options.tune:
        print(report.table(preset, read(options.out)))


def _same_run(row: dict[str, Any], facts: dict[str, Any]) -> bool:
    return all(row[name] == facts[name] for name in ("preset", "cell", "seed"))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns 0, or 2 if the preset has other data."""
    options = parse(arguments)
    try:
        run(PRESETS[options.preset], options)
    except WrongDataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
