"""Pieces of music as piano rolls: their files, their parts, and their batches."""

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recurrax.data import PaddedBatch, batch_by_length

from . import harmony, midi
from .config import UserError
from .midi import KEYS

# The arrays of a .mat file, in the order of the parts.
ARRAYS = ("traindata", "validdata", "testdata")


class Parts(NamedTuple):
    """The pieces of a data set, each `uint8[T, 88]`: 1 where a key sounds at a step."""

    train: list[np.ndarray]
    validation: list[np.ndarray]
    test: list[np.ndarray]


class Corpus(NamedTuple):
    """The pieces of a run and their digest."""

    parts: Parts
    sha256: str


def load(source: str | None, steps_per_beat: int) -> Corpus:
    """Loads the pieces that `--data` names.

    Args:
        source: a .mat file, or a folder of MIDI files; None for pieces that `harmony` composes.
        steps_per_beat: the steps of a quarter note, where MIDI files are read.

    Raises:
        UserError: if they cannot be read.
    """
    if source is None:
        parts = Parts(*harmony.compose_parts())
    elif Path(source).is_dir():
        parts = read_folder(Path(source), steps_per_beat)
    else:
        parts = read_mat(Path(source))
    digest = hashlib.sha256()
    for part in parts:
        for piece in part:
            # The length keeps two pieces apart from one piece of both.
            digest.update(len(piece).to_bytes(8, "little") + piece.tobytes())
    return Corpus(parts, digest.hexdigest())


def read_mat(path: Path) -> Parts:
    """Reads a MATLAB file with three cell arrays of piano rolls.

    Raises:
        UserError: if scipy is not installed, if the file cannot be read, or if it holds no rolls.
    """
    if not path.is_file():
        raise UserError(
            f"--data must be a .mat file or a folder of MIDI files; there is no {str(path)!r}."
        )
    if importlib.util.find_spec("scipy") is None:
        hint = "Install it by: pip install 'recurrax[music]'"
        raise UserError(f"--data: a .mat file is read by scipy, which is not installed. {hint}")
    from scipy.io import loadmat

    try:
        arrays = loadmat(path)
    # scipy raises errors of many types for a file of another kind.
    except Exception as error:
        raise UserError(
            f"--data: {str(path)!r} is not a MATLAB file ({error}). "
            "A piece of MIDI belongs into a folder with others, and --data names the folder."
        ) from error
    parts = []
    for name in ARRAYS:
        if name not in arrays:
            found = sorted(key for key in arrays if not key.startswith("__"))
            raise UserError(
                f"--data: {str(path)!r} must hold the arrays {', '.join(ARRAYS)}; "
                f"there is no {name!r} among {', '.join(found) or 'none'}."
            )
        # A cell array of MATLAB is an array of arrays here.
        pieces = []
        for number, roll in enumerate(np.ravel(arrays[name])):
            where = f"piece {number} of {name!r} in {str(path)!r}"
            pieces.append(checked_roll(roll, where))
        if not pieces:
            raise UserError(f"--data: {name!r} in {str(path)!r} must hold at least 1 piece.")
        parts.append(pieces)
    return Parts(*parts)


def checked_roll(roll: Any, where: str) -> np.ndarray:
    """Returns a piano roll as `uint8[T, 88]`.

    Raises:
        UserError: if it is none.
    """
    roll = np.asarray(roll)
    shape = list(roll.shape)
    if roll.ndim != 2 or shape[1] != KEYS:
        hint = ""
        if roll.ndim == 2 and shape[0] == KEYS:
            hint = " Are the keys its rows? Transpose it."
        elif roll.ndim == 2 and shape[1] == 128:
            hint = f" MIDI has 128 notes; a piano has those from {midi.LOWEST} on: roll[:, 21:109]."
        raise UserError(
            f"--data: {where} must be [T, {KEYS}], a row for each step; got {shape}.{hint}"
        )
    if len(roll) < 2:
        raise UserError(
            f"--data: {where} must have at least 2 steps, because each step is predicted from "
            f"those before it; got {len(roll)}."
        )
    # NaN is neither 0 nor 1, so it is refused as well.
    others = np.setdiff1d(roll, (0, 1))
    if others.size:
        raise UserError(
            f"--data: {where} must hold zeros and ones alone; got {others[0]}. "
            "Is it the velocity of a note? Then pass roll > 0."
        )
    return roll.astype(np.uint8)


def read_folder(folder: Path, steps_per_beat: int) -> Parts:
    """Reads the MIDI files of a folder: of every ten, one is for validation and one for the test.

    Raises:
        UserError: if there are fewer than three, or one cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    if len(paths) < 3:
        raise UserError(
            f"--data: {str(folder)!r} must hold at least 3 MIDI files, one for each of training, "
            f"validation and test; got {len(paths)}. Their names end in .mid or .midi."
        )
    parts = Parts([], [], [])
    for number, path in enumerate(paths):
        roll = checked_roll(midi.read(path, steps_per_beat), f"the roll of {str(path)!r}")
        # The last two of ten are held out. A short list holds out its last two.
        place = number % 10
        if len(paths) < 10:
            place = number + 10 - len(paths)
        part = parts[max(0, place - 7)]
        part.append(roll)
    return parts


def padded(pieces: list[np.ndarray], batch_size: int) -> Iterator[PaddedBatch]:
    """Makes batches of pieces.

    Each batch holds two arrays `uint8[B, T, 88]`: the steps that a model reads, and the next steps,
    which it predicts. The lengths count the predicted steps, one less than a piece has.
    """
    pairs = [(piece[:-1], piece[1:]) for piece in pieces]
    longest = max(map(len, pieces)) - 1
    # Each length is twice the one before, so few functions are compiled.
    lengths = [32]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    return batch_by_length(pairs, lengths, batch_size)
