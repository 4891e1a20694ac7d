"""The results as tables in markdown, and their averages."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.published.presets import PRESETS, Preset

Row = dict[str, Any]


def line(row: Row) -> str:
    """Describes a run in one line."""
    adapted = ""
    if "dynamic" in row:
        adapted = f", by dynamic evaluation {row['dynamic']['test']:.4f}"
    return (
        f"{row['preset']}, {row['cell']}, seed {row['seed']}: validation {row['validation']:.4f} at epoch "
        f"{row['best_epoch']}, test {row['test']:.4f}{adapted}; published {row['published']}. {row['seconds']:.0f} s"
    )


def table(preset: Preset, rows: list[Row]) -> str:
    """The table of a preset: a row for each cell, the mean of its seeds beside the published figure."""
    lines = [
        f"### {preset.title}",
        "",
        f"    {preset.command}",
        "",
        f"The figures are the {preset.measure}. Source of the published ones: {preset.source}.",
        "",
        f"| cell | published, about {preset.at_most:,} parameters | ours, mean | seeds | parameters | seconds a seed |",
        "|---|---:|---:|---|---:|---:|",
    ]
    # A cell without a run has its line too, so that nobody takes the table for complete.
    for cell, published in preset.published.items():
        runs = runs_of(preset, cell, rows)
        if not runs:
            lines.append(f"| {cell} | {published:g} | not run | | | |")
            continue
        tests = [row["test"] for row in runs]
        mean, seconds = statistics.fmean(tests), statistics.fmean(row["seconds"] for row in runs)
        seeds = ", ".join(f"{test:.3f}" for test in tests)
        cells = [cell, f"{published:g}", f"{mean:.3f}", seeds, f"{runs[0]['parameters']:,}", f"{seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def tables(rows: list[Row]) -> str:
    """The tables of all presets."""
    return "\n".join(table(preset, rows) for preset in PRESETS.values())


def runs_of(preset: Preset, cell: str, rows: list[Row]) -> list[Row]:
    """The runs of a cell, by seed."""
    found = [row for row in rows if (row["preset"], row["cell"]) == (preset.name, cell)]
    return sorted(found, key=lambda row: row["seed"])
