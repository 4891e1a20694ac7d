"""The parts of a command line that do not depend on the program: options, messages, exit codes."""

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from .config import UserError

DEFAULT = " (default: %(default)s)"

# The exit codes. A shell gives 130 to a program that Ctrl-C ended.
DONE, FAILED, STOPPED = 0, 2, 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one message."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and exits."""
        # The usage of twenty options would hide the message.
        fail(f"{message}\nAll options: {self.prog} --help")
        raise SystemExit(FAILED)


def fail(message: str) -> None:
    """Prints an error message."""
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


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
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C.
    """
    # Orbax logs the errors that the messages here tell.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        return command(options)
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
    return FAILED
