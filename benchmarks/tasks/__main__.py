"""Trains every layer on every task that it has a claim on, several seeds at once, and says who learned what."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.tasks import report
from benchmarks.tasks.problems import GROUPS, TASKS
from benchmarks.tasks.train import train


def parse() -> argparse.Namespace:
    """Reads the command line."""
    layers = list(dict.fromkeys(name for task in TASKS.values() for name in task.contenders))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.add_argument("--group", choices=GROUPS, default="tasks", help="default %(default)s")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="default all of the group")
    parser.add_argument("--layers", nargs="+", choices=layers, default=layers, metavar="LAYER", help=", ".join(layers))
    parser.add_argument("--seeds", type=int, default=3, help="how many; default %(default)s")
    parser.add_argument("--steps", type=int, help="updates of each run; default each task's own")
    parser.add_argument("--out", type=Path, help="default results/GROUP.json")
    parser.add_argument("--resume", action="store_true", help="keep the rows that --out holds, and run the others")
    options = parser.parse_args()
    options.tasks = options.tasks or [task.name for task in GROUPS[options.group]]
    options.out = options.out or Path(__file__).parents[1] / "results" / f"{options.group}.json"
    return options


def cores() -> int:
    """How many there are for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about() -> dict[str, Any]:
    """The command, of which a resumed run is the rest, and with what it ran."""
    distributions = ("jax", "jaxlib", "numpy", "optax")
    return {
        "command": " ".join(["python -m benchmarks.tasks", *(arg for arg in sys.argv[1:] if arg != "--resume")]),
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "cores": cores(),
        "versions": {"python": platform.python_version()} | {d: importlib.metadata.version(d) for d in distributions},
    }


def write(path: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes both files so that whenever the run ends, they are complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {path: json.dumps({**about, "rows": rows}, indent=1) + "\n"}
    for file, content in (contents | {path.with_suffix(".md"): report.markdown(about, rows)}).items():
        file.with_suffix(".tmp").write_text(content)
        file.with_suffix(".tmp").replace(file)


def main() -> None:
    """Trains one contender after another; writes after each, and shows all at the end."""
    options, console = parse(), Console(width=None if sys.stdout.isatty() else 120)
    jax.config.update("jax_num_cpu_devices", cores())  # So that runs go side by side.
    where = about()
    rows = json.loads(options.out.read_text())["rows"] if options.resume and options.out.exists() else []
    done = {(row["task"], row["layer"]) for row in rows}
    todo = [(task, layer) for task in (TASKS[name] for name in options.tasks) for layer in task.contenders]
    todo = [(task, layer) for task, layer in todo if layer in options.layers and (task.name, layer) not in done]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for task, layer in todo:
            bar = progress.add_task(f"{task.name}: {layer}", total=1.0)
            contender, steps = task.contenders[layer], options.steps or task.steps
            told = lambda share, bar=bar: progress.update(bar, completed=share)  # noqa: E731
            row = train(task, contender, options.seeds, steps, told)
            rows.append({"task": task.name, "layer": layer, "is": repr(contender.layer), "seeds": options.seeds, **row})
            progress.remove_task(bar)
            write(options.out, where, rows)
            console.print(report.line(rows[-1]), markup=False, highlight=False)
    for part in report.shown(rows):
        console.print(part)


if __name__ == "__main__":
    main()
