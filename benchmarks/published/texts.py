"""The texts of the presets as numbers, in three parts."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.published.presets import Preset, WrongDataError

_MEMBER = "./simple-examples/data/ptb.char.{}.txt"


class Texts(NamedTuple):
    """The numbers of the characters of a text, in three parts.

    Attributes:
        train: `uint8[S]`.
        validation: `uint8[S]`.
        test: `uint8[S]`.
        characters: the number of different characters.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    characters: int


def read(preset: Preset, path: Path) -> Texts:
    """Reads the file of a preset.

    Raises:
        WrongDataError: if an archive lacks a part.
    """
    parts = _READERS[preset.name](path)
    present = np.zeros(256, bool)
    for part in parts:
        present[part] = True
    # The alphabet is that of all parts, as in the sources.
    number_of = (np.cumsum(present) - 1).astype(np.uint8)
    train, validation, test = (number_of[part] for part in parts)
    return Texts(train, validation, test, int(present.sum()))


def _wikipedia(path: Path) -> list[np.ndarray]:
    """The parts of text8 and enwik8: 90, 5 and 5 per cent, where each byte is a character."""
    numbers = np.fromfile(path, np.uint8)
    held_out = len(numbers) // 20
    return np.split(numbers, [len(numbers) - 2 * held_out, len(numbers) - held_out])


def _penn_treebank(path: Path) -> list[np.ndarray]:
    """The parts of the archive. Spaces separate the characters, `_` is a space, and a line end is one too."""
    parts = []
    try:
        with tarfile.open(path) as archive:
            for name in ("train", "valid", "test"):
                member = archive.extractfile(_MEMBER.format(name))
                assert member is not None
                content = member.read().replace(b" ", b"")
                parts.append(np.frombuffer(content, np.uint8))
    except (tarfile.TarError, KeyError) as error:
        raise WrongDataError(
            f"{str(path)!r} must be an archive that holds {_MEMBER.format('train')!r}, valid and test; {error}."
        ) from error
    return parts


_READERS = {"ptb-char": _penn_treebank, "enwik8": _wikipedia, "text8": _wikipedia}
