"""The log of a run as TensorBoard reads it."""

import importlib.util
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .config import UserError
from .files import append, write

# The names in TensorBoard of what the log has; losses are shown in bits.
_TAGS = {
    "loss": "bits_per_character/training",
    "validation_loss": "bits_per_character/validation",
    "gradient_norm": "gradient_norm",
}


def check_tensorboard() -> None:
    """Makes sure that the events can be written.

    Raises:
        UserError: if a package is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard needs tensorboardX, which is not installed. "
            "Install it by: pip install 'recurrax[tensorboard]'"
        )


class Events:
    """Writes the rows of a log into a file that TensorBoard reads.

    All of the file follows from the log. So a resumed run writes it anew, and no step is there
    twice.
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]]):
        """Takes the folder of the file, and the rows of the log up to now."""
        check_tensorboard()
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # TensorBoard knows its files by this name.
        self._path = folder / f"events.out.tfevents.{time.time():.0f}.char_lm"
        # The log counts seconds from the start of the run.
        self._began = time.time()
        if rows:
            self._began -= rows[-1]["seconds"]
        records = [_record(wall_time=self._began, file_version="brain.Event:2")]
        for row in rows:
            records += self._records(row)
        write(self._path, records)
        self._unsaved: list[bytes] = []

    def add(self, row: dict[str, Any]) -> None:
        """Takes a new row of the log. With a validation, all rows reach the file."""
        self._unsaved += self._records(row)
        if "validation_loss" in row:
            append(self._path, b"".join(self._unsaved))
            self._unsaved.clear()

    def _records(self, row: dict[str, Any]) -> Iterator[bytes]:
        from tensorboardX import summary

        for name, value in row.items():
            if name == "sample":
                # Four spaces keep the lines of a text in TensorBoard.
                shown = summary.text(name, "    " + value.replace("\n", "\n    "))
            elif name.endswith("loss"):
                shown = summary.scalar(_TAGS[name], value / math.log(2))
            elif name in _TAGS:
                shown = summary.scalar(_TAGS[name], value)
            else:
                continue
            wall_time = self._began + row["seconds"]
            yield _record(wall_time=wall_time, step=row["step"], summary=shown)


def _record(**event: Any) -> bytes:
    """An event as it stands in the file: its size, its bytes, and a checksum of both."""
    # Its writer of files has a thread, which a full disk ends without a word.
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = Event(**event).SerializeToString()
    size = struct.pack("<Q", len(content))
    parts = [size, struct.pack("<I", masked_crc32c(size))]
    parts += [content, struct.pack("<I", masked_crc32c(content))]
    return b"".join(parts)
