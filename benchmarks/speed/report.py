"""The results for people: tables for the terminal and in markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.speed.contenders import CONTENDERS

Row = dict[str, Any]

# What a table shows, and how it writes one figure of a contender; None where it has none.
MEASURES: dict[str, tuple[str, Callable[[Row], str | None]]] = {
    "ratio": ("time of recurrax : time of the contender; below 1 recurrax is faster", lambda r: _plain(r.get("ratio"))),
    "seconds": ("milliseconds a call", lambda r: _plain(r["seconds"] * 1e3)),
    "matmul_fraction": (
        "% of this machine's rate of multiplying matrices",
        lambda r: _plain(r["matmul_fraction"] * 100),
    ),
    "compile_seconds": ("seconds to compile, or to be ready", lambda r: _plain(r["compile_seconds"])),
    "peak_bytes": (
        "peak memory of a call, MB",
        lambda r: None if r["peak_bytes"] is None else _plain(r["peak_bytes"] / 1e6),
    ),
}


def contenders_of(rows: list[Row], measure: str = "") -> list[str]:
    """Who has any figure, in the usual order; recurrax has no ratio to itself."""
    names = [name for name in CONTENDERS if any("seconds" in row["contenders"].get(name, {}) for row in rows)]
    return [name for name in names if not (measure == "ratio" and CONTENDERS[name].twin == name)]


def group(row: Row) -> tuple[str, str]:
    """Rows that belong together: the plain cases of a cell, and what is special in a mode."""
    return row["mode"], row["cell"] if row["name"][0].isdigit() else ""


def _plain(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:#.3g}" if value >= 0.01 else "<0.01"


def _cells(row: Row, names: list[str], measure: str) -> Iterator[str]:
    for name in names:
        result = row["contenders"].get(name, {})
        figure = MEASURES[measure][1](result) if "seconds" in result else None
        yield "failed" if "failed" in result else figure or "–"


def tables(rows: list[Row]) -> Iterator[Table]:
    """A table for each measure, for rich to print."""
    for measure, (title, _) in MEASURES.items():
        names = contenders_of(rows, measure)
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("T×B×I×H", no_wrap=True)
        table.add_column("mode", no_wrap=True)
        for name in names:
            table.add_column(CONTENDERS[name].label, justify="right", no_wrap=True)
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            ends = after is None or group(row) != group(after)
            table.add_row(row["label"], row["mode"], *_cells(row, names, measure), end_section=ends)
        yield table


def line(row: Row) -> str:
    """One case in one line, as soon as it is done."""
    names = contenders_of([row], "ratio")
    ratios = zip(names, _cells(row, names, "ratio"), strict=True)
    return f"{row['mode']:9} {row['label']:24} " + "  ".join(f"{CONTENDERS[n].label} {ratio}" for n, ratio in ratios)


def failures(rows: list[Row]) -> list[str]:
    """Who failed where, and why."""
    return [
        f"{CONTENDERS[name].label} failed at {row['label']}, {row['mode']}: {result['failed']}"
        for row in rows
        for name, result in row["contenders"].items()
        if "failed" in result
    ]


def machine(about: dict[str, Any]) -> str:
    """The machine and the versions in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    rate = f"{about['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s in a large matrix product"
    device = f"{about['platform']} ({about['device']}), {about['cpu']}, cores: {about['cores']}, {rate}"
    return f"{about['date']}, {device}; {versions}"


def markdown(about: dict[str, Any], rows: list[Row]) -> str:
    """The same tables for a README, the ratios first."""
    parts = [machine(about)]
    for measure, (title, _) in MEASURES.items():
        names = contenders_of(rows, measure)
        header = ["case, T×B×I×H", "mode", *(CONTENDERS[name].label for name in names)]
        body = [[row["label"], row["mode"], *_cells(row, names, measure)] for row in rows]
        rule = ["---", "---", *["---:"] * len(names)]
        lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *body)]
        parts.append("\n".join([f"## {title[0].upper()}{title[1:]}", "", *lines]))
    return "\n\n".join(parts + failures(rows)) + "\n"
