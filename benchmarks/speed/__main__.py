"""recurrax and its peers side by side, on every case, each in a process of its own, taking turns."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import quiet
from benchmarks.speed import report
from benchmarks.speed.cases import CELLS, MODES, Case, all_cases
from benchmarks.speed.contenders import CONTENDERS, NATIVE
from benchmarks.speed.machine import about
from benchmarks.speed.plot import plot
from benchmarks.speed.race import NoResult, Racer, race

# Their memory is measured by settings of malloc that change their times, so in a second process.
WEIGHED = ("torch", "onnxruntime")


def parse() -> argparse.Namespace:
    """Reads the command line."""
    names = list(dict.fromkeys(case.name.replace(" ", "-") for case in all_cases()))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contender; default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.15, help="length of a turn; default %(default)s")
    parser.add_argument("--cores", type=int, help="how many cores everyone has; default all")
    parser.add_argument("--implementation", help="passed on to recurrax's scan")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "speed.json")
    quiet.add_option(parser)
    parser.add_argument("--resume", action="store_true", help="keep the cases that --out holds, and run the others")
    return parser.parse_args()


def write(path: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes the results so that whenever the run ends, the file is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)


def run(
    case: Case, racers: list[Racer], options: argparse.Namespace, weighed: dict[str, Racer], watch: quiet.Watch
) -> tuple[dict[str, Any], quiet.Disturbance]:
    """One case, and what others did meanwhile; once more if they did too much."""
    for _ in range(1 if options.busy else 2):
        watch.mark()
        results = race(case, racers, options.rounds, weighed)
        spread = quiet.spread_of(results["product"].get("seconds_of_rounds", []))
        disturbance = watch.since_mark(spread)
        if not disturbance.faults:
            break
    return results, disturbance


def main() -> None:
    """Runs the cases one by one; writes after each, and shows all at the end."""
    options, console = parse(), Console(width=None if sys.stdout.isatty() else 120)
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # Children inherit it.
    # Several processes share the device: none may take it whole.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    watch = quiet.Watch(options.busy)
    where = about() | {name: getattr(options, name) for name in ("rounds", "seconds", "implementation")}
    where["before"] = watch.before.record()
    console.print(report.machine(where))
    racers, where["left_out"] = [Racer("product", None, options.seconds)], {}
    twins = [CONTENDERS[name].twin for name in options.contenders]
    if "native" in options.contenders:
        twins += [NATIVE[twin] for twin in twins]
    for name in dict.fromkeys(["recurrax", *twins, *options.contenders]):
        try:
            racers.append(Racer(name, options.implementation, options.seconds))
        except NoResult as why:
            if name == "recurrax":
                raise SystemExit(f"recurrax cannot be imported: {why}") from why
            where["left_out"][name] = str(why)
            console.print(f"{CONTENDERS[name].label} is left out: {why}", markup=False)
    weighed = {r.name: Racer(r.name, None, options.seconds) for r in racers if r.name in WEIGHED}
    rows = json.loads(options.out.read_text())["rows"] if options.resume and options.out.exists() else []
    done = {(row["mode"], row["label"]) for row in rows}
    disturbed = []
    for case in all_cases():
        chosen = case.cell in options.cells and case.mode in options.modes
        if not chosen or case.name.replace(" ", "-") not in options.cases or (case.mode, case.label) in done:
            continue
        with console.status(f"{case.mode} {case.label}"):
            results, disturbance = run(case, racers, options, weighed, watch)
        if disturbance.faults and not options.busy:
            disturbed.append(f"{case.mode} {case.label}: {', '.join(disturbance.faults)}")
            console.print(f"{disturbed[-1]}; not kept", highlight=False)
            continue
        product = results.pop("product")
        row = {**case._asdict(), "label": case.label, "flops": case.flops}
        rows.append({**row, "machine": disturbance.record(), "product": product, "contenders": results})
        write(options.out, where, rows)
        console.print(report.line(rows[-1]), highlight=False)
        for failure in report.failures(rows[-1:]):
            console.print(failure, markup=False)
    # A case that was measured later stands where it belongs.
    places = {(case.mode, case.label): place for place, case in enumerate(all_cases())}
    rows.sort(key=lambda row: places[row["mode"], row["label"]])
    write(options.out, where, rows)
    for table in report.tables(rows):
        console.print(table)
    if disturbed:
        raise SystemExit(
            f"The machine was busy in {len(disturbed)} cases, so no tables were written. {options.out} holds the "
            "others: --resume measures the missing ones, --busy accepts them."
        )
    options.out.with_suffix(".md").write_text(report.markdown(where, rows))
    plot(where, rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
