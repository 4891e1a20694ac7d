"""The example program when something goes wrong: kills, full disks, damaged files, lost outputs."""

import errno
import functools
import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.char_lm import checkpoint, command, data, expect
from examples.char_lm import train as training
from examples.char_lm.__main__ import main
from examples.char_lm.config import Config, UserError
from examples.char_lm.lock import Lock
from examples.char_lm.log import Log, read
from examples.char_lm.run import Run
from examples.char_lm.sample import printable
from examples.char_lm.train import Learner
from fault_injection import Faults, contents, result, write_text
from lenient import lenient_optax

TINY = "--hidden-size 16 --embedding-size 8 --batch 4 --window 10 --warmup 5 --learning-rate 0.02 --dropout 0.1 "
TINY += "--steps 30 --eval-every 6 --checkpoint-every 10 --sample-every 9 --no-report"


class Killed(BaseException):
    """Stops the program as a kill does: nothing is saved after it."""


def killed() -> None:
    raise Killed


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True, scope="module")
def program() -> Iterator[None]:
    """Its optax may mix dtypes, and all runs share compiled functions."""
    with lenient_optax(training) as patch:
        patch.setattr(training, "Learner", functools.cache(Learner))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.py")


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run; to be copied by tests that change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main(train(text, out)) == 0
    return out


def train(text: Path, out: Path) -> list[str]:
    return ["train", "--text", str(text), "--out", str(out), *TINY.split()]


def in_step(patch: pytest.MonkeyPatch, number: int, strike: Callable[[], object]) -> None:
    """Calls `strike` before a training step."""
    train_step = Learner.train_step

    def struck(self, state, *windows):
        if int(state.step) == number - 1:
            strike()
        return train_step(self, state, *windows)

    patch.setattr(Learner, "train_step", struck)


def told(capsys: pytest.CaptureFixture[str], arguments: list[str | Path], code: int = 2) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


def dies(arguments: list[str], inject: Callable[[pytest.MonkeyPatch], object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        inject(patch)
        with pytest.raises(Killed):
            main(arguments)


@pytest.mark.parametrize("strike", [killed, full_disk])
def test_a_checkpoint_is_written_completely_or_not_at_all(strike: Callable[[], None], tmp_path: Path):
    trees = [{"a": np.arange(6.0).reshape(2, 3) + step, "b": np.array(step, np.int32)} for step in range(4)]

    def check(found: checkpoint.Checkpoint) -> None:
        tree = checkpoint.filled(trees[0], found.arrays)
        np.testing.assert_equal(tree, trees[found.step])
        assert found.facts == {"step": found.step}

    def failed(message: str) -> None:
        pytest.fail(message)

    outcomes = set()
    for at in range(1, 100):
        folder = tmp_path / str(at)
        for step in (1, 2):
            checkpoint.save(folder, step, trees[step], {"step": step})
        with pytest.MonkeyPatch.context() as patch:
            fired = []

            def once(fired: list = fired) -> None:
                # A full disk lets a file be removed; a killed program does nothing more.
                if strike is killed or not fired:
                    fired.append(True)
                    strike()

            Faults(patch, once, at)
            try:
                checkpoint.save(folder, 3, trees[3], {"step": 3})
                raised = False
            except (Killed, UserError, OSError):
                raised = True
        found = checkpoint.load(folder, failed)
        check(found)
        outcomes.add((raised, found.step))
        if not fired:
            break
        if strike is full_disk:
            assert not list(folder.glob("*.tmp"))
        # The next life writes the same checkpoint, and removes what the last one left.
        checkpoint.save(folder, 3, trees[3], {"step": 3})
        assert [path.name.split("-")[0] for path in checkpoint.saved(folder)] == ["3", "2"]
        assert len(list(folder.iterdir())) == 2
    assert 8 < at < 20
    assert {(True, 2), (True, 3), (False, 3)} <= outcomes


def test_every_damage_is_noticed_and_the_checkpoint_before_serves(tmp_path: Path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"a": np.full(3, step)}, {"step": step})
    newest, older = checkpoint.saved(tmp_path)
    entire, messages = newest.read_bytes(), []
    for position in range(len(entire)):
        flipped = bytearray(entire)
        flipped[position] ^= 1
        for damaged in (flipped, entire[:position]):
            newest.write_bytes(damaged)
            assert checkpoint.load(tmp_path, messages.append).step == 1
    assert len(messages) == 2 * len(entire)
    assert str(newest) in messages[0]
    assert "is damaged" in messages[0]
    # A file without a digest is no checkpoint, and neither is a folder.
    newest.rename(tmp_path / "2.safetensors")
    (tmp_path / newest.name).mkdir()
    assert checkpoint.load(tmp_path, messages.append).step == 1
    older.write_bytes(b"")
    assert checkpoint.load(tmp_path, messages.append) is None
    assert checkpoint.load(tmp_path / "nowhere", messages.append) is None


def test_a_run_of_many_faults_ends_as_an_undisturbed_one(
    finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "a run"
    resume = ["resume", str(run)]
    # A kill before the first checkpoint leaves no run, and the advice of each command works.
    dies(train(text, run), lambda patch: Faults(patch, killed, 3))
    assert "there is no run" in told(capsys, resume)
    with pytest.MonkeyPatch.context() as patch:
        in_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(train(text, run)) == 75
    assert f"python -m examples.char_lm resume '{run}'" in capsys.readouterr().out
    assert [row["step"] for row in read(run / "log.jsonl")] == [1, 2, 3, 4]
    # Step 6 is validated; then the disk is full.
    with pytest.MonkeyPatch.context() as patch:
        Faults(patch, full_disk, 2)
        error = told(capsys, resume)
    assert f"cannot write '{run}/best/6-" in error
    assert "No space left on device" in error
    # Killed within the checkpoint of step 10, and again after the best one of step 12, of which `last` does not know.
    dies(resume, lambda patch: Faults(patch, killed, 12))
    dies(resume, lambda patch: in_step(patch, 14, killed))
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 14, "lo')
    # The text is gone, and its file in the run folder is not needed to sample.
    assert main(["sample", str(run), "--length", "3"]) == 0
    assert main(resume) == 0
    assert result(run) == result(finished)
    assert {path.name for path in run.iterdir()} == {path.name for path in finished.iterdir()}


def test_damaged_files_of_a_run(finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = shutil.copytree(finished, tmp_path / "run")
    # The newest checkpoint is damaged, a line of the log, and the text.
    newest, _ = checkpoint.saved(run / "last")
    newest.write_bytes(newest.read_bytes()[:-1])
    lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    lines[3], lines[4] = b"\xff\n", b'{"step": "5"}\n'
    (run / "log.jsonl").write_bytes(b"".join(lines))
    (run / "text.bin").write_bytes((run / "text.bin").read_bytes()[1:])
    error = told(capsys, ["resume", run], code=0)
    assert f"the checkpoint '{newest}' is damaged" in error
    assert "2 of 38 are left out" in error
    assert "so the text is read again" in error
    last, best, rows = result(finished)
    assert result(run) == (last, best, [row for row in rows if row["step"] not in (4, 5)])
    assert contents(run)["text.bin"] == contents(finished)["text.bin"]

    # The text is damaged, and no longer there.
    (run / "text.bin").unlink()
    moved = text.rename(text.with_suffix(".moved"))
    assert "found no file" in told(capsys, ["resume", run])
    text.write_text("ab" * 1000)
    assert "no longer the one" in told(capsys, ["resume", run])
    moved.replace(text)

    # A checkpoint of another run, whose letters differ.
    facts = checkpoint.load(run / "best", command.warn)
    facts.facts["text"]["vocabulary"] = facts.facts["text"]["vocabulary"][::-1]
    checkpoint.save(run / "best", facts.step, facts.arrays, facts.facts)
    assert "of different runs" in told(capsys, ["sample", run])
    for path in run.glob("*/*.safetensors"):
        path.write_bytes(b"")
    assert "all checkpoints" in told(capsys, ["sample", run])
    assert "resume" in told(capsys, train(text, run))


def test_a_checkpoint_that_lacks_newer_settings_still_serves(finished: Path, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    found = checkpoint.load(run / "last", command.warn)
    for name in ("dtype", "remat", "steps_per_dispatch"):
        del found.facts["config"][name]
    checkpoint.save(run / "last", found.step, found.arrays, found.facts)
    opened = Run.open(run)
    assert opened.config == Run.open(finished).config
    restored = opened.restore("last", Learner(opened.config, len(opened.text.vocabulary)).first_state())
    assert restored.step == 30
    # The settings that it has must still agree.
    found.facts["config"]["clip"] = 2.0
    checkpoint.save(run / "best", found.step, found.arrays, found.facts)
    with pytest.raises(UserError, match="of different runs"):
        opened.restore("best", None)


def test_one_trainer_at_a_time(finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = shutil.copytree(finished, tmp_path / "run")
    before = contents(run)
    with Lock(run):
        for arguments in (["resume", run], [*train(text, run), "--overwrite"]):
            error = told(capsys, arguments)
            assert f"another program trains in '{run}': process {os.getpid()} on" in error
        assert main(["sample", str(run), "--length", "3"]) == 0
    assert {**contents(run), "lock": b""} == {**before, "lock": b""}
    with Lock(run) as lock:
        lock.check()
        shutil.rmtree(run)
        shutil.copytree(finished, run)
        with pytest.raises(UserError, match="was removed while the program ran"):
            lock.check()


def test_a_run_folder_that_vanishes_is_not_made_again(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    in_step(monkeypatch, 3, lambda: shutil.rmtree(run))
    assert "was removed" in told(capsys, train(text, run))
    assert not run.exists()


@pytest.mark.parametrize("what", ["loss", "state"])
def test_what_is_not_finite_stops_the_run(
    what: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    train_step, run = Learner.train_step, tmp_path / "run"

    def overflow_in_step_20(self, state, *windows):
        after, measured = train_step(self, state, *windows)
        if int(after.step) != 20:
            return after, measured
        if what == "loss":
            return after, {**measured, "loss": measured["loss"] * jnp.nan}
        return after._replace(params=jax.tree.map(lambda leaf: leaf * jnp.inf, after.params)), measured

    monkeypatch.setattr(Learner, "train_step", overflow_in_step_20)
    error = told(capsys, train(text, run))
    assert f"the {what} is no longer finite at step 20" in error
    assert "keeps the checkpoint of step 10" in error
    assert "--learning-rate" in error
    assert [path.name.split("-")[0] for path in checkpoint.saved(run / "last")] == ["10", "0"]
    assert max(row["step"] for row in read(run / "log.jsonl")) == 19 + (what == "state")
    assert (run / "curves.png").exists()
    assert main(["sample", str(run), "--length", "3"]) == 0


def test_lost_and_narrow_outputs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        screen = command.screen()
        for _ in range(3):
            screen.print("a line")
    error = capsys.readouterr().err
    assert error.count("the output is closed; training goes on") == 1

    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert command.run_command(lambda _: print("LSTM · 歌", flush=True) or 0, None) == 0
    assert ascii_only.buffer.getvalue() == rb"LSTM \xb7 \u6b4c" + b"\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert command.run_command(lambda _: print("a line") or 0, None) == 0
    sys.stdout.close()
    monkeypatch.undo()

    for error in (MemoryError("no room"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.\nmore")):

        def fails(_, error=error):
            raise error

        assert command.run_command(fails, None) == 2
        assert "the memory is too small: " in capsys.readouterr().err
    assert printable("a\n\t\x1b[2J\x9b\x7fé") == "a\n\t\\x1b[2J\\x9b\\x7fé"


def test_the_text_takes_no_memory(tmp_path: Path):
    text, peaks = tmp_path / "text.txt", []
    for size in (2**21, 2**23):
        text.write_text("ab\n歌" * (size // 4))
        tracemalloc.start()
        counts = data.count(str(text))
        facts = data.store(tmp_path / "text.bin", str(text), counts)
        corpus = data.load(tmp_path / "text.bin", facts)
        assert data.training_windows(corpus.train, 12345, Config())[0].shape == (32, 65)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert counts.sum() == size
        assert len(corpus.train) + len(corpus.validation) == size
    assert peaks[1] - peaks[0] < 2**20
    text.write_text("ab\n歌" * 10)
    with pytest.raises(UserError, match="changed while it was read"):
        data.store(tmp_path / "text.bin", str(text), counts)


def test_a_newcomer_is_told_what_to_expect(finished: Path, capsys: pytest.CaptureFixture[str]):
    run = Run.open(finished)
    corpus = data.load(finished / "text.bin", run.text)
    letters = data.decode(corpus.validation, run.text.vocabulary)
    learned = data.decode(corpus.train, run.text.vocabulary)
    assert learned + letters == Path(run.text.source).read_text()
    uniform, unigram, zipped = expect.baselines(run.text.vocabulary, corpus)
    size = len(run.text.vocabulary)
    assert uniform == pytest.approx(np.log2(size))
    expected = [np.log2((len(learned) + size) / (learned.count(letter) + 1)) for letter in letters]
    assert unigram == pytest.approx(np.mean(expected))
    assert zipped == pytest.approx(8 * len(gzip.compress(letters.encode())) / len(letters))
    assert unigram < uniform
    params = Learner(run.config, size).first_state().params
    count = expect.parameters(size, run.config)
    assert count == sum(leaf.size for leaf in jax.tree.leaves(params))
    about = expect.about(run.text, corpus, run.config)
    for part in (f"{count:,} parameters", "cpu", "min", f"{uniform:.2f}", f"{unigram:.2f}", f"gzip {zipped:.2f}"):
        assert part in about


def test_the_clock_and_the_lines_of_a_log_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0, "seconds": 60.0}\n{"step": 2, "loss": 1.0, "seconds": 100.0}\n')
    log = Log(path, 1)
    log.note(2, loss=0.5)
    log.save()
    log.note(3, loss=0.25)
    assert [row["loss"] for row in read(path)] == [2.0, 0.5]
    assert 60 <= log.rows[-1]["seconds"] < 90
    assert log.minutes() == "1 min 0 s"
    for damage in ("[1]", "null", '{"step": 1}', '{"step": 1, "seconds": "2"}', "{}", "", "1e", '"step, seconds"'):
        path.write_text(damage + "\n" + '{"step": 1, "seconds": 1.0}\n')
        assert read(path) == [{"step": 1, "seconds": 1.0}]
        assert "1 of 2" in capsys.readouterr().err


@pytest.mark.thorough
def test_kills_of_a_true_process() -> None:
    arguments = [sys.executable, "-m", "tests.fault_injection", "--kills", "3", "--inside", "2"]
    done = subprocess.run(arguments, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "3 kills, 2 of them inside of a checkpoint write" in done.stdout
