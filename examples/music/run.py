"""The run folder: the folder of `examples.char_lm`, with the settings and facts of this program."""

from typing import NamedTuple

from examples.char_lm.run import Run as CharLMRun

from .config import PROGRAM, Config


class Facts(NamedTuple):
    """The facts of the pieces that a run keeps: the value of `--data` as a path, and a digest."""

    source: str | None
    sha256: str


class Run(CharLMRun):
    """A run folder. Its best checkpoint has the lowest validation loss."""

    program = PROGRAM
    config_type = Config
    text_type = Facts
