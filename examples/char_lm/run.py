"""The run folder: settings, vocabulary, log and checkpoints, and what may have happened to them."""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp

from .config import PROGRAM, Config, UserError
from .data import Corpus

FILES = ("config.json", "text.json", "digests.json", "log.jsonl", "curves.png", "last", "best")


class Text(NamedTuple):
    """What a run remembers of its text."""

    source: str | None
    sha256: str
    vocabulary: str


class Run:
    """A run folder.

    It holds `config.json` and `text.json`, so that sampling needs nothing else; `log.jsonl`, a line for each training
    step and each validation, losses in nats; `curves.png`; the checkpoints, `last` to go on from (the newest two) and
    `best` to sample from (the one of the lowest validation loss); and `digests.json`, to tell whether they are whole.
    """

    def __init__(self, folder: Path, config: Config, text: Text):
        """Takes what `create` or `open` found."""
        self.folder, self.config, self.text = folder, config, text
        self._managers: dict[str, ocp.CheckpointManager] = {}

    @staticmethod
    def check_free(folder: Path, overwrite: bool) -> None:
        """Makes sure that a run may begin in `folder`.

        Raises:
            UserError: if it holds a run already, and `overwrite` is not set.
        """
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out: {str(folder)!r} is a file, not a folder.")
        if not overwrite and any((folder / name).exists() for name in FILES):
            raise UserError(
                f"--out: {str(folder)!r} already holds a run. To go on with it: {PROGRAM} resume "
                f"{shlex.quote(str(folder))}. To keep it, name another --out; to lose it, add --overwrite."
            )

    @classmethod
    def create(cls, folder: Path, config: Config, source: str | None, corpus: Corpus) -> Self:
        """Begins a run folder, in the place of the run that it may hold."""
        for path in [folder / name for name in FILES]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        text = Text(source and str(Path(source).absolute()), corpus.sha256, corpus.vocabulary)
        _write(folder / "text.json", json.dumps(text._asdict(), ensure_ascii=False))
        _write(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=2))
        return cls(folder, config, text)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a run folder that `create` began.

        Raises:
            UserError: if there is none, or its settings cannot be read.
        """
        if not (folder / "config.json").exists():
            raise UserError(f"there is no run in {str(folder)!r}. To begin one: {PROGRAM} train.")
        try:
            config = Config(**json.loads((folder / "config.json").read_text("utf-8")))
            text = Text(**json.loads((folder / "text.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"config.json or text.json in {str(folder)!r} is damaged: {error}.") from error
        return cls(folder, config, text)

    def save(self, kind: str, step: int, tree: Any) -> None:
        """Writes a checkpoint; one that is there already is the same one, as a step always gives the same."""
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep={"last": 2, "best": 1}[kind], cleanup_tmp_directories=True, enable_async_checkpointing=False
            )
            self._managers[kind] = ocp.CheckpointManager((self.folder / kind).absolute(), options=options)
        manager = self._managers[kind]
        if step > (manager.latest_step() if manager.latest_step() is not None else -1):
            settings = ocp.args.JsonSave(self._settings())
            manager.save(step, args=ocp.args.Composite(tree=ocp.args.StandardSave(tree), settings=settings))
            # Orbax notices a file that was cut short, but not one with a byte changed.
            kept = {name: digest for name, digest in self._digests().items() if (self.folder / name).is_dir()}
            new = {f"{kind}/{step}": _digest(self.folder / kind / str(step))}
            _write(self.folder / "digests.json", json.dumps(kept | new))

    def _steps(self, kind: str) -> list[int]:
        return sorted(int(path.name) for path in (self.folder / kind).glob("*") if path.name.isdigit())

    def restore(self, kind: str, like: Any) -> tuple[int, Any]:
        """Reads the newest checkpoint.

        Args:
            kind: `"last"` or `"best"`.
            like: arrays of the tree, shapes and dtypes that are expected.

        Returns:
            The checkpoint's step and its tree.

        Raises:
            UserError: if it is absent, damaged, or of other settings.
        """
        folder = (self.folder / kind).absolute()
        steps = self._steps(kind)
        if not steps:
            when = "it is written with the first validation" if kind == "best" else "begin again with train --overwrite"
            raise UserError(f"there is no checkpoint in {str(self.folder / kind)!r}: {when}.")
        name = f"{kind}/{steps[-1]}"
        path = repr(str(self.folder / name))
        try:
            with ocp.CheckpointManager(folder) as manager:
                read = manager.restore(steps[-1], args=ocp.args.Composite(settings=ocp.args.JsonRestore())).settings
                ours = self._settings()
                differences = [
                    f"{key} (checkpoint {read.get(key)}, config.json {ours.get(key)})"
                    for key in sorted(ours.keys() | read.keys())
                    if ours.get(key) != read.get(key)
                ]
                if differences:
                    raise UserError(f"the checkpoint {path} is of other settings: {', '.join(differences)}.")
                if self._digests().get(name) not in (None, _digest(self.folder / name)):
                    raise ValueError("its files are not as they were written")
                target = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
                return steps[-1], manager.restore(steps[-1], args=ocp.args.Composite(tree=target)).tree
        except UserError:
            raise
        except Exception as error:  # Whatever a damaged file makes orbax, tensorstore or json raise.
            older = f" Delete that folder to go on from step {steps[-2]}." if len(steps) > 1 else ""
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(f"the checkpoint {path} is damaged: {reason}.{older}") from error

    def _settings(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.config), "text": self.text.sha256}

    def _digests(self) -> dict[str, str]:
        path = self.folder / "digests.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the log; half a line, which a killed run may leave at the end, is no line."""
        path = self.folder / "log.jsonl"
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def cut_log(self, step: int) -> list[dict[str, Any]]:
        """Drops what was logged after `step`, and returns the rest."""
        rows = [row for row in self.rows() if row["step"] <= step]
        _write(self.folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return rows


def _write(path: Path, text: str) -> None:
    """Writes all of a file or nothing of it."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text, "utf-8")
    os.replace(draft, path)


def _digest(folder: Path) -> str:
    """The SHA-256 of all files in a folder, with their names."""
    sha256 = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sha256.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return sha256.hexdigest()
