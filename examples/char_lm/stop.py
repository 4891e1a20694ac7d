"""Stopping: a signal lets the running step end, so that its state can be saved."""

import signal
from typing import Any

# The exit codes. A shell gives 130 to a program that Ctrl-C ended. 75 is EX_TEMPFAIL of sysexits.h:
# a scheduler that sent SIGTERM reads it as "start `resume` when there is room again".
STOPPED, RESUMABLE = 130, 75
_CODES = {signal.SIGINT: STOPPED, signal.SIGTERM: RESUMABLE}


class Stopped(Exception):  # noqa: N818
    """A run was saved and stopped before its end, because a signal asked for it."""

    def __init__(self, code: int):
        """Takes the exit code of the program."""
        self.code = code


class Stop:
    """Notes the first signal. A second one stops the program at once, as it would without this."""

    code: int | None = None

    def __enter__(self) -> "Stop":
        self._before = {}
        for number in _CODES:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.code = _CODES[signal.Signals(number)]
        self.__exit__()
