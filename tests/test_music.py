"""The program that composes, and the published figures of polyphonic music."""

import dataclasses
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.published import report
from benchmarks.published.__main__ import changed
from benchmarks.published.__main__ import main as published
from benchmarks.published.presets import PRESETS, WrongDataError, checked_file
from examples.char_lm.lock import Lock
from examples.music import harmony, midi, pieces, train
from examples.music.__main__ import main
from examples.music.config import Config, UserError
from examples.music.model import Composer, draw_keys, step_losses
from examples.music.run import Facts, Run
from examples.music.train import Learner, draw_windows, joined, total_loss
from lenient import lenient_optax
from recurrax.testing import assert_close

THOROUGH = pytest.mark.thorough
TINY = "--hidden-size 8 --batch 4 --window 16 --learning-rate 0.02"
SHORT = "--steps 12 --eval-every 5 --checkpoint-every 4 --warmup 2"


def rolls(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [(draw.random((length, 88)) < 0.05).astype(np.uint8) for length in lengths]


def save_mat(path: Path, **parts: list[np.ndarray]) -> Path:
    savemat = pytest.importorskip("scipy.io").savemat
    arrays = {}
    for name, part in parts.items():
        cells = np.empty((1, len(part)), object)
        cells[0, :] = part
        arrays[name] = cells
    savemat(path, arrays)
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must fail with exit code 2."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    return error


def test_the_loss_is_the_negative_log_likelihood() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(2, 5, 88)).astype(np.float32)
    targets = np.stack(rolls(5, 5))
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    likelihood = np.where(targets == 1, probability, 1 - probability)
    expected = -np.log(likelihood).sum(-1)
    np.testing.assert_allclose(step_losses(jnp.asarray(logits), jnp.asarray(targets)), expected, rtol=1e-5)

    # Only the steps of each piece count, whatever is in the padding.
    def model(xs, lengths, key):
        return jnp.asarray(logits)

    lengths = np.array([5, 2], np.int32)
    targets[1, 2:] = 255
    total = total_loss(model, jnp.zeros((2, 5, 88)), jnp.asarray(targets), jnp.asarray(lengths))
    np.testing.assert_allclose(total, expected[0].sum() + expected[1, :2].sum(), rtol=1e-5)


def test_batches_and_windows_hold_what_follows_each_step() -> None:
    found = rolls(40, 2, 9)
    steps = 0
    for batch in pieces.padded(found, 2):
        for row, index in enumerate(batch.indices):
            length = batch.lengths[row]
            steps += length
            if index >= 0:
                np.testing.assert_equal(batch.xs[0][row, :length], found[index][:-1])
                np.testing.assert_equal(batch.xs[1][row, :length], found[index][1:])
    assert steps == 39 + 1 + 8

    part = jax.tree.map(jnp.asarray, joined(found))
    xs, targets, lengths = map(np.asarray, draw_windows(jax.random.key(0), part, 256, 16))
    places = []
    for row, length in enumerate(lengths):
        for index, piece in enumerate(found):
            for start in range(len(piece) - length):
                same = (piece[start : start + length] == xs[row, :length]).all()
                if same and (piece[start + 1 : start + 1 + length] == targets[row, :length]).all():
                    places.append((index, start, length))
    # Each window is in one piece, and none is shorter than need be.
    assert len(places) == 256
    assert {(index, length) for index, _, length in places} == {(0, 16), (1, 1), (2, 8)}
    assert {start for index, start, _ in places if index == 0} >= {0, 23}


def test_pieces_follow_the_rules() -> None:
    draw = np.random.default_rng(3)
    for _ in range(5):
        roll = harmony.compose(draw)
        assert roll.shape == (64, 88)
        assert set(roll.sum(axis=1)) == {4}
        # All notes belong to the scale of one key.
        heard = {int(key) % 12 for key in np.flatnonzero(roll.any(axis=0)) + midi.LOWEST}
        keys = [np.add(scale, tonic) % 12 for tonic in range(12) for scale in harmony.SCALES.values()]
        assert any(heard <= set(key.tolist()) for key in keys)
    assert [len(part) for part in harmony.compose_parts()] == list(harmony.NUMBERS)


def test_keys_are_drawn_as_asked() -> None:
    logits = jnp.where(jnp.arange(88) < 10, 2.0, -20.0)
    many = jnp.broadcast_to(logits, (2000, 88))
    alone = np.asarray(draw_keys(jax.random.key(0), many, 0))
    np.testing.assert_allclose(alone[:, :10].mean(0), 1 / (1 + np.exp(-2.0)), atol=0.04)
    assert not alone[:, 10:].any()
    together = np.asarray(draw_keys(jax.random.key(0), many, 3))
    assert set(together.sum(1)) == {3}
    np.testing.assert_allclose(together[:, :10].mean(0), 0.3, atol=0.05)


def test_a_midi_file_gives_its_roll_back(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    [roll] = rolls(30)
    roll[:, 87] = 1  # a note from the first step to the last
    roll[4:8] = 0
    path = tmp_path / "piece.mid"
    for steps_per_beat in (1, 4, 7):
        midi.write(roll, path, steps_per_beat, 100.0)
        np.testing.assert_array_equal(midi.read(path, steps_per_beat), roll)
    midi.write(roll, path, 2, 100.0)
    assert mido.MidiFile(path).length == pytest.approx(30 / 2 * 60 / 100)

    # Drums are no pitches, a note below the piano is left out, and a short note lasts a step.
    file = mido.MidiFile(ticks_per_beat=10)
    track = mido.MidiTrack()
    file.tracks.append(track)
    for kind, note, channel, time in (
        ("note_on", 60, 0, 20),
        ("note_on", 10, 0, 0),
        ("note_on", 70, 9, 0),
        ("note_off", 60, 0, 1),
    ):
        track.append(mido.Message(kind, note=note, channel=channel, time=time))
    file.save(path)
    found = midi.read(path, 1)
    assert np.argwhere(found).tolist() == [[2, 60 - midi.LOWEST]]
    for number in range(3):
        midi.write(roll, tmp_path / f"{number}.mid", 2, 100.0)
    (tmp_path / "piece.mid").unlink()
    parts = pieces.read_folder(tmp_path, 2)
    assert [len(part) for part in parts] == [1, 1, 1]
    (tmp_path / "0.mid").write_bytes(b"no music")
    with pytest.raises(UserError, match=r"0.mid' is not a MIDI file"):
        pieces.read_folder(tmp_path, 2)


def test_wrong_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pieces.mat"
    good = {"traindata": rolls(9, 3), "validdata": rolls(4, 5), "testdata": rolls(3, 6)}
    parts = pieces.read_mat(save_mat(path, **good))
    for part, expected in zip(parts, good.values(), strict=True):
        for found, roll in zip(part, expected, strict=True):
            np.testing.assert_equal(found, roll)

    def refused(roll: np.ndarray) -> str:
        save_mat(path, **good | {"validdata": [*rolls(4), roll]})
        with pytest.raises(UserError) as caught:
            pieces.read_mat(path)
        assert "piece 1 of 'validdata'" in str(caught.value)
        return str(caught.value)

    [roll] = rolls(9)
    assert "must be [T, 88], a row for each step; got [88, 9]. Are the keys its rows" in refused(roll.T)
    assert "got [9, 128]. MIDI has 128 notes" in refused(np.zeros((9, 128)))
    assert "got 64. Is it the velocity" in refused(64 * roll)
    assert "at least 2 steps" in refused(roll[:1])
    path.write_text("not MATLAB " * 50)
    with pytest.raises(UserError, match="not a MATLAB file"):
        pieces.read_mat(path)
    save_mat(path, traindata=rolls(4, 5), tests=rolls(4, 5))
    with pytest.raises(UserError, match="no 'validdata' among tests, traindata"):
        pieces.read_mat(path)
    with pytest.raises(UserError, match=r"there is no .*nowhere'"):
        pieces.load(str(tmp_path / "nowhere"), 2)
    with pytest.raises(UserError, match="at least 3 MIDI files"):
        pieces.load(str(tmp_path), 2)
    # Without the libraries the program says what brings them.
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "mido", None)
    for reader, argument in ((pieces.read_mat, (path,)), (midi.read, (path, 2))):
        with pytest.raises(UserError, match=r"not installed\. Install it by: pip install 'recurrax\[music\]'"):
            reader(*argument)


def test_published_data_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsb = PRESETS["jsb"]
    with pytest.raises(WrongDataError, match=r"must be JSB_Chorales.mat, or a folder that holds it"):
        checked_file(jsb, tmp_path)
    (tmp_path / jsb.file).write_bytes(b"another version")
    assert published(["jsb", "--data", str(tmp_path)]) == 2
    assert f"must have the SHA256 {jsb.digest.removeprefix('sha256:')[:16]}" in capsys.readouterr().err

    row = {"preset": "jsb", "cell": "lstm", "parameters": 1234, "seconds": 10.0, "test": 8.0}
    table = report.table(jsb, [row | {"seed": 1, "test": 8.5}, row | {"seed": 0}, row | {"preset": "nottingham"}])
    assert "| lstm | 8.45 | 8.250 | 8.000, 8.500 | 1,234 | 10 |" in table
    assert "| gru | 8.43 | not run |" in table
    assert jsb.command in table

    recipe = changed(jsb.recipes["lstm"], ["epochs=3", "rate=0.5"])
    assert (recipe.epochs, recipe.rate, recipe.rows) == (3, 0.5, jsb.recipes["lstm"].rows)
    with pytest.raises(UserError, match="must name a number of the recipe: hidden_size, layers"):
        changed(recipe, ["units=3"])


def test_published_windows_are_the_pieces() -> None:
    from benchmarks.published.music import key_logits, windows_of

    found = rolls(9, 4, 6)
    windows = windows_of(found, rows=2, window=5, draw=np.random.default_rng(0))
    assert windows.xs.shape == (2, 2, 5, 88)
    # Stream by stream, the windows hold every piece once, and what follows each step.
    streams = [np.moveaxis(part, 0, 1).reshape(20, *part.shape[3:]) for part in windows]
    xs, targets, reset, mask = streams
    assert mask.tolist() == [True] * 16 + [False] * 4
    starts = [*np.flatnonzero(reset), 16]
    heard = []
    for start, end in itertools.pairwise(starts):
        np.testing.assert_equal(xs[start + 1 : end], targets[start : end - 1])
        heard.append(np.concatenate([xs[start:end], targets[end - 1 : end]]))
    assert sorted(map(len, heard)) == [4, 6, 9]
    for piece in found:
        assert any(np.array_equal(piece, other) for other in heard)
    share = 1 / (1 + np.exp(-key_logits(found).astype(np.float64)))
    np.testing.assert_allclose(share * 21 - 1, np.concatenate(found).sum(0), atol=1e-4)


@THOROUGH
def test_a_published_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], standard_promotion: None) -> None:
    from benchmarks.published.music import Trainer, train, windows_of
    from examples.music.pieces import Parts

    recipe = dataclasses.replace(
        PRESETS["jsb"].recipes["lstm"], hidden_size=8, rows=2, window=8, epochs=4, input_dropout=0.1
    )
    parts = Parts(rolls(20, 30), rolls(9, 40, seed=1), rolls(9, seed=2))
    epochs = []
    row = train("lstm", recipe, parts, 0, lambda *told: epochs.append(told))
    assert row["parameters"] == 4 * (88 * 8 + 8 * 8 + 8) + 8 * 88 + 88
    assert [epoch for epoch, _, _ in epochs] == [1, 2, 3, 4]
    assert row["validation"] == pytest.approx(min(found for _, _, found in epochs), abs=1e-4)
    # A mean over all steps: a long piece counts more than a short one.
    trainer = Trainer("lstm", recipe, parts.train, 0)
    one, two = ([piece] for piece in parts.validation)
    scores = [trainer.score(trainer.params, part) for part in (one, two, parts.validation)]
    assert scores[2] == pytest.approx((8 * scores[0] + 39 * scores[1]) / 47, rel=1e-5)
    # One update: what is scored keeps three quarters of itself.
    trainer = Trainer("lstm", dataclasses.replace(recipe, window=24, average=0.75), parts.train, 0)
    windows = windows_of(parts.train, 2, 24, np.random.default_rng(0))
    trained, _ = trainer.epoch(trainer.first(), windows, jax.random.key(0))
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, trainer.params, trained.params)
    assert_close("average", trained.averaged, expected, 1e-6)
    assert not np.allclose(jax.tree.leaves(trained.params)[-1], jax.tree.leaves(trainer.params)[-1])


@pytest.fixture(scope="module")
def program() -> Iterator[None]:
    """Its optax may mix dtypes, and it learns from few pieces."""
    with lenient_optax(train) as patch:
        patch.setattr(harmony, "NUMBERS", (6, 2, 2))
        yield


def run_train(out: Path) -> int:
    return main(["train", "--out", str(out), *f"{TINY} {SHORT}".split()])


def log_of(folder: Path) -> list[dict]:
    """The log without its times, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, program: None) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run_train(out) == 0
    return out


@THOROUGH
def test_train_and_compose(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = [row["loss"] for row in log_of(finished) if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 3
    assert losses[0] == pytest.approx(88 * np.log(2), rel=0.1)
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    pytest.importorskip("mido")
    assert main(["compose", str(finished), "--observed", "5", "--length", "20", "--voices", "3"]) == 0
    assert "composed.mid" in capsys.readouterr().out
    assert (finished / "composed.png").read_bytes().startswith(b"\x89PNG")
    found = midi.read(finished / "composed.mid", 2)
    assert found.shape == (20, 88)
    np.testing.assert_equal(found[:5], harmony.compose_parts()[2][0][:5])
    assert set(found[5:].sum(axis=1)) == {3}


@THOROUGH
def test_a_stopped_run_resumes_bit_equal(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped, train_step = tmp_path / "stopped", Learner.train_step

    def ctrl_c_in_step_7(self, state, part):
        if int(state.step) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(self, state, part)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", ctrl_c_in_step_7)
        assert run_train(stopped) == 130
    assert "python -m examples.music resume" in capsys.readouterr().out
    assert main(["resume", str(stopped)]) == 0
    assert log_of(stopped) == log_of(finished)
    states = []
    for folder in (stopped, finished):
        run = Run.open(folder)
        states.append(run.restore("last", Learner(run.config).split.first_state()).tree)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, *states)))


@THOROUGH
def test_a_composed_piece_is_what_the_model_says() -> None:
    model = Composer(Config(hidden_size=8, layers=2), rngs=jax_rngs())
    begun = jnp.asarray(np.stack(rolls(6, 6)), jnp.float32)
    composed = model.compose(begun, 15, jax.random.key(1), temperature=1e-5, voices=4)
    np.testing.assert_equal(np.asarray(composed[:, :6]), np.asarray(begun))
    # At a low temperature the likeliest keys sound.
    logits = np.asarray(model(composed))
    for step in range(6, 15):
        likeliest = np.sort(np.argsort(logits[:, step - 1])[:, -4:])
        chosen = np.stack([np.flatnonzero(row) for row in np.asarray(composed[:, step])])
        np.testing.assert_equal(chosen, likeliest)


def jax_rngs():
    from flax import nnx

    return nnx.Rngs(0)


def test_wrong_commands_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harmony, "NUMBERS", (2, 1, 1))
    assert "no run" in told(capsys, "compose", tmp_path / "nowhere")
    assert "an integer, 1 to 65,536; got '0'" in told(capsys, "train", "--out", tmp_path, "--batch", "0")
    with Lock(tmp_path / "run") as lock:
        run = Run(lock.folder, Config(), Facts(None, pieces.load(None, 2).sha256), lock)
        run.save("last", 0, [np.zeros(1)], np.inf)
    assert "already holds a run" in told(capsys, "train", "--out", run.folder)
    assert "must be above --observed, which is 9; got 9" in told(
        capsys, "compose", run.folder, "--observed", 9, "--length", 9
    )
    assert "must be 0 to 0, a piece of the test part; got 3" in told(capsys, "compose", run.folder, "--piece", 3)
    assert "must be at most 64, the steps of piece 0; got 70" in told(
        capsys, "compose", run.folder, "--observed", 70, "--length", 99
    )
    monkeypatch.setattr(harmony, "NUMBERS", (2, 1, 2))
    assert "no longer those" in told(capsys, "resume", run.folder)
