"""The lock of a run folder: one trainer at a time."""

import os
import platform
from pathlib import Path
from typing import Any, Self

from .command import warn
from .config import UserError
from .files import LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Keeps a second trainer out of a run folder.

    The system holds the lock for the process. So a lock ends with its process, even by a kill, and
    no stale lock can remain. Where the system has no such locks, a second trainer is not noticed.
    """

    def __init__(self, folder: Path):
        """Takes the run folder."""
        self.folder = folder
        self.path = folder / LOCK

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+")
        try:
            self._acquire()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def check(self) -> None:
        """Makes sure that the folder is still the one that was locked.

        Raises:
            UserError: if it was removed, or replaced by another.
        """
        try:
            there = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except OSError:
            there = False
        if not there:
            raise UserError(
                f"the run folder {str(self.folder)!r} was removed while the program ran."
            )

    def check_free(self) -> None:
        """Makes sure that no program trains in the folder. Several programs may ask at once.

        Raises:
            UserError: if one does.
        """
        if self.path.exists():
            with open(self.path) as file:
                _lock(file, shared=True)

    def _acquire(self) -> None:
        _lock(self._file)
        # The message of a second trainer tells who holds the lock.
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}")
        self._file.flush()


def _lock(file: Any, shared: bool = False) -> None:
    """Locks an open file until it is closed."""
    if fcntl is None:
        return
    kind = fcntl.LOCK_EX
    if shared:
        kind = fcntl.LOCK_SH
    # LOCK_NB: refuse at once, rather than wait.
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise UserError(
            f"another program trains in {str(Path(file.name).parent)!r}: {file.read()}. "
            "Let it end or stop it, or name another folder."
        ) from error
    except OSError as error:
        warn(f"{file.name!r} cannot be locked: {error.strerror}.")
