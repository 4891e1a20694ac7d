"""Files: their names in a run folder, and `write`, which leaves all bytes or none."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from .config import UserError

# What a run folder holds; `run.py` tells more.
LAST, BEST = "last", "best"
TEXT, LOG, CURVES, LOCK = "text.bin", "log.jsonl", "curves.png", "lock"
SESSIONS, REPORT, EVENTS = "sessions.jsonl", "report.html", "tensorboard"


def is_of_run(path: Path, folder: Path) -> bool:
    """Returns whether a file is one of a run folder's: a text may lie in the same folder."""
    path, folder = path.resolve(), folder.resolve()
    if not path.is_relative_to(folder):
        return False
    name = path.relative_to(folder).parts[0].removesuffix(".tmp")
    return name in (LAST, BEST, TEXT, LOG, CURVES, LOCK, SESSIONS, REPORT, EVENTS)


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Writes a file. However the program or the machine stops, the path holds all bytes or none.

    Args:
        path: the file. An old file is replaced.
        parts: the bytes, part by part, so that a file may be larger than the memory.

    Raises:
        UserError: if the disk is full, or the folder is gone. The old file is still there.
    """
    # A kill leaves only the draft incomplete.
    draft = path.with_name(path.name + ".tmp")
    try:
        try:
            with open(draft, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            # The bytes are on the disk. Now they get the name, in one instant.
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _told(path, error) from error


def append(path: Path, content: bytes) -> None:
    """Adds bytes to the end of a file. A kill may leave a part of them.

    Raises:
        UserError: if the disk is full, or the folder is gone.
    """
    try:
        with open(path, "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _told(path, error) from error


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes sure that a new name survives a power failure."""
    # Windows opens no folder, and not every file system can sync one.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _told(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"cannot write {str(path)!r}: its folder was removed.")
    return UserError(
        f"cannot write {str(path)!r}: {error.strerror}. What was saved before is still there."
    )
