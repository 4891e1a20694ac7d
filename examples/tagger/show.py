"""The output in a terminal: texts with their spans in color, and tables of scores."""

import itertools
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .sentences import Sentence
from .spans import ALL, Score

# A type keeps its style: the styles are given in the order of the types.
_STYLES = (
    "black on bright_yellow",
    "black on bright_cyan",
    "black on bright_green",
    "black on bright_magenta",
    "white on blue",
    "white on red",
)


def styles(types: Iterable[str]) -> dict[str, str]:
    """Gives each type a style; the styles repeat if there are more types."""
    return dict(zip(types, itertools.cycle(_STYLES), strict=False))


def colored(sentence: Sentence, types: Iterable[str]) -> Text:
    """Colors the spans of a sentence."""
    text = Text(sentence.text)
    style_of = styles(types)
    for start, end, type_ in sentence.spans:
        text.stylize(style_of[type_], start, end)
    return text


def bracketed(sentence: Sentence) -> str:
    """Writes each span in brackets with its type, for a terminal without color or for a file.

    Example:
        >>> from .spans import Span
        >>> bracketed(Sentence("江泽民说", (Span(0, 3, "PER"),)))
        '[江泽民 PER]说'
    """
    written, position = "", 0
    for start, end, type_ in sentence.spans:
        written += sentence.text[position:start]
        written += f"[{sentence.text[start:end]} {type_}]"
        position = end
    return written + sentence.text[position:]


def legend(types: Iterable[str]) -> Text:
    """Shows the color of each type."""
    line = Text()
    for type_, style in styles(types).items():
        line.append(f" {type_} ", style).append(" ")
    return line


def show_sentences(console: Console, sentences: list[Sentence], types: list[str]) -> None:
    """Prints sentences with colors, or with brackets in a file or a terminal without color."""
    if console.color_system is None or console.no_color:
        for sentence in sentences:
            console.out(bracketed(sentence), end="", highlight=False)
    else:
        for sentence in sentences:
            console.print(colored(sentence, types), end="", soft_wrap=True)
        console.print()
        console.print(legend(types), end="")
    console.print()


def show_mistakes(
    console: Console,
    expected: list[Sentence],
    predicted: list[Sentence],
    types: list[str],
    number: int,
) -> None:
    """Prints the first sentences with a mistake: the expected spans above the predicted spans."""
    pairs = zip(expected, predicted, strict=True)
    wrong = [pair for pair in pairs if pair[0].spans != pair[1].spans]
    for ours, theirs in wrong[:number]:
        console.print("expected:  ", end="", highlight=False)
        show_sentences(console, [ours], types)
        console.print("predicted: ", end="", highlight=False)
        show_sentences(console, [theirs], types)
        console.print()


def show_scores(console: Console, title: str, scores: dict[str, Score]) -> None:
    """Prints a table of scores, a row for each type."""
    table = Table(title=title, title_justify="left")
    table.add_column("type")
    for name in ("expected", "predicted", "correct", "precision %", "recall %", "F1 %"):
        table.add_column(name, justify="right")
    for type_, counts in scores.items():
        cells = list(map("{:,}".format, counts))
        cells += map("{:.2f}".format, counts.percents)
        if type_ == ALL:
            table.add_section()
        table.add_row(type_, *cells)
    console.print(table)
