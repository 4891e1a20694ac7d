"""The log of a run: a line of JSON for each training step, validation and sample."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .command import warn
from .files import append, write

# What a line has beside numbers.
_KINDS = {"sample": str}


class Log:
    """The log of a run, in its file and in memory."""

    def __init__(self, path: Path, step: int, writes: bool = True):
        """Opens the log of a run that goes on after `step`. One process alone writes the file."""
        self.path = path
        self.writes = writes
        # A killed run may have logged steps after its last checkpoint. They are logged again.
        self.rows = [row for row in read(path) if row["step"] <= step]
        lines = map(_line, self.rows)
        if writes:
            write(path, ["".join(lines).encode()])
        self._unsaved: list[str] = []
        # Each new row is also given to these functions.
        self.followers: list[Callable[[dict[str, Any]], None]] = []
        self._began = time.monotonic()
        # The clock of a resumed run continues.
        if self.rows:
            self._began -= self.rows[-1]["seconds"]

    def note(self, step: int, **values: float | str) -> None:
        """Adds a line. All its values are numbers, but a `sample` is a text."""
        seconds = round(time.monotonic() - self._began, 3)
        row = {"step": step, **values, "seconds": seconds}
        self.rows.append(row)
        self._unsaved.append(_line(row))
        for follow in self.followers:
            follow(row)

    def save(self) -> None:
        """Puts the new lines into the file."""
        if self.writes:
            append(self.path, "".join(self._unsaved).encode())
        self._unsaved.clear()

    def minutes(self) -> str:
        """Returns how long the run took, such as "3 min 28 s"."""
        minutes, seconds = divmod(round(self.rows[-1]["seconds"]), 60)
        return f"{minutes} min {seconds} s"


def read(path: Path) -> list[dict[str, Any]]:
    """Reads the lines of a log. Damaged lines are left out, and a message says so."""
    if not path.exists():
        return []
    # A killed run may leave half a line at the end, which has no line end.
    lines = path.read_text("utf-8", errors="replace").split("\n")[:-1]
    rows = []
    for line in lines:
        row = _row(line)
        if row is not None:
            rows.append(row)
    damaged = len(lines) - len(rows)
    if damaged:
        warn(f"{str(path)!r} has damaged lines; {damaged} of {len(lines):,} are left out.")
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _row(line: str) -> dict[str, Any] | None:
    """The row of a line, or None if the line is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not {"step", "seconds"} <= row.keys():
        return None
    for name, value in row.items():
        if not isinstance(value, _KINDS.get(name, int | float)):
            return None
    return row
