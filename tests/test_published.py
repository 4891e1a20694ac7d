"""The published figures of text: their data, their model, their runs, and dynamic evaluation."""

import dataclasses
import hashlib
import io
import json
import math
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import recurrax
from benchmarks.published import dynamic, report, text, texts
from benchmarks.published.__main__ import main
from benchmarks.published.presets import PRESETS, Preset, TextRecipe

THOROUGH = pytest.mark.thorough
SMALL = TextRecipe(
    hidden_size=12,
    embedding_size=6,
    layers=2,
    embedding_dropout=0.02,
    input_dropout=0.02,
    layer_dropout=0.02,
    output_dropout=0.02,
    weight_drop=0.05,
    activation_penalty=1e-3,
    temporal_penalty=1e-3,
    rate=0.05,
    first_drop=2,
    second_drop=3,
    clip=1.0,
    batch=4,
    window=10,
    epochs=2,
)
WORDS = b"the cat sat on the mat and the dog sat on the log "


def digest_of(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def archive(parts: dict[str, bytes]) -> bytes:
    """An archive as that of the Penn Treebank."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        for name, part in parts.items():
            member = tarfile.TarInfo(f"./simple-examples/data/ptb.char.{name}.txt")
            member.size = len(part)
            file.addfile(member, io.BytesIO(part))
    return content.getvalue()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"]


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must fail with exit code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preset:
    """A text8 of 1,000 characters with a model to match."""
    content = WORDS * 20
    (tmp_path / "text8").write_bytes(content)
    preset = dataclasses.replace(PRESETS["text8"], digest=digest_of(content), recipes={"lstm": SMALL})
    monkeypatch.setitem(PRESETS, "text8", preset)
    return preset


def test_texts_are_numbered_and_divided(tmp_path: Path) -> None:
    path = tmp_path / "text8"
    path.write_bytes(b"b a c" * 20)
    found = texts.read(PRESETS["text8"], path)
    assert [len(part) for part in found[:3]] == [90, 5, 5]
    assert found.characters == 4
    assert found.train[:6].tolist() == [2, 0, 1, 0, 3, 2]
    assert found.test.tolist() == [2, 0, 1, 0, 3]

    # A character that one part alone has is in the alphabet of all.
    path = tmp_path / "simple-examples.tgz"
    path.write_bytes(archive({"train": b" a _ b \n b \n", "valid": b" b \n", "test": b" c \n"}))
    found = texts.read(PRESETS["ptb-char"], path)
    alphabet = {"\n": 0, "_": 1, "a": 2, "b": 3, "c": 4}
    assert found.train.tolist() == [alphabet[character] for character in "a_b\nb\n"]
    assert (found.test.tolist(), found.characters) == ([4, 0], 5)
    path.write_bytes(archive({"train": b" a \n"}))
    with pytest.raises(text.UserError, match=r"simple-examples.tgz' must be an archive that holds .*valid.txt"):
        texts.read(PRESETS["ptb-char"], path)


def test_wrong_data_and_commands_are_told(tmp_path: Path, small: Preset, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ptb-char", "enwik8"):
        preset = PRESETS[name]
        assert f"--data must be {preset.file}, or a folder" in told(capsys, name, "--data", tmp_path)
        (tmp_path / preset.file).write_bytes(WORDS)
        expected = preset.digest.removeprefix("md5:")[:16]
        error = told(capsys, name, "--data", tmp_path)
        assert f"must have the MD5 {expected}…, as the data of {name} has; got" in error
        assert f"of {len(WORDS)} bytes" in error
    data = ("text8", "--data", tmp_path)
    assert "--cells must be among lstm, which text8 has recipes for; got gru" in told(capsys, *data, "--cells", "gru")
    assert "such as batch=1; got 'batch=x'" in told(capsys, *data, "--tune", "batch=x")
    assert "more than 40,000 characters, 4000 streams" in told(capsys, *data, "--tune", "batch=4000")

    # What is kept of another recipe is not lost by itself.
    lock = text.Lock(tmp_path / "runs" / "text8-lstm-0")
    with lock:
        settings = text.settings(SMALL, texts.read(small, tmp_path / "text8"), seed=1)
        run = text.TextRun(lock.folder, settings, text.Facts("text8", "lstm", small.digest), lock)
        run.save("last", 0, [np.zeros(1)], math.inf)
    error = told(capsys, *data, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json")
    assert "text8-lstm-0' holds a run of another recipe" in error
    assert "name another --runs; to lose it, add --again" in error


def test_the_recipes_have_the_published_sizes() -> None:
    # The sources' LSTMs have two biases, ours have one.
    for name, characters, expected in (
        ("ptb-char", 50, 13_787_650 - 8_800),
        ("enwik8", 205, None),
        ("text8", 27, None),
    ):
        preset = PRESETS[name]
        recipe = preset.recipes["lstm"]
        model = nnx.eval_shape(lambda r=recipe, c=characters: text.CharacterModel(r, c, rngs=nnx.Rngs(0)))
        found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert expected in (None, found)
        assert 0.98 * preset.at_most < found <= preset.at_most


def is_param(leaf: object) -> bool:
    return isinstance(leaf, nnx.Param)


@THOROUGH
def test_the_model_ties_its_weights_and_drops_as_asked() -> None:
    recipe = dataclasses.replace(SMALL, embedding_dropout=0.4, output_dropout=0.5, layers=1, weight_drop=0.0)
    model = text.CharacterModel(recipe, 5, rngs=nnx.Rngs(params=0, dropout=1))
    chars = jnp.array([[3, 1, 4, 3]])
    plain = model(chars, None)
    embedding = np.asarray(model.embedding[...])
    np.testing.assert_allclose(plain.logits, np.asarray(plain.ys) @ embedding.T, atol=1e-6)
    # The first of the parameters are of the dropout, which has none.
    params = jax.tree.map(lambda leaf: leaf[...], model.recurrent.params[1], is_leaf=is_param)
    _, expected = recurrax.scan(recurrax.LSTMCell(6), params, embedding[np.asarray(chars)])
    np.testing.assert_allclose(plain.ys, expected, atol=1e-6)

    outputs = model(chars, None, jax.random.key(0))
    # One mask serves all steps: a dropped unit is zero throughout, another one is doubled.
    share = np.asarray(outputs.dropped / outputs.ys)
    assert set(np.round(share, 4).ravel().tolist()) == {0.0, 2.0}
    np.testing.assert_array_equal(share[0, 0], share[0, 3])


def test_windows_hold_every_target_once() -> None:
    part = np.arange(60, dtype=np.uint8)
    windows = dynamic.windows_of(part, streams=4, window=5)
    assert windows.mask.shape == (3, 4, 5)
    assert windows.targets[windows.mask].size == 59
    assert sorted(windows.targets[windows.mask].tolist()) == list(range(1, 60))
    np.testing.assert_array_equal(windows.chars[windows.mask] + 1, windows.targets[windows.mask])
    # Each stream goes on from window to window.
    np.testing.assert_array_equal(windows.chars[1, :, 0], windows.targets[0, :, -1])


def command_of(folder: Path, runs: str = "runs") -> list[str]:
    out = str(folder / f"{runs}.json")
    return ["text8", "--data", str(folder), "--seeds", "0", "--out", out, "--runs", str(folder / runs)]


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log without its times, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def count_steps(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> list[int]:
    """Stops a run by a signal in one of its updates; returns the list of all updates to come."""
    train_step, seen = text.Learner.train_step, []

    def counted(self, state, windows, first):
        seen.append(int(state.trained.step))
        if len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(self, state, windows, first)

    monkeypatch.setattr(text.Learner, "train_step", counted)
    return seen


@pytest.mark.thorough
def test_a_run_learns_stops_and_goes_on(
    small: Preset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    standard_promotion: None,
) -> None:
    command, seen = command_of(tmp_path), count_steps(monkeypatch, stop_at=7)
    assert main(command) == 130
    assert "benchmarks.published text8 --cells lstm --seeds 0 --runs" in capsys.readouterr().out
    assert not (tmp_path / "runs.json").exists()
    assert main(command) == 0
    # Each update of both epochs ran once.
    assert seen == list(range(44))
    [row] = rows_of(tmp_path / "runs.json")
    assert row["recipe"] == dataclasses.asdict(SMALL)
    assert row["best_epoch"] == 2
    # A blind guess costs log2(13) = 3.7 bits.
    assert row["test"] < 3
    assert row["validation"] < 3
    assert "| lstm | 1.27 |" in report.table(small, [row])
    assert main(command) == 0
    assert "(kept)" in capsys.readouterr().out
    assert len(seen) == 44


@THOROUGH
def test_a_stopped_run_ends_as_another_one(
    small: Preset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    standard_promotion: None,
) -> None:
    with monkeypatch.context() as patch:
        count_steps(patch, stop_at=26)
        assert main(command_of(tmp_path, "stopped")) == 130
    assert main(command_of(tmp_path, "stopped")) == 0
    assert main(command_of(tmp_path, "other")) == 0
    folders = [tmp_path / runs / "text8-lstm-0" for runs in ("stopped", "other")]
    assert log_of(folders[0]) == log_of(folders[1])
    rows = [rows_of(tmp_path / f"{runs}.json")[0] for runs in ("stopped", "other")]
    assert rows[0]["test"] == rows[1]["test"]
    # A finished run gets its other scores without an update.
    seen = count_steps(monkeypatch, stop_at=0)
    assert main([*command_of(tmp_path, "other"), "--dynamic"]) == 0
    [row] = rows_of(tmp_path / "other.json")
    assert row["test"] == rows[1]["test"]
    # The slowest rule hardly moves the parameters of a model that 44 updates have made.
    assert row["dynamic"].keys() == {"rate", "decay", "window", "validation", "test"}
    assert row["dynamic"]["test"] == pytest.approx(row["test"], abs=0.1)
    assert f", by dynamic evaluation {row['dynamic']['test']:.4f}; published 1.27" in capsys.readouterr().out
    assert not seen
    # A trial shows no test figure, and keeps nothing.
    before = sorted(tmp_path.rglob("*"))
    assert main([*command_of(tmp_path, "other"), "--tune", "epochs=1"]) == 0
    assert "'validation'" in (said := capsys.readouterr().out)
    assert "'test'" not in said
    assert sorted(tmp_path.rglob("*")) == before
    assert main([*command_of(tmp_path, "other"), "--again"]) == 0
    assert len(seen) == 22 + 44


@THOROUGH
def test_dynamic_evaluation_is_its_rule(small: Preset, tmp_path: Path, standard_promotion: None) -> None:
    found = texts.read(small, tmp_path / "text8")
    learner = text.Learner(text.settings(SMALL, found, seed=0), found.characters)
    params = learner.first_state().params
    training = dynamic.windows_of(found.train[:41], 2, dynamic.WINDOW)
    sizes = dynamic.gradient_sizes(learner, params, training)
    part = dynamic.windows_of(found.test[:51], 1, dynamic.WINDOW)
    # Without learning the losses are those of an evaluation.
    still = dynamic.losses(learner, params, sizes, part, dynamic.Rule(0.0, 0.0))
    np.testing.assert_allclose(still, learner.losses(params, part), rtol=1e-5)

    # The rule as the paper writes it, parameter by parameter.
    rate, decay = 0.003, 0.2
    [only] = [jax.tree.map(lambda leaf: leaf[0], training)]
    count = only.mask.sum()
    state = learner.zero_state(params, 2)
    grads = jax.grad(lambda p: learner.window_loss(p, state, only)[0] / count)(params)
    root = [np.abs(np.asarray(leaf)) for leaf in jax.tree.leaves(grads)]
    for got, expected in zip(jax.tree.leaves(sizes), root, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-8)
    mean = np.mean([leaf.mean() for leaf in root])
    now, state, expected = params, learner.zero_state(params, 1), []
    leaves, structure = jax.tree.flatten(params)
    for number in range(3):
        window = jax.tree.map(lambda leaf, n=number: leaf[n], part)

        def mean_loss(p, window=window, state=state):
            total, after = learner.window_loss(p, state, window)
            return total / window.mask.sum(), (total, after)

        (_, (total, state)), grads = jax.value_and_grad(mean_loss, has_aux=True)(now)
        expected.append(float(total))
        moved = []
        for leaf, first, grad, size in zip(jax.tree.leaves(now), leaves, jax.tree.leaves(grads), root, strict=True):
            back = np.minimum(decay * size / mean, 1)
            moved.append(leaf + back * (first - leaf) - rate * grad / (size + 2e-5))
        now = jax.tree.unflatten(structure, moved)
    got = dynamic.losses(learner, params, sizes, part, dynamic.Rule(rate, decay))
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert not np.allclose(got, still, rtol=1e-4)
