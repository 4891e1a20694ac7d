"""The parts of a command line that do not depend on the program: options, messages, exit codes."""

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from .config import UserError
from .stop import STOPPED, Stopped

DEFAULT = " (default: %(default)s)"

# The exit codes. `stop.py` has those of a run that was stopped.
DONE, FAILED = 0, 2


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one message."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits."""
        # The usage of twenty options would hide the message.
        fail(f"{message}\nAll options: {self.prog} --help")
        raise SystemExit(FAILED)


def fail(message: str) -> None:
    """Prints an error message."""
    _tell("[bold red]error:[/]", message)


def warn(message: str) -> None:
    """Prints a message about a fault that does not stop the program."""
    _tell("[bold yellow]note:[/]", message)


def _tell(title: str, message: str) -> None:
    file: Any = Lasting(sys.stderr)
    console = Console(file=file, highlight=False)
    console.print(f"{title} {escape(message)}", soft_wrap=True)


class Lasting:
    """An output whose loss does not stop the program: a closed pipe, or a terminal that is gone."""

    def __init__(self, file: Any, lost: Callable[[], None] = lambda: None):
        """Takes the output, and a function that is called when the output is lost."""
        self._file = file
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> None:
        """Writes a text, if the output is still there."""
        self._try(self._file.write, text)

    def flush(self) -> None:
        """Sends what was written, if the output is still there."""
        self._try(self._file.flush)

    def _try(self, action: Callable, *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError:
            # The rest goes nowhere, also what Python would send when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())
            self._lost()


def screen() -> Console:
    """Returns the console of a training, which goes on when nobody reads it."""

    def lost() -> None:
        warn("the output is closed; training goes on, and the run folder has its log.")

    file: Any = Lasting(sys.stdout, lost)
    return Console(file=file)


def number_type(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """Makes an argparse type for numbers within a range."""
    word = "a number"
    if kind is int:
        word = "an integer"
    span = f"{low:,} to {high:,}"
    # A limit that no user reaches is not worth a word.
    if high > 10**9:
        span = f"{low:,} or more"

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # No range holds NaN, so the range refuses it too.
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {word}, {span}; got {text!r}")
        return value

    return parse


def add_settings(parser: argparse.ArgumentParser, config_type: Any) -> None:
    """Makes each field of a config an option. Its metadata holds its range, or its choices."""
    for field in dataclasses.fields(config_type):
        option = "--" + field.name.replace("_", "-")
        values: dict[str, Any] = {
            "default": field.default,
            "help": field.metadata["help"] + DEFAULT,
        }
        # A bool becomes two options, such as --crf and --no-crf.
        if isinstance(field.default, bool):
            values["action"] = argparse.BooleanOptionalAction
        elif "choices" in field.metadata:
            values["choices"] = field.metadata["choices"]
        else:
            low, high = field.metadata["low"], field.metadata["high"]
            values["type"] = number_type(type(field.default), low, high)
            values["metavar"] = "N"
        parser.add_argument(option, **values)


def settings(options: argparse.Namespace, config_type: Any) -> Any:
    """Makes the config that the options of `add_settings` describe."""
    values = {}
    for field in dataclasses.fields(config_type):
        values[field.name] = getattr(options, field.name)
    return config_type(**values)


def run_command(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C; 75 after SIGTERM,
        if a run was saved and can be resumed.
    """
    # A program that was started without an output has none.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    # An output in ASCII shows the numbers of the characters that it lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return command(options)
    except Stopped as stopped:
        return stopped.code
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:
        # `sample | head` has read enough. Python would complain about the rest when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        # A full disk, or a folder that the user may not write.
        fail(str(error))
    except KeyboardInterrupt:
        return STOPPED
    except Exception as error:
        # JAX tells by the message alone that an array does not fit.
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail(
            f"the memory is too small: {str(error).partition(chr(10))[0]} "
            "Lower the sizes of the model or of the batch."
        )
    return FAILED
