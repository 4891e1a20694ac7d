"""The run folder: the folder of `examples.char_lm`, with the settings and facts of a tagger."""

from examples.char_lm.run import Run as CharLMRun

from .config import PROGRAM, Config
from .data import Facts


class Run(CharLMRun):
    """A run folder. Its best checkpoint has the highest F1 of the validation part."""

    program = PROGRAM
    config_type = Config
    text_type = Facts
