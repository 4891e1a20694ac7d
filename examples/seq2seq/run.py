"""The run folder: the folder of `examples.char_lm`, with the settings and facts of this program."""

from typing import NamedTuple

from examples.char_lm.run import Run as CharLMRun

from .config import PROGRAM, Config


class Facts(NamedTuple):
    """The digest of the dates: another version of this program may make others."""

    sha256: str


class Run(CharLMRun):
    """A run folder. Its best checkpoint has the lowest validation loss."""

    program = PROGRAM
    config_type = Config
    text_type = Facts
