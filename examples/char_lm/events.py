"""The log of a run as TensorBoard reads it."""

import importlib.util
import math
import time
from pathlib import Path
from typing import Any

from .config import UserError

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
    """Writes the rows of a log into a folder that TensorBoard reads.

    All of the folder follows from the log. So a resumed run writes it anew, and no step is there
    twice.
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]]):
        """Takes the folder, and the rows of the log up to now."""
        check_tensorboard()
        # This writer uses no thread: on a full disk it fails where it is called.
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventsWriter(str(folder / "events"))
        # The log counts seconds from the start of the run.
        self._began = time.time()
        if rows:
            self._began -= rows[-1]["seconds"]
        for row in rows:
            self.add(row)
        self._writer.flush()

    def add(self, row: dict[str, Any]) -> None:
        """Writes a row of the log. With a validation, all rows reach the disk."""
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event

        for name, value in row.items():
            if name == "sample":
                # Four spaces keep the lines of a text in TensorBoard.
                shown = summary.text("sample", "    " + value.replace("\n", "\n    "))
            elif name not in _TAGS:
                continue
            else:
                bits = value
                if name.endswith("loss"):
                    bits = value / math.log(2)
                shown = summary.scalar(_TAGS[name], bits)
            wall_time = self._began + row["seconds"]
            self._writer.write_event(Event(wall_time=wall_time, step=row["step"], summary=shown))
        if "validation_loss" in row:
            self._writer.flush()
