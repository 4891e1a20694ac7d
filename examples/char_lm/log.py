"""The log of a run: a line of JSON for each training step and each validation."""

import json
import time
from pathlib import Path
from typing import Any

from .command import warn
from .files import append, write


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
        self._began = time.monotonic()
        # The clock of a resumed run continues.
        if self.rows:
            self._began -= self.rows[-1]["seconds"]

    def note(self, step: int, **values: float) -> None:
        """Adds a line."""
        seconds = round(time.monotonic() - self._began, 3)
        row = {"step": step, **values, "seconds": seconds}
        self.rows.append(row)
        self._unsaved.append(_line(row))

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
    if not all(isinstance(value, int | float) for value in row.values()):
        return None
    return row
