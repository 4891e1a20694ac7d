"""Spans and their scores: labels to spans, spans to labels, precision, recall and F1."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

ALL = "all"


class Span(NamedTuple):
    """Some characters of a text with one type, from `start` up to but without `end`."""

    start: int
    end: int
    type: str


class Score(NamedTuple):
    """How many spans were expected, how many were predicted, and how many are in both."""

    expected: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        """The share of the predicted spans that are correct; 0 if there is none."""
        return self.correct / max(self.predicted, 1)

    @property
    def recall(self) -> float:
        """The share of the expected spans that were found; 0 if there is none."""
        return self.correct / max(self.expected, 1)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.correct / max(self.expected + self.predicted, 1)

    @property
    def percents(self) -> tuple[float, float, float]:
        """Precision, recall and F1 in percent."""
        return 100 * self.precision, 100 * self.recall, 100 * self.f1


def bio_labels(types: Iterable[str]) -> list[str]:
    """Names the labels: O, then B and I of each type.

    Example:
        >>> bio_labels(["PER", "LOC"])
        ['O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC']
    """
    labels = ["O"]
    for type_ in types:
        labels += [f"B-{type_}", f"I-{type_}"]
    return labels


def labels_of(spans: Iterable[Span], length: int) -> list[str]:
    """Gives each character its label: B at the start of a span, I inside it, O elsewhere.

    Example:
        >>> labels_of([Span(0, 2, "LOC"), Span(2, 3, "LOC")], 5)
        ['B-LOC', 'I-LOC', 'B-LOC', 'O', 'O']
    """
    labels = ["O"] * length
    for start, end, type_ in spans:
        labels[start:end] = [f"I-{type_}"] * (end - start)
        labels[start] = f"B-{type_}"
    return labels


def spans_of(labels: Sequence[str]) -> list[Span]:
    """Reads spans from labels, by the rules of the program conlleval.

    A span begins at each B. It also begins at an I that continues nothing: after O, or after
    another type. A model without constraints writes such labels.

    Example:
        >>> for span in spans_of(["B-LOC", "I-LOC", "B-LOC", "O", "I-PER"]):
        ...     print(*span)
        0 2 LOC
        2 3 LOC
        4 5 PER

    References:
        Tjong Kim Sang and Buchholz, Introduction to the CoNLL-2000 shared task: chunking, 2000
    """
    spans = []
    start, open_type = 0, ""  # an empty type: no span is open
    # The O at the end closes the last span.
    for position, label in enumerate([*labels, "O"]):
        prefix, _, type_ = label.partition("-")
        if prefix == "I" and type_ == open_type:
            continue
        if open_type:
            spans.append(Span(start, position, open_type))
        start, open_type = position, type_
    return spans


def score(
    expected: Iterable[Sequence[Span]], predicted: Iterable[Sequence[Span]], types: Iterable[str]
) -> dict[str, Score]:
    """Counts spans. A span is correct if its start, its end and its type are right.

    Args:
        expected: the spans of each sentence.
        predicted: the predicted spans of the same sentences.
        types: the types to count.

    Returns:
        The score of each type, and of all types together under the name `"all"`.

    Example:
        >>> right, wrong = Span(0, 2, "LOC"), Span(3, 4, "PER")
        >>> score([[right, wrong]], [[right]], ["LOC", "PER"])["all"].recall
        0.5
    """
    # Equal spans of two sentences are different spans, so the sentence's number is part of each.
    in_expected = set(_numbered(expected))
    in_predicted = set(_numbered(predicted))
    groups = (in_expected, in_predicted, in_expected & in_predicted)
    counts = []
    for group in groups:
        counts.append(Counter(span.type for _, span in group))
    scores = {}
    for type_ in types:
        scores[type_] = Score(*(count[type_] for count in counts))
    scores[ALL] = Score(*map(len, groups))
    return scores


def _numbered(spans: Iterable[Sequence[Span]]) -> Iterator[tuple[int, Span]]:
    """Puts the number of its sentence before each span."""
    for number, of_sentence in enumerate(spans):
        for span in of_sentence:
            yield number, span
