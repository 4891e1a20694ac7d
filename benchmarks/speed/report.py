"""The results for people: tables for the terminal and in markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.speed.contenders import CONTENDERS, NATIVE

Row = dict[str, Any]

# What a table shows, and how it writes one figure of a contender; None where it has none.
MEASURES: dict[str, tuple[str, Callable[[Row], str | None]]] = {
    "ratio": (
        "time of recurrax : time of the contender (quartiles); below 1 recurrax is faster",
        lambda r: _ratio(r, "ratio"),
    ),
    "native_ratio": (
        'time of implementation="native" : time of the contender (quartiles)',
        lambda r: _ratio(r, "native_ratio"),
    ),
    "seconds": ("milliseconds a call", lambda r: _plain(r["seconds"] * 1e3)),
    "matmul_fraction": (
        "% of this machine's rate of multiplying matrices (best rounds of both)",
        lambda r: _fraction(r),
    ),
    "compile_seconds": ("seconds to compile, or to be ready", lambda r: _plain(r["compile_seconds"])),
    "peak_bytes": (
        "peak memory of a call, MB",
        lambda r: None if r["peak_bytes"] is None else _plain(r["peak_bytes"] / 1e6),
    ),
}


def contenders_of(rows: list[Row], measure: str = "") -> list[str]:
    """Who has any figure, in the usual order; recurrax has no ratio to itself."""
    needed = measure if measure.endswith("ratio") else "seconds"
    names = [name for name in CONTENDERS if any(needed in row["contenders"].get(name, {}) for row in rows)]
    if measure.endswith("ratio"):
        selves = NATIVE.values() if measure == "native_ratio" else NATIVE
        names = [name for name in names if name not in selves]
    return names


def group(row: Row) -> tuple[str, str]:
    """Rows that belong together: the plain cases of a cell, and what is special in a mode."""
    return row["mode"], row["cell"] if row["name"][0].isdigit() else ""


def _plain(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:#.3g}" if value >= 0.01 else "<0.01"


def _ratio(result: Row, measure: str) -> str | None:
    """A ratio with its quartiles, and whether they lie on both sides of 1."""
    if measure not in result:
        return None
    text = f"{_plain(result[measure])}"
    if quartiles := result.get(f"{measure}_quartiles"):
        low, high = quartiles
        text += f" ({_plain(low)}-{_plain(high)})"
        if low <= 1 <= high:
            text += " level"
    return text


def _fraction(result: Row) -> str | None:
    if "best_matmul_fraction" not in result:
        return None
    return f"{result['matmul_fraction']:.0%} ({result['best_matmul_fraction']:.0%})".replace("%", "")


def _label(row: Row) -> str:
    """The case, and whether others disturbed it."""
    return f"{row['label']} (busy)" if _faults(row) else row["label"]


def _faults(row: Row) -> list[str]:
    return row.get("machine", {}).get("faults", [])


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
        if not names:
            continue
        for name in names:
            # A ratio with its quartiles takes a second line.
            table.add_column(CONTENDERS[name].label, justify="right", no_wrap=not measure.endswith("ratio"))
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            ends = after is None or group(row) != group(after)
            table.add_row(_label(row), row["mode"], *_cells(row, names, measure), end_section=ends)
        yield table


def line(row: Row) -> str:
    """One case in one line, as soon as it is done."""
    names = contenders_of([row], "ratio")
    ratios = zip(names, _cells(row, names, "ratio"), strict=True)
    return f"{row['mode']:9} {_label(row):24} " + "  ".join(f"{CONTENDERS[n].label} {ratio}" for n, ratio in ratios)


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


def disturbances(about: dict[str, Any], rows: list[Row]) -> str:
    """One sentence on what others did, or nothing for a quiet machine."""
    reasons = []
    if before := about.get("before", {}).get("faults"):
        reasons.append(f"before the run {', '.join(before)}")
    if disturbed := [row for row in rows if _faults(row)]:
        worst = max(disturbed, key=lambda row: row["machine"]["others"] or 0)
        reasons.append(f"in {len(disturbed)} of {len(rows)} cases, at worst {', '.join(_faults(worst))}")
    if not reasons:
        return ""
    return f"The machine was busy, so these figures may be wrong: {'; '.join(reasons)}."


def markdown(about: dict[str, Any], rows: list[Row]) -> str:
    """The same tables for a README, the ratios first."""
    parts = [machine(about)]
    if note := disturbances(about, rows):
        parts.append(f"**{note}**")
    for measure, (title, _) in MEASURES.items():
        names = contenders_of(rows, measure)
        if not names:
            continue
        header = ["case, T×B×I×H", "mode", *(CONTENDERS[name].label for name in names)]
        body = [[_label(row), row["mode"], *_cells(row, names, measure)] for row in rows]
        rule = ["---", "---", *["---:"] * len(names)]
        lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *body)]
        parts.append("\n".join([f"## {title[0].upper()}{title[1:]}", "", *lines]))
    return "\n\n".join(parts + failures(rows)) + "\n"
