"""From files to numbers: find the text, number its characters, and take windows of it.

A text may be larger than the memory. It is read part by part, and its numbers are in a file that
is mapped: the system reads what a step needs.
"""

import glob
import hashlib
import io
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import Config, UserError
from .files import is_of_run, write

# Tests repeat themselves. Generated tables are no text that a person wrote.
_LEFT_OUT = {"test", "tests", "idle_test", "encodings", "entities.py", "pydoc_data"}
# Other people's code, and programs rather than a library.
_LEFT_OUT |= {"site-packages", "dist-packages", "idlelib", "turtledemo"}

# The characters that are read at once.
_PART = 2**20
# Unicode has so many characters.
_CODE_POINTS = 0x110000


class Text(NamedTuple):
    """The facts of a text that a run keeps: `vocabulary[i]` is the character with number `i`."""

    source: str | None
    sha256: str
    vocabulary: str


class Corpus(NamedTuple):
    """The numbers of a text's characters, in two parts."""

    train: np.ndarray
    validation: np.ndarray


def read(source: str | None, leave_out: Path | None = None) -> Iterator[str]:
    """Reads a file, every file below a folder, or every file that a glob finds.

    Args:
        source: a path or a glob; None stands for the source of the Python standard library.
        leave_out: a run folder, whose own files are no text.

    Yields:
        The files' text, part by part, in the order of their names.

    Raises:
        UserError: if there is no such file, or one is unreadable or not UTF-8.
    """
    if source is None:
        yield "\n".join(library_files())
        return
    # `Path("")` would be the current folder.
    if not source:
        raise UserError(
            "--text: '' names no file. Is a variable of the shell unset? "
            "Name a file, a folder or a glob; "
            "leave --text out for the source of Python's standard library."
        )
    files = _find_files(source)
    if leave_out is not None:
        files = [file for file in files if not is_of_run(file, leave_out)]
    if not files:
        raise UserError(
            f"--text: found no file, no files in a folder, and no match of a glob for {source!r}."
        )
    for number, file in enumerate(files):
        if number:
            yield "\n"
        yield from _read(file)


def count(source: str | None, leave_out: Path | None = None) -> np.ndarray:
    """Counts how often a text has each character, `int[0x110000]`, by the numbers of Unicode.

    Raises:
        UserError: if the text cannot be read, is empty, or repeats a single character.
    """
    counts = np.zeros(_CODE_POINTS, np.int64)
    for part in read(source, leave_out):
        found = np.bincount(_code_points(part))
        counts[: len(found)] += found
    vocabulary = _vocabulary(counts)
    if not vocabulary.strip():
        raise UserError(f"--text: {source!r} is empty.")
    if len(vocabulary) == 1:
        raise UserError(f"--text: {source!r} only repeats {vocabulary!r}: nothing can be learned.")
    return counts


def check_size(counts: np.ndarray, config: Config) -> None:
    """Makes sure that a text with these counts is long enough.

    Raises:
        UserError: if it is too short for the batch and window.
    """
    # Each training stream needs one window, and so does the validation. Each of the two parts also
    # needs the character that follows its last window.
    for_training = config.batch * config.window + 1
    for_validation = config.window + 1
    # The first number is for_training * 10 / 9, rounded up.
    needed = max((for_training - 1) * 10 // 9 + 1, for_validation * 10)
    size = counts.sum()
    if size < needed:
        raise UserError(
            f"the text is too short: it has {size:,} characters; "
            f"{config.batch} windows of {config.window} side by side, "
            f"and one in the tenth held out, need {needed:,}. "
            "Lower --batch or --window, or add text."
        )


def store(
    path: Path, source: str | None, counts: np.ndarray, leave_out: Path | None = None
) -> Text:
    """Writes the numbers of a text's characters into a file.

    Args:
        path: the file to write.
        source: the text.
        counts: the result of `count` for this text.
        leave_out: a run folder, whose own files are no text.

    Returns:
        The facts of the text.

    Raises:
        UserError: if the text is no longer the same, or the file cannot be written.
    """
    vocabulary = _vocabulary(counts)
    codes = _code_points(vocabulary)
    number_of = np.zeros(_CODE_POINTS, _dtype(vocabulary))
    number_of[codes] = np.arange(len(codes))
    sha256 = hashlib.sha256()

    def parts() -> Iterator[bytes]:
        left = counts.copy()
        for part in read(source, leave_out):
            code_points = _code_points(part)
            found = np.bincount(code_points)
            left[: len(found)] -= found
            content = number_of[code_points].tobytes()
            sha256.update(content)
            yield content
        if left.any():
            raise UserError(f"--text: {source!r} changed while it was read.")

    write(path, parts())
    # The run may be resumed from another working directory.
    if source is not None:
        source = str(Path(source).absolute())
    return Text(source, sha256.hexdigest(), vocabulary)


def load(path: Path, text: Text) -> Corpus:
    """Maps the file that `store` wrote, and holds its last tenth out for validation."""
    numbers = np.memmap(path, _dtype(text.vocabulary), "r")
    end_of_training = len(numbers) - len(numbers) // 10
    return Corpus(numbers[:end_of_training], numbers[end_of_training:])


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


def decode(numbers: np.ndarray, vocabulary: str) -> str:
    """Returns the text of some numbers."""
    return _code_points(vocabulary)[numbers].tobytes().decode("utf-32-le")


def training_windows(text: np.ndarray, step: int, config: Config) -> tuple[np.ndarray, bool]:
    """Takes the windows of a training step. They follow from the seed and the step alone.

    So a checkpoint need not hold the position of an iterator.

    Args:
        text: the numbers of the characters.
        step: the number of the step.
        config: the settings.

    Returns:
        The windows `int[B, window + 1]`, and whether the state before them is the zero state.
    """
    batch, window = config.batch, config.window
    if config.windows == "random":
        draw = np.random.default_rng([config.seed, step])
        starts = draw.integers(0, len(text) - window, batch)  # [B]
        return _windows(text, starts, window), True
    starts, first = stream_starts(step, len(text), batch, window)
    return _windows(text, starts, window), first


def validation_windows(text: np.ndarray, config: Config) -> np.ndarray:
    """Takes the windows of a validation `int[N, B, window + 1]`: N of each stream, in order."""
    window = config.window
    predicted = len(text) - 1
    # The held-out tenth of a short text has no room for a full batch of streams.
    streams = min(config.batch, predicted // window)
    count = min(config.eval_windows, predicted // streams // window)
    windows = []
    for index in range(count):
        starts, _ = stream_starts(index, len(text), streams, window)
        windows.append(_windows(text, starts, window))
    return np.stack(windows)


def stream_starts(step: int, size: int, batch: int, window: int) -> tuple[np.ndarray, bool]:
    """Tells where the windows of a step begin.

    The text is divided into B equal streams, which are read side by side. Row b of one batch
    continues in row b of the next batch.

    Args:
        step: the number of the step.
        size: the number of characters in the text.
        batch: B, the number of streams.
        window: the number of characters in a window.

    Returns:
        The first character of each window, `int[B]`, and whether each stream begins there.
    """
    # The last character of the text has no successor to predict.
    length = (size - 1) // batch
    index = step % (length // window)
    return np.arange(batch) * length + index * window, index == 0


def read_prompts(file: Path) -> list[str]:
    """Reads a file of prompts, one a line. Empty lines count for nothing.

    Raises:
        UserError: if the file has no prompt, or is not UTF-8.
    """
    prompts = [line for line in "".join(_read(file)).split("\n") if line]
    if not prompts:
        raise UserError(f"{str(file)!r} must hold at least one prompt, one a line; it is empty.")
    return prompts


def library_files() -> list[str]:
    """Reads the source files of the Python standard library.

    Raises:
        UserError: if there is none.
    """
    library = Path(sysconfig.get_path("stdlib"))
    texts = []
    for file in _files_below(library, "*.py"):
        if _LEFT_OUT.isdisjoint(file.relative_to(library).parts):
            texts.append("".join(_read(file)))
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
    if path.is_file():
        return [path]
    if path.exists():
        raise UserError(f"--text: {source!r} is a device or a pipe; name a file.")
    matches = map(Path, glob.glob(source, recursive=True))
    return sorted(filter(Path.is_file, matches))


def _files_below(folder: Path, pattern: str) -> list[Path]:
    files = filter(Path.is_file, folder.rglob(pattern))
    return sorted(file for file in files if not file.name.startswith("."))


def _read(file: Path) -> Iterator[str]:
    """Reads a file part by part, without a byte order mark or Windows' line ends."""
    try:
        with open(file, "rb") as content:
            stream = io.TextIOWrapper(content, encoding="utf-8-sig")
            try:
                while part := stream.read(_PART):
                    yield part
            except UnicodeDecodeError as error:
                # The decoder knows the bytes that it was given last, up to where the file was read.
                offset = content.tell() - len(error.object) + error.start
                byte = error.object[error.start]
                raise UserError(
                    f"{str(file)!r} is not UTF-8: byte 0x{byte:02x} at offset {offset:,}. "
                    "Convert the file, or leave it out by giving a glob."
                ) from error
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}.") from error


def _windows(text: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    positions = starts[:, None] + np.arange(window + 1)[None]  # [B, window + 1]
    return np.asarray(text[positions])


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _vocabulary(counts: np.ndarray) -> str:
    return "".join(map(chr, np.flatnonzero(counts)))


def _dtype(vocabulary: str) -> Any:
    # A byte is enough for most alphabets, two for Chinese.
    return np.min_scalar_type(len(vocabulary) - 1)
