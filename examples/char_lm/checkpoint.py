"""Checkpoints: one file each, whose name tells the step and the digest of the bytes.

A file that is whole has the digest of its name. So a damaged file is noticed, and no second file
can disagree with it. Every reader of safetensors reads the arrays.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from .config import UserError
from .files import digest, write

_NAME = re.compile(r"(\d+)-([0-9a-f]{64})\.safetensors")


class Checkpoint(NamedTuple):
    """What a file holds: arrays by their names, and facts that JSON can hold."""

    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def save(folder: Path, step: int, tree: Any, facts: dict[str, Any]) -> None:
    """Writes a checkpoint, and removes all others but the one before it.

    Args:
        folder: the folder of the checkpoints.
        step: the training step after which it is written.
        tree: the arrays to write.
        facts: the facts to write.

    Raises:
        UserError: if it cannot be written. Then the older checkpoints are still there.
    """
    arrays = {}
    for name, leaf in _named(tree).items():
        arrays[name] = np.asarray(leaf, order="C")
    content = safetensors.numpy.save(arrays, {"facts": json.dumps(facts)})
    name = f"{step}-{hashlib.sha256(content).hexdigest()}.safetensors"
    folder.mkdir(exist_ok=True)
    path = folder / name
    # A file of this name may be there and damaged, so it is written in any case.
    write(path, [content])

    kept = {path}
    for old in saved(folder):
        if _step(old) < step:
            kept.add(old)
            break
    for other in folder.iterdir():
        # A killed program may have left a draft.
        if _NAME.fullmatch(other.name.removesuffix(".tmp")) and other not in kept:
            other.unlink(missing_ok=True)


def load(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Reads the newest checkpoint that is not damaged.

    Args:
        folder: the folder of the checkpoints.
        say: takes a message about each damaged checkpoint.

    Returns:
        The checkpoint; None if there is none.
    """
    for path in saved(folder):
        reason = "its bytes are not as they were written"
        try:
            if digest(path) in path.name:
                return _read(path)
        except FileNotFoundError:
            # Training goes on, and has just replaced this checkpoint by a newer one.
            continue
        except OSError as error:
            reason = str(error.strerror)
        say(f"the checkpoint {str(path)!r} is damaged ({reason}); it is passed over.")
    return None


def saved(folder: Path) -> list[Path]:
    """Returns the checkpoints in a folder, the newest first. Damaged ones are among them."""
    if not folder.is_dir():
        return []
    paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(paths, key=_step, reverse=True)


def filled(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Makes a tree as `like`, with the arrays of a checkpoint.

    Raises:
        UserError: if the arrays are not those of the tree.
    """
    expected = _named(like)
    for name in sorted(expected.keys() | arrays.keys()):
        theirs, ours = _described(arrays.get(name)), _described(expected.get(name))
        if theirs != ours:
            raise UserError(
                f"the checkpoint is of another version of this program: its array {name!r} is "
                f"{theirs}, and {ours} is expected."
            )
    leaves = [arrays[name] for name in expected]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _read(path: Path) -> Checkpoint:
    with safetensors.safe_open(path, "numpy") as file:
        facts = json.loads(file.metadata()["facts"])
        arrays = {}
        for name in file.keys():  # noqa: SIM118
            arrays[name] = file.get_tensor(name)
    return Checkpoint(_step(path), arrays, facts)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names, such as `params.logits.kernel.value`."""
    named = {}
    for keys, leaf in jax.tree.leaves_with_path(tree):
        named[jax.tree_util.keystr(keys, simple=True, separator=".")] = leaf
    return named


def _described(leaf: Any) -> str:
    if leaf is None:
        return "absent"
    return f"{leaf.dtype}{list(leaf.shape)}"
