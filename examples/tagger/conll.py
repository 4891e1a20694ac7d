"""Labeled characters of a user: three files in the format of the CoNLL shared tasks.

    江 B-PER
    泽 I-PER
    民 I-PER
    说 O

Each line has a character and its label, with a space or a tab between them. An empty line ends a
sentence.
"""

from pathlib import Path

from .config import UserError
from .sentences import Parts, Sentence
from .spans import spans_of

FILES = ("train.txt", "validation.txt", "test.txt")


def load(folder: Path) -> Parts:
    """Reads `train.txt`, `validation.txt` and `test.txt`.

    Raises:
        UserError: if a file is absent, is not UTF-8, has no sentence, or has a wrong line.
    """
    train, validation, test = FILES
    return Parts(_read(folder / train), _read(folder / validation), _read(folder / test))


def _read(path: Path) -> list[Sentence]:
    try:
        content = path.read_text("utf-8-sig")
    except OSError as error:
        names = ", ".join(FILES)
        raise UserError(
            f"--data: cannot read {str(path)!r}: {error.strerror}. "
            f"A folder of data holds {names}, each with a character and its label on each line."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--data: {str(path)!r} is not UTF-8: a wrong byte at offset {error.start:,}."
        ) from error
    sentences: list[Sentence] = []
    chars: list[str] = []
    labels: list[str] = []
    # The empty line at the end closes the last sentence.
    for number, line in enumerate([*content.split("\n"), ""], 1):
        if line:
            char, label = _parse(line, path, number)
            chars.append(char)
            labels.append(label)
        elif chars:
            sentences.append(Sentence("".join(chars), tuple(spans_of(labels))))
            chars, labels = [], []
    if not sentences:
        raise UserError(f"--data: {str(path)!r} has no sentence.")
    return sentences


def _parse(line: str, path: Path, number: int) -> tuple[str, str]:
    """Reads the character and the label of a line."""
    # The character itself may be a blank.
    char, separator, label = line[:1], line[1:2], line[2:].strip()
    prefix, _, type_ = label.partition("-")
    is_label = label == "O" or (prefix in ("B", "I") and type_)
    if separator not in (" ", "\t") or not is_label:
        raise UserError(
            f"--data: line {number:,} of {str(path)!r} must be a character, a space and a label, "
            f"such as '江 B-PER' or '说 O'; got {line!r}."
        )
    return char, label
