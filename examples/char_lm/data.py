"""From files to numbers: find the text, read it, and number its characters."""

import glob
import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .config import Config, UserError

# Tests repeat themselves. Generated tables are no text that a person wrote.
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
        source: a path or a glob; None stands for the source of the Python standard library.

    Returns:
        The files' text, in the order of their names.

    Raises:
        UserError: if there is no such file, or one is empty, unreadable or not UTF-8.
    """
    if source is None:
        return "\n".join(library_files())
    # `Path("")` would be the current folder.
    if not source:
        raise UserError(
            "--text: '' names no file. Is a variable of the shell unset? "
            "Name a file, a folder or a glob; "
            "leave --text out for the source of Python's standard library."
        )
    files = _find_files(source)
    if not files:
        raise UserError(
            f"--text: found no file, no files in a folder, and no match of a glob for {source!r}."
        )
    text = "\n".join(map(_read, files))
    if not text.strip():
        raise UserError(f"--text: {source!r} is empty.")
    return text


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Numbers the characters of a text.

    Raises:
        UserError: if a character is not in the vocabulary.
    """
    unseen = sorted(set(text) - set(vocabulary))
    if unseen:
        names = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in unseen[:10])
        raise UserError(f"the prompt has characters that the model never saw in its text: {names}.")
    return np.array(list(map(vocabulary.index, text)), np.int32)


def read_prompts(file: Path) -> list[str]:
    """Reads a file of prompts, one a line. Empty lines count for nothing.

    Raises:
        UserError: if the file has no prompt, or is not UTF-8.
    """
    prompts = [line for line in _read(file).split("\n") if line]
    if not prompts:
        raise UserError(f"{str(file)!r} must hold at least one prompt, one a line; it is empty.")
    return prompts


def make_corpus(text: str, config: Config) -> Corpus:
    """Numbers a text and holds its last tenth out for validation.

    Raises:
        UserError: if the text is too short for the batch and window.
    """
    # Each training stream needs one window, and so does the validation. Each of the two parts also
    # needs the character that follows its last window.
    for_training = config.batch * config.window + 1
    for_validation = config.window + 1
    # The first number is for_training * 10 / 9, rounded up.
    needed = max((for_training - 1) * 10 // 9 + 1, for_validation * 10)
    if len(text) < needed:
        raise UserError(
            f"the text is too short: it has {len(text):,} characters; "
            f"{config.batch} windows of {config.window} side by side, "
            f"and one in the tenth held out, need {needed:,}. "
            "Lower --batch or --window, or add text."
        )

    # NumPy sorts millions of code points in a second. A Python loop would keep the user waiting.
    code_points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    distinct, numbers = np.unique(code_points, return_inverse=True)
    vocabulary = "".join(map(chr, distinct))
    numbers = numbers.astype(np.int32)

    end_of_training = len(text) - len(text) // 10
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(vocabulary, numbers[:end_of_training], numbers[end_of_training:], digest)


def library_files() -> list[str]:
    """Reads the source files of the Python standard library.

    Raises:
        UserError: if there is none.
    """
    library = Path(sysconfig.get_path("stdlib"))
    texts = []
    for file in _files_below(library, "*.py"):
        if _LEFT_OUT.isdisjoint(file.relative_to(library).parts):
            texts.append(_read(file))
    if not texts:
        raise UserError(
            f"found no source of the standard library in {library}; name a text with --text."
        )
    # A hundred letters that occur once would widen the vocabulary and teach nothing.
    return list(filter(str.isascii, texts))


def _find_files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        return _files_below(path, "*")
    # A name that exists is never read as a glob, even if it has brackets.
    if path.exists():
        return [path]
    matches = map(Path, glob.glob(source, recursive=True))
    return sorted(filter(Path.is_file, matches))


def _files_below(folder: Path, pattern: str) -> list[Path]:
    files = filter(Path.is_file, folder.rglob(pattern))
    return sorted(file for file in files if not file.name.startswith("."))


def _read(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}.") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(
            f"{str(file)!r} is not UTF-8: byte 0x{byte:02x} at offset {error.start:,}. "
            "Convert the file, or leave it out by giving a glob."
        ) from error
    # A byte order mark and Windows' line ends would be characters of the vocabulary.
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
