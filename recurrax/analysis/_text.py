"""Texts with the values of a unit: features of a text, and colored texts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from recurrax._arguments import describe

_OPENING, _CLOSING = "([{", ")]}"

# The colors of the largest values of both signs.
_POSITIVE = np.array([214, 69, 65])  # red
_NEGATIVE = np.array([58, 118, 195])  # blue
_WHITE = np.array([255, 255, 255])


def text_features(text: str) -> dict[str, np.ndarray]:
    """Computes features of a text for each of its characters, for `find_units`.

    Each feature is known after the character is read. An opening bracket is inside, its closing
    bracket is outside.

    Args:
        text: the text.

    Returns:
        Arrays `int[T]` by name:

        - "brackets": how many brackets `( [ {` are open, without those in quotes.
        - "quotes": 1 inside of double quotes, else 0.
        - "indentation": the number of spaces at the start of the line, so far.
        - "position": the number of characters since the start of the line.

    Example:
        >>> from recurrax.analysis import text_features
        >>> features = text_features('f("a")')
        >>> features["brackets"].tolist(), features["quotes"].tolist()
        ([0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0])
    """
    names = ("brackets", "quotes", "indentation", "position")
    rows = []
    depth = quoted = indentation = position = 0
    at_start = True  # whether the line has had only spaces so far
    for character in text:
        position += 1
        # The indentation grows until the first character that is no space.
        if character == "\n":
            indentation = position = 0
            at_start = True
        elif character != " ":
            at_start = False
        elif at_start:
            indentation += 1
        if character == '"':
            quoted = 1 - quoted
        if character in _OPENING and not quoted:
            depth += 1
        if character in _CLOSING and not quoted:
            # A closing bracket too many, as in a list "a)", changes nothing.
            depth = max(depth - 1, 0)
        rows.append((depth, quoted, indentation, position))
    table = np.array(rows, int).reshape(-1, len(names))  # [T, 4]
    return dict(zip(names, table.T, strict=True))


def text_html(text: Sequence[str], values: Any, *, limit: float | None = None) -> str:
    """Colors a text by the values of one unit, as HTML.

    Positive values are red and negative ones blue, the stronger the larger. The pointer of the
    mouse shows the number.

    Args:
        text: the characters of a string, or a list of tokens.
        values: `[T]`, one number for each character or token.
        limit: the size of a value with the full color; None for the largest size in `values`.

    Returns:
        A `<pre>` element, for a file or for `IPython.display.HTML`.

    Raises:
        ValueError: if there is not one number for each character.

    Example:
        >>> from recurrax.analysis import text_html
        >>> print(text_html("<a", [1.0, -0.5]))
        <pre style="white-space:pre-wrap;color:#000;background:#fff">\
<span style="background:#d64541" title="1">&lt;</span>\
<span style="background:#9cbae1" title="-0.5">a</span></pre>
    """
    parts = []
    for piece, value, color in _colored(text, values, limit):
        red, green, blue = color
        style = f"background:#{red:02x}{green:02x}{blue:02x}"
        parts.append(f'<span style="{style}" title="{value:.3g}">{html.escape(piece)}</span>')
    spans = "".join(parts)
    return f'<pre style="white-space:pre-wrap;color:#000;background:#fff">{spans}</pre>'


def text_ansi(text: Sequence[str], values: Any, *, limit: float | None = None) -> str:
    r"""Colors a text by the values of one unit, for a terminal with 24-bit colors.

    Args:
        text: the characters of a string, or a list of tokens.
        values: `[T]`, one number for each character or token.
        limit: the size of a value with the full color; None for the largest size in `values`.

    Returns:
        The text with escape sequences of ANSI, to be printed.

    Raises:
        ValueError: if there is not one number for each character.

    Example:
        >>> from recurrax.analysis import text_ansi
        >>> text_ansi("a", [1.0])
        '\x1b[38;2;0;0;0;48;2;214;69;65ma\x1b[0m'
    """
    parts = []
    # Black letters, 38, on a colored background, 48.
    for piece, _, color in _colored(text, values, limit):
        red, green, blue = color
        # A line break in color would color the rest of the line.
        for line in piece.splitlines(keepends=True):
            words = line.rstrip("\n")
            if words:
                parts.append(f"\x1b[38;2;0;0;0;48;2;{red};{green};{blue}m{words}\x1b[0m")
            parts.append(line[len(words) :])
    return "".join(parts)


def _colored(text: Sequence[str], values: Any, limit: float | None) -> list[tuple]:
    """Returns each piece of a text with its value and its color, three ints from 0 to 255."""
    values = np.asarray(values, np.float64)
    if values.shape != (len(text),):
        raise ValueError(
            f"`values` must be [{len(text)}], one number per piece of `text`; "
            f"got {describe(values)}."
        )
    # The largest of no values is 0.
    if limit is None:
        limit = np.abs(values).max(initial=0)
    pieces = []
    for piece, value in zip(text, values, strict=True):
        # From white at 0 to the full color at `limit`.
        share = 0.0
        if limit > 0:
            share = min(abs(value) / limit, 1)
        strongest = _POSITIVE
        if value < 0:
            strongest = _NEGATIVE
        color = np.rint(_WHITE + share * (strongest - _WHITE)).astype(int)
        pieces.append((piece, value, tuple(map(int, color))))
    return pieces
