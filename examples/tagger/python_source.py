"""Labeled characters on every machine: Python's own source, labeled by Python's tokenizer.

The spans are tokens: a keyword, a name, a string, a comment, a number or an operator. A token of
several lines is one span on each line. The model reads some consecutive lines at once, so it must
tell by their text alone whether they began within a string.
"""

import io
import keyword
import tokenize
from collections.abc import Iterator

from examples.char_lm.data import library_files

from .sentences import Parts, Sentence
from .spans import Span, labels_of, spans_of

_TYPES = {
    tokenize.NAME: "NAME",
    tokenize.STRING: "STRING",
    tokenize.COMMENT: "COMMENT",
    tokenize.NUMBER: "NUMBER",
    tokenize.OP: "OPERATOR",
}
TYPES = ("KEYWORD", *_TYPES.values())

# Consecutive lines have at most this many characters together. A longer line is cut.
_LONGEST = 128


def load() -> Parts:
    """Labels the standard library and splits it by files: every tenth file is for the test."""
    parts = Parts([], [], [])
    # A third of the files has millions of characters, and labeling takes some seconds.
    for number, source in enumerate(library_files()[::3]):
        part = parts.train
        if number % 10 == 8:
            part = parts.validation
        if number % 10 == 9:
            part = parts.test
        part += sentences(source)
    return parts


def sentences(source: str) -> Iterator[Sentence]:
    """Labels a source file and divides it into consecutive lines of at most 128 characters.

    A file that the tokenizer cannot read gives none.

    Example:
        >>> [sentence] = sentences("x = 1")
        >>> [sentence.text[span.start : span.end] for span in sentence.spans]
        ['x', '=', '1']
    """
    try:
        spans = list(_spans(source))
    except (SyntaxError, tokenize.TokenError):
        return
    labels = labels_of(spans, len(source))
    start = 0
    while start < len(source):
        end = start + _LONGEST
        if end < len(source):
            # Without a line end among the characters, `rfind` returns -1.
            end = source.rfind("\n", start, end) + 1 or end
        text = source[start:end]
        yield Sentence(text, tuple(spans_of(labels[start:end])))
        start = end


def _spans(source: str) -> Iterator[Span]:
    """Finds the tokens of a source file, line by line."""
    line_starts = [0, 0]  # the tokenizer counts lines from 1
    for line in source.split("\n"):
        line_starts.append(line_starts[-1] + len(line) + 1)
    # From Python 3.12 on, a formatted string has tokens within it. All are one span here.
    depth = string_start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        start = line_starts[token.start[0]] + token.start[1]
        end = line_starts[token.end[0]] + token.end[1]
        if name in ("FSTRING_START", "TSTRING_START"):
            if not depth:
                string_start = start
            depth += 1
        elif name in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            if not depth:
                yield from _by_lines(source, string_start, end, "STRING")
        elif not depth and token.type in _TYPES:
            type_ = _TYPES[token.type]
            if keyword.iskeyword(token.string):
                type_ = "KEYWORD"
            yield from _by_lines(source, start, end, type_)


def _by_lines(source: str, start: int, end: int, type_: str) -> Iterator[Span]:
    """Makes a span of each line of a token, without the blanks at both ends of the line."""
    for line in source[start:end].split("\n"):
        text = line.strip()
        if text:
            first = start + line.index(text)
            yield Span(first, first + len(text), type_)
        start += len(line) + 1
