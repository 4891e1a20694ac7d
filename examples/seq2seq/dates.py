"""Dates in many forms, made on the spot, and the numbers of their characters."""

import datetime
import hashlib
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .config import Config, UserError

# The characters of a source. Number 0 is the padding.
SOURCE = string.ascii_letters + string.digits + " ,./'-"
# The characters of a target, behind the token that begins and ends it.
TARGET = string.digits + "-"
STOP = 0

# Each target has ten characters, such as 2026-11-24, and the token that ends it.
TARGET_LENGTH = 11
# The longest form has fewer characters.
SOURCE_LENGTH = 40

# The days that can be drawn. A year of two digits means one of these hundred years.
FIRST, LAST = datetime.date(1950, 1, 1), datetime.date(2049, 12, 31)

# How many dates each held-out part has.
HELD_OUT = 1000

_ONES = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_TEENS = "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
_ORDINALS = f"{_ONES} {_TEENS}".split()


def _in_words(day: int) -> str:
    """Writes a day of the month as a word, such as twenty-fourth."""
    if day <= 20:
        return _ORDINALS[day - 1]
    if day == 30:
        return "thirtieth"
    tens = {2: "twenty", 3: "thirty"}[day // 10]
    return f"{tens}-{_ORDINALS[day % 10 - 1]}"


def _ordinal(day: int) -> str:
    """Writes a day of the month as a number with its ending, such as 24th."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    if 11 <= day <= 13:
        ending = "th"
    return f"{day}{ending}"


def _form(pattern: str) -> Callable[[datetime.date], str]:
    """Makes a function that writes a date by a pattern.

    `{d}` is the day without a zero, `{m}` the month, `{th}` the day with its ending, `{words}` the
    day as a word. `%A` and the like are those of `strftime`.
    """

    def write(date: datetime.date) -> str:
        text = date.strftime(pattern)
        day = date.day
        return text.format(d=day, m=date.month, th=_ordinal(day), words=_in_words(day))

    return write


# No form is ambiguous: where both are numbers, the day comes before the month, or the year does.
FORMS = [
    _form(pattern)
    for pattern in (
        "%A, {d} %B %Y",
        "%A, %B {d}, %Y",
        "%B {d}, %Y",
        "%b {d} %Y",
        "%b. {th}, %Y",
        "{d} %b %Y",
        "{d} %B '%y",
        "{th} of %B %Y",
        "{th} %b. '%y",
        "the {words} of %B, %Y",
        "%a %b %d %Y",
        "%d-%b-%y",
        "%d/%m/%Y",
        "{d}/{m}/%y",
        "{d}.{m}.%Y",
        "%d.%m.%y",
        "%Y/%m/%d",
        "%Y%m%d",
        "%Y %b {d}",
    )
]
CASES = (str, str, str.lower, str.upper)


# Forms that differ, for a picture.
SHOWN = (0, 9, 4, 7, 13, 17)


class Dates(NamedTuple):
    """Dates as numbers: arrays of NumPy, or of JAX in a compiled function.

    Attributes:
        sources: `int32[N, S]`, the characters of each form, padded by 0.
        lengths: `int32[N]`, the number of characters of each form.
        targets: `int32[N, 11]`, the ISO date and the token that ends it.
    """

    sources: Any
    lengths: Any
    targets: Any


class Corpus(NamedTuple):
    """The dates of a run: no day of a held-out part is in the training part."""

    train: Dates
    validation: Dates
    test: Dates
    sha256: str


def make_corpus(config: Config) -> Corpus:
    """Makes the dates of a run.

    The seed of the settings does not change the split and the forms. So runs can be compared.
    """
    draw = np.random.default_rng(0)
    days = draw.permutation((LAST - FIRST).days + 1)
    validation = _write(days[:HELD_OUT], HELD_OUT, draw)
    test = _write(days[HELD_OUT : 2 * HELD_OUT], HELD_OUT, draw)
    # The training part comes last, so its size changes no other part.
    train = _write(days[2 * HELD_OUT :], config.examples, draw)
    digest = hashlib.sha256()
    for part in (*train, *validation, *test):
        digest.update(part.tobytes())
    return Corpus(train, validation, test, digest.hexdigest())


def _write(days: np.ndarray, number: int, draw: np.random.Generator) -> Dates:
    """Writes dates, each in a form and a case that are drawn."""
    texts, targets = [], []
    for day in draw.choice(days, number):
        date = FIRST + datetime.timedelta(int(day))
        form, case = draw.integers(len(FORMS)), draw.integers(len(CASES))
        texts.append(CASES[case](FORMS[form](date)))
        targets.append(encode_target(date.isoformat()))
    sources, lengths = encode_sources(texts)
    return Dates(sources, lengths, np.stack(targets))


def in_many_forms(target: np.ndarray) -> Dates:
    """Writes the day of a target in six forms."""
    date = datetime.date.fromisoformat(decode_target(target))
    texts = [FORMS[number](date) for number in SHOWN]
    sources, lengths = encode_sources(texts)
    return Dates(sources, lengths, np.stack([target] * len(texts)))


def encode_sources(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the characters of texts: `int32[N, S]` and their lengths.

    Raises:
        UserError: if a text is empty or too long, or has a character that no form has.
    """
    numbers = np.zeros((len(texts), SOURCE_LENGTH), np.int32)
    for row, text in zip(numbers, texts, strict=True):
        if not 1 <= len(text) <= SOURCE_LENGTH:
            raise UserError(
                f"a date must have 1 to {SOURCE_LENGTH} characters; {text!r} has {len(text)}."
            )
        # A character without a number would need a number that no training has taught.
        unseen = sorted(set(text) - set(SOURCE))
        if unseen:
            names = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in unseen[:10])
            raise UserError(
                f"{text!r} has characters that no date of the training has: {names}. "
                "Dates are in English."
            )
        row[: len(text)] = [SOURCE.index(char) + 1 for char in text]
    return numbers, np.array([len(text) for text in texts], np.int32)


def decode_source(numbers: np.ndarray) -> str:
    """Returns the text of numbered characters; the padding is left out."""
    return "".join(SOURCE[number - 1] for number in numbers if number)


def encode_target(text: str) -> np.ndarray:
    """Numbers the characters of an ISO date, with the token that ends it."""
    return np.array([*(TARGET.index(char) + 1 for char in text), STOP], np.int32)


def decode_target(numbers: np.ndarray) -> str:
    """Returns the text of numbered characters up to the token that ends it."""
    text = ""
    for number in numbers:
        if number == STOP:
            break
        text += TARGET[number - 1]
    return text
