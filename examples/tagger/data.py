"""From labeled sentences to numbers, and from numbers to batches."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recurrax.data import PaddedBatch, batch_by_length

from . import conll, peoples_daily, python_source
from .config import Config, UserError
from .sentences import Parts, Sentence
from .spans import bio_labels, labels_of

# Sentences are padded to one of these lengths, so few functions are compiled.
LENGTHS = (32, 64, 128, 256)

# A character without a number of its own has this number.
UNKNOWN = 0

# The distance of a character such as "A" from its wide form in Chinese text, such as "Ａ".
_WIDE = 0xFEE0


class Facts(NamedTuple):
    """The facts of the data that a run keeps. Tagging needs no other data.

    Attributes:
        source: the value of `--data`.
        sha256: the digest of all sentences and labels.
        types: the types of spans.
        chars: the known characters; the first of them has number 1.
        pairs: the known pairs, one after another.
    """

    source: str
    sha256: str
    types: list[str]
    chars: str
    pairs: str


class Example(NamedTuple):
    """A sentence as numbers; each part is `int32[T]`. A batch of sentences has `int32[B, T]`."""

    chars: Any
    pairs: Any
    labels: Any


class Part(NamedTuple):
    """A part of a data set, in words and in numbers."""

    sentences: list[Sentence]
    examples: list[Example]


class Corpus(NamedTuple):
    """A data set."""

    facts: Facts
    train: Part
    validation: Part
    test: Part


class Encoder:
    """Turns sentences into numbers."""

    def __init__(self, facts: Facts):
        """Takes the facts that decide the numbers."""
        self.labels = bio_labels(facts.types)
        self._label_numbers = _numbered(self.labels, 0)
        self._chars = _numbered(facts.chars, 1)
        self._pairs = _numbered(_twos(facts.pairs), 1)

    def __call__(self, sentence: Sentence) -> Example:
        """Numbers the characters of a sentence, its pairs and its labels."""
        text = "".join(map(self._known, sentence.text))
        labels = labels_of(sentence.spans, len(text))
        return Example(
            _look_up(self._chars, text),
            _look_up(self._pairs, pairs_of(text)),
            _look_up(self._label_numbers, labels),
        )

    def _known(self, char: str) -> str:
        """Returns the wide form of a character that is known in its wide form alone."""
        if char in self._chars or not "!" <= char <= "~":
            return char
        return chr(ord(char) + _WIDE)


def load(source: str) -> tuple[Parts, list[str]]:
    """Reads a data set.

    Args:
        source: `"python"`, `"peoples-daily"`, or a folder in the format of `conll.py`.

    Returns:
        The parts of the data set, and the types of its spans.

    Raises:
        UserError: if there is no such data set, or it cannot be read.
    """
    if source == "python":
        return python_source.load(), list(python_source.TYPES)
    if source == "peoples-daily":
        return peoples_daily.load(), list(peoples_daily.TYPES.values())
    folder = Path(source)
    if not source or not folder.is_dir():
        raise UserError(f"--data must be python, peoples-daily or a folder; got {source!r}.")
    parts = conll.load(folder)
    # A folder does not say which types it has: they are collected from its labels.
    types: set[str] = set()
    for part in parts:
        for sentence in part:
            types.update(span.type for span in sentence.spans)
    if not types:
        raise UserError(f"--data: no file in {source!r} has a label except O.")
    return parts, sorted(types)


def make_corpus(source: str, config: Config) -> Corpus:
    """Reads a data set and numbers it. The numbers come from the training part alone.

    Raises:
        UserError: if the data set cannot be read, or a sentence is too long.
    """
    parts, types = load(source)
    if source not in ("python", "peoples-daily"):
        # The run may be resumed from another working directory.
        source = str(Path(source).absolute())
    char_counts: Counter[str] = Counter()
    pair_counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    for part in parts:
        for sentence in part:
            _check_length(sentence)
            digest.update(repr(sentence).encode())
    for sentence in parts.train:
        char_counts.update(sentence.text)
        pair_counts.update(pairs_of(sentence.text))
    chars, pairs = "", ""
    for char, count in sorted(char_counts.items()):
        if count >= config.least_count:
            chars += char
    # Equally frequent pairs are taken in the order in which the text has them.
    for pair, _ in pair_counts.most_common(config.pairs):
        pairs += pair
    facts = Facts(source, digest.hexdigest(), types, chars, pairs)
    encode = Encoder(facts)
    in_numbers = []
    for part in parts:
        in_numbers.append(Part(part, list(map(encode, part))))
    return Corpus(facts, *in_numbers)


def pairs_of(text: str) -> Iterator[str]:
    r"""Pairs each character with the next one, and the last one with a line end.

    Example:
        >>> list(pairs_of("abc"))
        ['ab', 'bc', 'c\n']
    """
    return map("".join, zip(text, text[1:] + "\n", strict=True))


def epoch_batches(
    examples: list[Example], size: int, draw: np.random.Generator
) -> list[PaddedBatch]:
    """Divides all examples into batches, in an order that `draw` decides.

    A batch has about `size` characters, whatever its padded length is. Every order gives
    batches of the same shapes.
    """
    groups: dict[int, list[Example]] = {}
    for length in LENGTHS:
        groups[length] = []
    for index in draw.permutation(len(examples)):
        example = examples[index]
        groups[padded_length(len(example.chars))].append(example)
    batches: list[PaddedBatch] = []
    for length, group in groups.items():
        rows = max(size // length, 1)
        batches += batch_by_length(group, (length,), rows)
    order = draw.permutation(len(batches))
    return list(map(batches.__getitem__, order))


def padded_length(length: int) -> int:
    """Returns the least padded length that is long enough."""
    return min(filter(length.__le__, LENGTHS))


def pieces(text: str) -> Iterator[str]:
    """Cuts a text of any length into pieces that the network reads, at line or sentence ends."""
    longest = LENGTHS[-1]
    while len(text) > longest:
        ends = [text.rfind(mark, 0, longest) for mark in "\n。！？"]
        # Without any mark, each `rfind` returns -1.
        end = max(ends) + 1 or longest
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def _check_length(sentence: Sentence) -> None:
    if len(sentence.text) > LENGTHS[-1]:
        raise UserError(
            f"--data: a sentence may have {LENGTHS[-1]} characters at most; got "
            f"{len(sentence.text):,} in {sentence.text[:20]!r}... "
            "Is an empty line missing after each sentence?"
        )


def _twos(pairs: str) -> Iterator[str]:
    """Takes pairs apart that stand one after another."""
    return map("".join, zip(pairs[::2], pairs[1::2], strict=True))


def _numbered(items: Iterable[str], first: int) -> dict[str, int]:
    return dict(zip(items, itertools.count(first), strict=False))


def _look_up(numbers: dict[str, int], items: Iterable[str]) -> np.ndarray:
    return np.array([numbers.get(item, UNKNOWN) for item in items], np.int32)
