"""The two records that every data set fills."""

from typing import NamedTuple

from .spans import Span


class Sentence(NamedTuple):
    """A text and its spans, in their order."""

    text: str
    spans: tuple[Span, ...]


class Parts(NamedTuple):
    """The three parts of a data set.

    The model learns from `train`. Settings and checkpoints are chosen by `validation`. The figures
    that are reported come from `test`.
    """

    train: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
