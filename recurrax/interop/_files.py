"""Files: `read` takes only plain files, and `write` writes all bytes or none."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

_POSIX = os.name == "posix"


def read(path: str | os.PathLike, largest: int | None = None) -> bytes:
    """All bytes of a file, copied: a later change of the file does no harm.

    Raises:
        ValueError: if `path` is a folder, a pipe or a device, or exceeds `largest` bytes.
        OSError: if there is no such file, or it cannot be read.
    """
    # Opening a pipe waits for a writer unless it is told not to. What was opened is checked, not
    # what the name says.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a pipe or a device"
            if stat.S_ISDIR(status.st_mode):
                kind = "a folder"
            raise ValueError(f"`path` must be a file; {os.fspath(path)} is {kind}.")
        if largest is not None and status.st_size > largest:
            raise ValueError(
                f"`path` must be a file of at most {largest} bytes; "
                f"{os.fspath(path)} has {status.st_size}."
            )
        with open(descriptor, "rb", closefd=False) as file:
            # A file that grows meanwhile is read no further.
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def write(path: str | os.PathLike, content: bytes) -> None:
    """Puts bytes into a file: a reader finds the old content or all of the new.

    The bytes go into a new file in the same folder, which then takes the name. An old file's
    permissions are kept. The process sets the permissions of a new one. A link is replaced, not
    followed.

    Raises:
        ValueError: if `path` is a folder, a pipe or a device.
        OSError: if the file cannot be written. Then the old file is still there, and nothing else.
    """
    path = Path(path)
    mode = _mode(path)
    # No other writer has this name, nor can anyone foresee it; "x" refuses a file or a link that is
    # there.
    beside = path.with_name(f".{secrets.token_hex(16)}.tmp")
    asked = 0o666 if mode is None else mode

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, asked)

    try:
        with open(beside, "xb", opener=opener) as file:
            if mode is not None and _POSIX:
                os.fchmod(file.fileno(), mode)  # The process' mask may have taken some away.
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(path.parent)


def _mode(path: Path) -> int | None:
    """The permissions of the file under this name, or None if there is no file."""
    try:
        found = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found):
        return None
    if not stat.S_ISREG(found):
        raise ValueError(
            f"`path` must be the name of a file; {path} is a folder, a pipe or a device."
        )
    return stat.S_IMODE(found)


def _sync_folder(folder: Path) -> None:
    """Makes sure that the new name survives a power failure, where folders can be synced."""
    if not _POSIX:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Not every file system syncs folders, and a folder that may be written need not be
        # readable.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise
