"""Kills the program `examples.char_lm` at random instants, resumes it, and compares with an undisturbed run.

    python -m tests.fault_injection --kills 50 --inside 20

A life of the program is a process: it trains, or resumes what the lives before it left. Some lives are killed after a
random time. The others kill themselves inside of a checkpoint write, at a random one of its operations on files: in the
middle of the bytes, before and after a sync, a renaming or a removal. When a life reaches the end of the training, its
checkpoints must be those of the undisturbed run, byte for byte (parameters, optimizer state, state of the network), and
so must its log, but for the times. Then another run begins.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from examples.char_lm import checkpoint, expect, files, train
from examples.char_lm.__main__ import main as char_lm
from examples.char_lm.log import read
from examples.char_lm.run import Run

# They are imported here, before a life begins: that takes longer than a life.
IMPORTED = (expect, train)

# The smallest model that has all parts; dropout draws random numbers in each step.
OPTIONS = "--hidden-size 16 --embedding-size 8 --batch 4 --window 10 --warmup 5 --dropout 0.1 --steps 300 "
OPTIONS += "--checkpoint-every 4 --eval-every 7 --sample-every 1000000 --no-report"


class Faults:
    """Counts the operations on files inside of checkpoint writes. One of them calls `strike`."""

    def __init__(self, patch: pytest.MonkeyPatch, strike: Callable[[], None], at: int):
        self.strike = strike
        self.at = at
        self.count = 0
        self.saving = False
        save, replace, fsync, unlink = checkpoint.save, os.replace, os.fsync, Path.unlink

        def noted_save(*arguments) -> None:
            self.saving = True
            save(*arguments)
            self.saving = False

        def noted(operation: Callable) -> Callable:
            def run(*arguments, **options):
                self.note()
                result = operation(*arguments, **options)
                self.note()
                return result

            return run

        patch.setattr(checkpoint, "save", noted_save)
        patch.setattr(os, "replace", noted(replace))
        patch.setattr(os, "fsync", noted(fsync))
        patch.setattr(Path, "unlink", noted(unlink))
        patch.setattr(files, "open", self.open, raising=False)

    def note(self) -> None:
        self.count += self.saving
        # A killed process does nothing more, so every later operation fails too.
        if self.saving and self.count >= self.at:
            self.strike()

    def open(self, path: Path, mode: str):
        """Opens a file that is written in two halves."""
        self.note()
        file = open(path, mode)  # noqa: SIM115
        if "w" not in mode:
            return file
        faults, write = self, file.write

        class Halved:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name: str):
                return getattr(file, name)

            def write(self, content: bytes) -> None:
                write(content[: len(content) // 2])
                file.flush()
                faults.note()
                write(content[len(content) // 2 :])

        return Halved()


def write_text(path: Path) -> Path:
    """A text of 3,000 characters whose rule a tiny model can find, and no two windows of which are the same."""
    draw = random.Random(0)
    lines = [f"def f{i}(x):\n    return x {draw.choice('+-*/')} {draw.randrange(100)}\n" for i in range(200)]
    path.write_text("".join(lines)[:3000], "utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def result(folder: Path) -> tuple:
    """What an undisturbed run and a killed one must have in common."""
    rows = [{name: row[name] for name in row if name != "seconds"} for row in read(folder / "log.jsonl")]
    return contents(folder / "last"), contents(folder / "best"), rows


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def live(arguments: list[str], screen: Path, *, seconds: float | None = None, at: int | None = None) -> int:
    """Runs the program in a process of its own; returns its exit code, which is -9 after a kill."""
    # A fork is safe here: JAX starts no thread before its first computation, and this process computes nothing.
    process = os.fork()
    if process == 0:
        output = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if at is not None:
            Faults(pytest.MonkeyPatch(), kill_myself, at)
        code = 1
        try:
            code = char_lm(arguments)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end = time.monotonic() + (seconds or 1e9)
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Kills, resumes and compares."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_injection", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="default %(default)s")
    parser.add_argument("--inside", type=int, default=20, help="inside of a checkpoint write, default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp())
    # Each life would compile the same functions again.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    text, screen = write_text(folder / "text.py"), folder / "screen.txt"

    def begin(name: str) -> list[str]:
        return ["train", "--text", str(text), "--out", str(folder / name), *OPTIONS.split()]

    def finished(code: int) -> None:
        assert code == 0, f"exit code {code}:\n{screen.read_text()}"

    finished(live(begin("compiling"), screen))
    before = time.monotonic()
    finished(live(begin("undisturbed"), screen))
    lifetime = time.monotonic() - before
    expected = result(folder / "undisturbed")
    steps, size = len(expected[2]), len(expected[0])
    assert size == 2

    inside = [True] * options.inside + [False] * (options.kills - options.inside)
    draw.shuffle(inside)
    kills, killed_inside, drafts, runs, unborn = 0, 0, 0, 0, 0
    run = folder / "killed"
    while True:
        arguments = begin("killed")
        if Run.exists(run):
            arguments = ["resume", str(run)]
        if kills == options.kills:
            code = live(arguments, screen)
        elif inside[kills]:
            # A life writes about 100 checkpoints with 12 operations each, if it begins at step 0.
            code = live(arguments, screen, at=int(draw.expovariate(1 / 150)) + 1)
        else:
            code = live(arguments, screen, seconds=draw.uniform(0, lifetime))
        if code == -signal.SIGKILL:
            killed_inside += inside[kills]
            kills += 1
            unborn += not Run.exists(run)
            drafts += any(run.rglob("*.safetensors.tmp"))
            continue
        finished(code)
        assert result(run) == expected, f"the runs differ; see {folder}"
        runs += 1
        shutil.rmtree(run)
        if kills == options.kills:
            break
    shutil.rmtree(folder)
    print(
        f"{kills} kills, {killed_inside} of them inside of a checkpoint write ({drafts} kills left a draft), "
        f"{unborn} before the first checkpoint. {runs} runs of {steps} logged lines ended as the undisturbed run did, "
        "byte for byte."
    )


if __name__ == "__main__":
    main()
