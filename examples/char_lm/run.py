"""The run folder: settings, vocabulary, log and checkpoints, and checks that they are intact."""

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

FILES = ("config.json", "text.json", "digests.json", "log.jsonl", "curves.png", "last", "best")

# For each kind of checkpoint: how many are kept, and what to do if there is none.
_MAX_TO_KEEP = {"last": 2, "best": 1}
_IF_ABSENT = {
    "last": "begin again with train --overwrite",
    "best": "it is written with the first validation",
}


class Text(NamedTuple):
    """The facts of the text that a run keeps."""

    source: str | None
    sha256: str
    vocabulary: str


class Run:
    """A run folder.

    The folder holds:

    - `config.json` and `text.json`: the settings and the vocabulary. Sampling needs no other text.
    - `log.jsonl`: a line for each training step and each validation, losses in nats.
    - `curves.png`: the losses as a picture.
    - `last`: the newest two checkpoints, to resume from.
    - `best`: the checkpoint with the lowest validation loss, to sample from.
    - `digests.json`: the SHA-256 of each checkpoint, to notice a damaged file.

    Another program derives a class with its own settings and facts.
    """

    program = PROGRAM
    config_type: Any = Config
    text_type: Any = Text

    def __init__(self, folder: Path, config: Any, text: Any):
        """Takes what `create` or `open` found."""
        self.folder = folder
        self.config = config
        self.text = text
        self._managers: dict[str, ocp.CheckpointManager] = {}

    @classmethod
    def check_free(cls, folder: Path, overwrite: bool) -> None:
        """Makes sure that a run may begin in `folder`.

        Raises:
            UserError: if it holds a run already, and `overwrite` is not set.
        """
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out: {str(folder)!r} is a file, not a folder.")
        if overwrite:
            return
        for name in FILES:
            if not (folder / name).exists():
                continue
            raise UserError(
                f"--out: {str(folder)!r} already holds a run. "
                f"To go on with it: {cls.program} resume {shlex.quote(str(folder))}. "
                "To keep it, name another --out; to lose it, add --overwrite."
            )

    @classmethod
    def create(cls, folder: Path, config: Any, source: str | None, corpus: Any) -> Self:
        """Begins a run folder, and removes the run that the folder may hold."""
        # Only a run's files are removed: the user may keep other files in the folder.
        for name in FILES:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # The run may be resumed from another working directory.
        if source is not None:
            source = str(Path(source).absolute())
        text = cls.facts(source, corpus)
        facts = json.dumps(text._asdict(), ensure_ascii=False)
        settings = json.dumps(dataclasses.asdict(config), indent=2)
        # `open` looks for config.json, so config.json comes last.
        _write(folder / "text.json", facts)
        _write(folder / "config.json", settings)
        return cls(folder, config, text)

    @classmethod
    def facts(cls, source: str | None, corpus: Any) -> Any:
        """Returns the facts of the text that the run keeps."""
        return Text(source, corpus.sha256, corpus.vocabulary)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens a run folder that `create` began.

        Raises:
            UserError: if there is none, or its settings cannot be read.
        """
        config_path = folder / "config.json"
        text_path = folder / "text.json"
        if not config_path.exists():
            raise UserError(
                f"there is no run in {str(folder)!r}. To begin one: {cls.program} train."
            )
        try:
            config = cls.config_type(**json.loads(config_path.read_text("utf-8")))
            text = cls.text_type(**json.loads(text_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"config.json or text.json in {str(folder)!r} is damaged: {error}."
            ) from error
        return cls(folder, config, text)

    def save(self, kind: str, step: int, tree: Any) -> None:
        """Writes a checkpoint.

        Args:
            kind: `"last"` or `"best"`.
            step: the training step after which it is written.
            tree: the arrays to write.
        """
        manager = self._manager(kind)
        newest = manager.latest_step()
        # A step always gives the same arrays, so a checkpoint that exists need not be written.
        if newest is not None and step <= newest:
            return
        settings = ocp.args.JsonSave(self._settings())
        arrays = ocp.args.StandardSave(tree)
        items = ocp.args.Composite(tree=arrays, settings=settings)
        manager.save(step, args=items)
        self._note_digest(f"{kind}/{step}")

    def restore(self, kind: str, like: Any) -> tuple[int, Any]:
        """Reads the newest checkpoint.

        Args:
            kind: `"last"` or `"best"`.
            like: arrays with the expected tree, shapes and dtypes.

        Returns:
            The checkpoint's step and its tree.

        Raises:
            UserError: if it is absent, damaged, or of other settings.
        """
        folder = (self.folder / kind).absolute()
        # Orbax names the folder of a checkpoint by its step.
        names = [path.name for path in folder.glob("*")]
        steps = sorted(map(int, filter(str.isdigit, names)))
        if not steps:
            where = str(self.folder / kind)
            raise UserError(f"there is no checkpoint in {where!r}: {_IF_ABSENT[kind]}.")
        step = steps[-1]
        name = f"{kind}/{step}"
        path = str(self.folder / name)
        try:
            with ocp.CheckpointManager(folder) as manager:
                # Other settings give other shapes. Comparing them first gives the better message.
                only_settings = ocp.args.Composite(settings=ocp.args.JsonRestore())
                read = manager.restore(step, args=only_settings)
                self._check_settings(read.settings, path)
                # A kill may have come before the digest, so a checkpoint without one is trusted.
                noted = self._digests().get(name)
                found = _digest(self.folder / name)
                if noted is not None and noted != found:
                    raise ValueError("its files are not as they were written")
                expected = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
                only_tree = ocp.args.Composite(tree=ocp.args.StandardRestore(expected))
                return step, manager.restore(step, args=only_tree).tree
        except UserError:
            raise
        # Orbax, tensorstore and json each raise errors of many types for a damaged file.
        except Exception as error:
            reason = str(error).strip() or type(error).__name__
            reason = reason.splitlines()[0][:200]
            older = ""
            if len(steps) > 1:
                older = f" Delete that folder to go on from step {steps[-2]}."
            raise UserError(f"the checkpoint {path!r} is damaged: {reason}.{older}") from error

    def rows(self) -> list[dict[str, Any]]:
        """Reads the lines of the log."""
        path = self.folder / "log.jsonl"
        if not path.exists():
            return []
        # A killed run may leave half a line at the end, which has no line end.
        complete_lines = path.read_text("utf-8").split("\n")[:-1]
        return list(map(json.loads, complete_lines))

    def truncate_log(self, step: int) -> list[dict[str, Any]]:
        """Drops the lines that were logged after `step`, and returns the others."""
        rows = []
        lines = []
        for row in self.rows():
            if row["step"] <= step:
                rows.append(row)
                lines.append(json.dumps(row) + "\n")
        _write(self.folder / "log.jsonl", "".join(lines))
        return rows

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        """Makes the checkpoint manager of a kind when it is first needed."""
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=_MAX_TO_KEEP[kind],
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            )
            folder = (self.folder / kind).absolute()
            self._managers[kind] = ocp.CheckpointManager(folder, options=options)
        return self._managers[kind]

    def _settings(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.config), "text": self.text.sha256}

    def _check_settings(self, settings: dict[str, Any], path: str) -> None:
        """Raises a UserError if a checkpoint's settings are not the run's."""
        ours = self._settings()
        differences = []
        for key in sorted(ours.keys() | settings.keys()):
            theirs, our = settings.get(key), ours.get(key)
            if theirs != our:
                difference = f"{key} (checkpoint {theirs}, config.json {our})"
                differences.append(difference)
        if differences:
            found = ", ".join(differences)
            raise UserError(f"the checkpoint {path!r} is of other settings: {found}.")

    def _digests(self) -> dict[str, str]:
        path = self.folder / "digests.json"
        if not path.exists():
            return {}
        return json.loads(path.read_text())

    def _note_digest(self, name: str) -> None:
        """Writes the digest of a new checkpoint: Orbax does not notice a changed byte."""
        digests = {}
        for old_name, digest in self._digests().items():
            # Orbax removed the oldest checkpoint when it wrote the new one.
            if (self.folder / old_name).is_dir():
                digests[old_name] = digest
        digests[name] = _digest(self.folder / name)
        _write(self.folder / "digests.json", json.dumps(digests))


def _write(path: Path, text: str) -> None:
    """Writes a file completely or not at all."""
    # A kill during the writing leaves only the draft incomplete.
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text, "utf-8")
    os.replace(draft, path)


def _digest(folder: Path) -> str:
    """The SHA-256 of all files in a folder, with their names."""
    sha256 = hashlib.sha256()
    for path in sorted(filter(Path.is_file, folder.rglob("*"))):
        name = path.relative_to(folder).as_posix()
        sha256.update(name.encode() + b"\0" + path.read_bytes())
    return sha256.hexdigest()
