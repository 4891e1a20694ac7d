"""The run folder: checkpoints, which also hold the settings, the log and the text."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple, Self

from . import checkpoint
from .command import warn
from .config import PROGRAM, Config, UserError
from .data import Text
from .files import BEST, CURVES, EVENTS, LAST, LOG, REPORT, SESSIONS, TEXT
from .lock import Lock

_IF_ABSENT = {
    LAST: "begin again with train --overwrite",
    BEST: "it is written with the first validation",
}


class Saved(NamedTuple):
    """A checkpoint's step, its arrays, and the best score up to there; lower is better."""

    step: int
    tree: Any
    best: float


class Run:
    """A run folder.

    The folder holds:

    - `last`: the newest two checkpoints, to resume from.
    - `best`: the checkpoint with the best validation, to sample from, and the one before it.
    - `log.jsonl`: a line for each training step, validation and sample; losses in nats.
    - `curves.png`: the losses as a picture.
    - `report.html`: what is known about the run, in one file.
    - `sessions.jsonl`: a line for each start: the command, the machine and the versions.
    - `tensorboard`: the log as TensorBoard reads it, if `--tensorboard` was given.
    - `text.bin`: the characters of the text as numbers. Resuming needs no other text.
    - `lock`: tells a second trainer that the first one is at work.

    Each checkpoint also holds the settings and the vocabulary. A run begins with its first
    checkpoint, of step 0: a folder without a checkpoint holds no run.

    Another program derives a class with its own settings and facts.
    """

    program = PROGRAM
    config_type: Any = Config
    text_type: Any = Text

    def __init__(self, folder: Path, config: Any, text: Any, lock: Lock | None = None):
        """Takes the folder, the settings and the facts of the text. To write needs the lock."""
        self.folder = folder
        self.config = config
        self.text = text
        self.lock = lock

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Returns whether a folder holds a run, damaged or not."""
        return bool(_checkpoints(folder))

    @classmethod
    def check_free(cls, folder: Path, overwrite: bool) -> None:
        """Makes sure that a run may begin in `folder`.

        Raises:
            UserError: if it holds a run already, and `overwrite` is not set.
        """
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out: {str(folder)!r} is a file, not a folder.")
        if overwrite or not cls.exists(folder):
            return
        raise UserError(
            f"--out: {str(folder)!r} already holds a run. "
            f"To go on with it: {cls.program} resume {shlex.quote(str(folder))}. "
            "To keep it, name another --out; to lose it, add --overwrite."
        )

    @classmethod
    def clear(cls, folder: Path, overwrite: bool) -> None:
        """Removes the run that the locked `folder` may hold.

        Raises:
            UserError: if it holds a run, and `overwrite` is not set.
        """
        cls.check_free(folder, overwrite)
        # Only a run's files are removed: the user may keep other files in the folder. While one
        # checkpoint is left, the folder still holds the old run.
        for path in _checkpoints(folder):
            path.unlink()
        for name in (TEXT, LOG, CURVES, SESSIONS, REPORT):
            (folder / name).unlink(missing_ok=True)
        if (folder / EVENTS).is_dir():
            shutil.rmtree(folder / EVENTS)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the run of a folder: each checkpoint holds its settings and the facts of its text.

        Raises:
            UserError: if there is no run, or all its checkpoints are damaged.
        """

        def silent(message: str) -> None:
            """`restore` tells about damaged checkpoints."""

        # The best checkpoint serves where no other one is healthy.
        for kind in (LAST, BEST):
            found = checkpoint.load(folder / kind, silent)
            if found is None:
                continue
            try:
                config = cls.config_type(**found.facts["config"])
                text = cls.text_type(**found.facts["text"])
            except TypeError as error:
                raise UserError(
                    f"the run in {str(folder)!r} is of another version of this program: {error}."
                ) from error
            return cls(folder, config, text)
        if cls.exists(folder):
            raise UserError(
                f"all checkpoints in {str(folder)!r} are damaged. "
                "Begin again with train --overwrite."
            )
        raise UserError(f"there is no run in {str(folder)!r}. To begin one: {cls.program} train.")

    def save(self, kind: str, step: int, tree: Any, best: float) -> None:
        """Writes a checkpoint.

        Of several processes, the one with the lock writes.

        Args:
            kind: `"last"` or `"best"`.
            step: the training step after which it is written.
            tree: the arrays to write.
            best: the best score up to there.

        Raises:
            UserError: if it cannot be written, or the folder was removed.
        """
        assert self.lock is not None
        self.lock.check()
        facts = {**self.facts(), "best": best}
        checkpoint.save(self.folder / kind, step, tree, facts)

    def restore(self, kind: str, like: Any) -> Saved:
        """Reads the newest checkpoint. If it is damaged, the one before it serves.

        Args:
            kind: `"last"` or `"best"`.
            like: arrays with the expected tree, shapes and dtypes.

        Raises:
            UserError: if there is none, or it is of another run.
        """
        folder = self.folder / kind
        found = checkpoint.load(folder, warn)
        if found is None:
            raise UserError(
                f"there is no intact checkpoint in {str(folder)!r}: {_IF_ABSENT[kind]}."
            )
        facts = dict(found.facts)
        best = facts.pop("best")
        # An older checkpoint lacks newer settings, whose defaults do what was done before.
        facts["config"] = {**dataclasses.asdict(self.config_type()), **facts["config"]}
        if facts != self.facts():
            raise UserError(f"the checkpoints in {str(folder)!r} are of different runs.")
        return Saved(found.step, checkpoint.filled(like, found.arrays), best)

    def facts(self) -> dict[str, Any]:
        """Returns the settings and the facts of the text, as JSON holds them."""
        facts = {"config": dataclasses.asdict(self.config), "text": self.text._asdict()}
        # JSON makes lists of tuples, as in the checkpoint that these facts are compared with.
        return json.loads(json.dumps(facts))


def _checkpoints(folder: Path) -> list[Path]:
    return checkpoint.saved(folder / LAST) + checkpoint.saved(folder / BEST)
