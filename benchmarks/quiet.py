"""Whether other programs disturbed a measurement.

Other programs slow some contenders more than others: figures from a busy machine are wrong, not only uncertain. The
operating system counts for how long each core was busy. Less the processor time of this process and of all its
children, this is the time that others took. So the contenders themselves may use every core.

A benchmark adds one option, makes a `Watch` before it measures, and asks the watch before it writes:

    quiet.add_option(parser)
    watch = quiet.Watch(options.busy)
    ...
    result["machine"] = watch.verdict()
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

# More than this counts as busy: shares of the time of our cores, and of the median time of a product. A virtual
# machine shares its processor with others that no count tells of: there a product spreads by 11 to 17% with nothing
# else on its cores.
OTHERS, STOLEN, SPREAD = 0.05, 0.02, 0.25
# How long the machine is watched before the first measurement, in seconds.
BEFORE = 2.0


class Snapshot(NamedTuple):
    """Counts of seconds since some moment.

    Attributes:
        time: of the clock.
        busy: of all our cores together, by whatever program.
        stolen: the time for which our cores had work, and the host of the virtual machine ran others.
        own: of processor time of this process and its children.
    """

    time: float
    busy: float
    stolen: float
    own: float


class Disturbance(NamedTuple):
    """What others did while we measured.

    Attributes:
        others: the share of our cores' time that other programs of this machine took; None without Linux.
        stolen: the share that the host took; None without Linux.
        spread: between the quartiles of a fixed product's time, as a share of its median; None if not measured.
    """

    others: float | None = None
    stolen: float | None = None
    spread: float | None = None

    @property
    def faults(self) -> list[str]:
        """Why this was no quiet machine, each in a few words; none if it was quiet."""
        found = []
        if self.others is not None and self.others > OTHERS:
            found.append(f"other programs took {self.others:.0%} of the cores")
        if self.stolen is not None and self.stolen > STOLEN:
            found.append(f"the host took {self.stolen:.0%} of the cores")
        if self.spread is not None and self.spread > SPREAD:
            found.append(f"the time of one fixed product spread by {self.spread:.0%}")
        return found

    def record(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return {**self._asdict(), "faults": self.faults}


def own_cores() -> int:
    """The number of cores that this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def snapshot(
    proc: Path = Path("/proc"), root: int | None = None, cores: Iterable[int] | None = None
) -> Snapshot | None:
    """The counts of this moment, or None where the operating system has none.

    Args:
        proc: the folder of Linux' counts.
        root: the process that measures, with its children; by default this one.
        cores: the numbers of the cores that it may use; by default those of this process.
    """
    if not (proc / "stat").exists():
        return None
    second = os.sysconf("SC_CLK_TCK")
    names = {f"cpu{core}" for core in (os.sched_getaffinity(0) if cores is None else cores)}
    busy = stolen = 0
    for line in (proc / "stat").read_text().splitlines():
        name, *counts = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
    own = _own_ticks(proc, root or os.getpid())
    return Snapshot(time.perf_counter(), busy / second, stolen / second, own / second)


def _own_ticks(proc: Path, root: int) -> int:
    """The processor time of a process and all its children, the ended ones included."""
    parent_of, ticks_of = {}, {}
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name of the program is in parentheses, and may hold any character.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # The process has ended.
            continue
        pid = int(folder.name)
        parent_of[pid] = int(fields[1])
        # Its own time as a user and in the system, and that of the children that it has waited for.
        ticks_of[pid] = sum(map(int, fields[11:15]))
    ours, before = {root}, 0
    while len(ours) > before:
        before = len(ours)
        ours |= {pid for pid, parent in parent_of.items() if parent in ours}
    return sum(ticks_of.get(pid, 0) for pid in ours)


def between(first: Snapshot | None, last: Snapshot | None, cores: int, spread: float | None = None) -> Disturbance:
    """What others did from the first snapshot to the last one."""
    if first is None or last is None:
        return Disturbance(spread=spread)
    whole = cores * (last.time - first.time)
    others = (last.busy - first.busy) - (last.own - first.own)
    # Both counts advance in steps of 10 ms, so that a difference may be a little negative.
    return Disturbance(max(0.0, others / whole), (last.stolen - first.stolen) / whole, spread)


def spread_of(seconds: list[float]) -> float | None:
    """The distance between the quartiles of some times, as a share of their median."""
    if len(seconds) < 4:
        return None
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / middle


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option of every benchmark."""
    text = "measure and write although other programs use the cores; the results then say it"
    parser.add_argument("--busy", action="store_true", help=text)


class Watch:
    """Looks at the machine before a measurement and during it.

    Args:
        busy: whether figures from a busy machine are welcome.

    Raises:
        SystemExit: if the machine is busy already, and this is not welcome.
    """

    def __init__(self, busy: bool):
        self.allows_busy = busy
        self.mark()
        time.sleep(BEFORE)
        self.before = self.since_mark()
        self._refuse(self.before, "before the first measurement")
        self._start = self.mark()

    def mark(self) -> Snapshot | None:
        """Begins a part of the measurement."""
        self._mark = snapshot()
        return self._mark

    def since_mark(self, spread: float | None = None) -> Disturbance:
        """What others did since the last mark."""
        return between(self._mark, snapshot(), own_cores(), spread)

    def verdict(self, spread: float | None = None) -> dict[str, Any]:
        """For the results: what others did from the start to now.

        Raises:
            SystemExit: if the machine was busy, and this is not welcome.
        """
        during = between(self._start, snapshot(), own_cores(), spread)
        self._refuse(during, "during the measurement")
        return {"before": self.before.record(), "during": during.record()}

    def _refuse(self, disturbance: Disturbance, when: str) -> None:
        if disturbance.faults and not self.allows_busy:
            raise SystemExit(
                f"The machine is not quiet: {', '.join(disturbance.faults)} {when}. The results are not written. "
                "Stop the other programs, or give --busy: the results then say it."
            )
