"""The results for people: a table and the claims of each task, for the terminal and in markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.tasks.problems import TASKS
from benchmarks.tasks.task import Seen, Task

Row = dict[str, Any]


def line(row: Row) -> str:
    """One row in one line, as soon as it is done."""
    figures = "; ".join(f"{name} {_spread(values)}" for name, values in row["measures"].items())
    return f"{row['task']:10} {row['layer']:24} {figures}; {row['seconds']:.0f} s"


def shown(rows: list[Row]) -> Iterator[Table | str]:
    """For rich to print."""
    for task, of_task in _by_task(rows):
        header, *body = _cells(task, of_task)
        table = Table(title=task.name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left")
        for cells in body:
            table.add_row(*cells)
        yield table
        yield "\n".join(f"{verdict}: {says}" for says, verdict in _verdicts(task, of_task)) + "\n"


def markdown(about: dict[str, Any], rows: list[Row]) -> str:
    """The same as a file."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        "# Tasks",
        f"    {about['command']}",
        f"{about['date']}, {about['device']}, cores: {about['cores']}; {versions}.",
        "Figures are medians over seeds on test draws, with the least and the greatest. The learning rate is the best "
        "of those tried, by validation draws. *Solved* says for how many seeds, *after* the median number of updates "
        "until then, looked at twenty times.",
    ]
    for task, of_task in _by_task(rows):
        header, *body = _cells(task, of_task)
        lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---", *["---:"] * (len(header) - 1)], *body)]
        bounds = [
            f"{name} {'≥' if measure.higher_is_better else '≤'} {measure.solved:g}"
            for name, measure in task.measures.items()
            if measure.solved is not None
        ]
        asked = f" Solved: {', '.join(bounds)}." if bounds else ""
        tried = {row["layer"]: ", ".join(f"{rate:g}" for rate in row["rates"]) for row in of_task}
        common = ", ".join(f"{rate:g}" for rate in task.rates)
        others = "".join(f"; {layer} {rates}" for layer, rates in tried.items() if rates != common)
        parts += [
            f"## {task.name}",
            f"{' '.join(task.what.split())}{asked} {of_task[0]['steps']} updates; learning rates {common}{others}.",
            "\n".join(lines),
            "\n".join(f"- {says} **{verdict[0].upper()}{verdict[1:]}.**" for says, verdict in _verdicts(task, of_task)),
        ]
    return "\n\n".join(parts) + "\n"


def _by_task(rows: list[Row]) -> Iterator[tuple[Task, list[Row]]]:
    for task in TASKS.values():
        found = {row["layer"]: row for row in rows if row["task"] == task.name}
        if of_task := [found[layer] for layer in task.contenders if layer in found]:
            yield task, of_task


def _cells(task: Task, rows: list[Row]) -> Iterator[list[str]]:
    asked = any(measure.solved is not None for measure in task.measures.values())
    yield ["layer", "parameters", "rate", *task.measures, *(["solved", "after"] if asked else []), "seconds"]
    for row in rows:
        cells = [row["layer"], f"{row['parameters']:,}", f"{row['rate']:g}", *map(_spread, row["measures"].values())]
        if asked:
            after = [float("inf") if step is None else step for step in row["solved_at"]]
            median = statistics.median(after)
            cells += [f"{sum(row['solved'])} of {len(after)}", "–" if median == float("inf") else f"{median:.0f}"]
        yield [*cells, f"{row['seconds']:.0f}"]


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _verdicts(task: Task, rows: list[Row]) -> Iterator[tuple[str, str]]:
    for says, holds in task.claims:
        try:
            yield says, {True: "seen", False: "not seen", None: "depends on the seeds"}[holds(Seen(rows))]
        except KeyError:
            yield says, "not tried"
