"""From files to numbers: find the text, read it, and number its characters."""

import glob
import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .config import Config, UserError

# Tests repeat themselves, and generated tables are no text that a person wrote.
_LEFT_OUT = {"test", "tests", "idle_test", "encodings", "entities.py", "pydoc_data"}
# Other people's code, and programs rather than a library.
_LEFT_OUT |= {"site-packages", "dist-packages", "idlelib", "turtledemo"}


class Corpus(NamedTuple):
    """A text as numbers: character `vocabulary[i]` is number `i`."""

    vocabulary: str
    train: np.ndarray
    validation: np.ndarray
    sha256: str


def load_text(source: str | None) -> str:
    """Reads the text of a file, of every file below a folder, or of every file that a glob finds.

    Args:
        source: a path or a glob; None stands for the Python standard library's own source.

    Returns:
        The files' text, in the order of their names.

    Raises:
        UserError: if there is no such file, or one is empty, unreadable or not UTF-8.
    """
    if source is None:
        library = Path(sysconfig.get_path("stdlib"))
        files = [file for file in _below(library, "*.py") if not _LEFT_OUT & set(file.relative_to(library).parts)]
        if not files:
            raise UserError(f"found no source of the standard library in {library}; name a text with --text.")
        # A hundred letters that occur once would widen the vocabulary, and teach nothing.
        return "\n".join(text for text in map(_read, files) if text.isascii())
    if Path(source).is_dir():
        files = _below(Path(source), "*")
    elif Path(source).exists():
        files = [Path(source)]
    else:
        files = sorted(path for path in map(Path, glob.glob(source, recursive=True)) if path.is_file())
    if not files:
        raise UserError(f"--text: found no file, no files in a folder, and no match of a glob for {source!r}.")
    text = "\n".join(map(_read, files))
    if not text.strip():
        raise UserError(f"--text: {source!r} is empty.")
    return text


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Numbers the characters of a text.

    Raises:
        UserError: if a character is not in the vocabulary.
    """
    if unseen := sorted(set(text) - set(vocabulary)):
        names = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in unseen[:10])
        raise UserError(f"the prompt has characters that the model never saw in its text: {names}.")
    number = {char: i for i, char in enumerate(vocabulary)}
    return np.array([number[char] for char in text], np.int32)


def make_corpus(text: str, config: Config) -> Corpus:
    """Numbers a text and holds its last tenth out for validation.

    Raises:
        UserError: if the text is too short for the batch and window.
    """
    # One window in each training stream, one in the validation, and the character that follows each.
    for_training, for_validation = config.batch * config.window + 1, config.window + 1
    needed = max((for_training - 1) * 10 // 9 + 1, 10 * for_validation)
    if len(text) < needed:
        raise UserError(
            f"the text is too short: it has {len(text):,} characters; {config.batch} windows of {config.window} side "
            f"by side, and one in the tenth held out, need {needed:,}. Lower --batch or --window, or add text."
        )
    # NumPy sorts millions of code points in a second; a Python loop would keep the user waiting.
    points, numbers = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
    cut = len(text) - len(text) // 10
    numbers = numbers.astype(np.int32)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus("".join(map(chr, points)), numbers[:cut], numbers[cut:], digest)


def _below(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file() and not path.name.startswith("."))


def _read(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}.") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{str(file)!r} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start:,}. "
            "Convert the file, or leave it out by giving a glob."
        ) from error
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
