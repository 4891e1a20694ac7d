"""The example program: complete runs of a tiny model, through the command line."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.char_lm import data
from examples.char_lm import train as training
from examples.char_lm.__main__ import main
from examples.char_lm.config import Config, UserError
from examples.char_lm.data import Corpus, encode, training_windows, validation_windows
from examples.char_lm.run import Run
from examples.char_lm.train import Learner
from lenient import lenient_optax

TINY = "--hidden-size 16 --embedding-size 8 --batch 4 --window 10 --warmup 5 --learning-rate 0.02 --no-report"


def write_text(path: Path) -> Path:
    """A text of 3,000 characters whose rule a tiny model can find, and no two windows of which are the same."""
    draw = random.Random(0)
    lines = [f"def f{i}(x):\n    return x {draw.choice('+-*/')} {draw.randrange(100)}\n" for i in range(200)]
    path.write_text("".join(lines)[:3000], "utf-8")
    return path


def stored(text: Path, folder: Path) -> tuple[data.Text, Corpus]:
    facts = data.store(folder / "text.bin", str(text), data.count(str(text)))
    return facts, data.load(folder / "text.bin", facts)


def train(text: Path, out: Path, options: str) -> int:
    return main(["train", "--text", str(text), "--out", str(out), *f"{TINY} {options}".split()])


def rows(run: Path) -> list[dict]:
    """The log without its times, which no two runs share."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def last_state(folder: Path) -> list[np.ndarray]:
    run = Run.open(folder)
    state = Learner(run.config, len(run.text.vocabulary)).first_state()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.restore("last", state).tree)]


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of a command that must fail with exit code 2."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    output, error = capsys.readouterr()
    assert code == 2
    assert not output or arguments[0] != "sample"
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True, scope="module")
def program() -> Iterator[None]:
    """Its optax may mix dtypes."""
    with lenient_optax(training):
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.py")


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be copied by tests that change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train(text, out, "--steps 80 --eval-every 30 --checkpoint-every 50") == 0
    return out


def test_train_learns_and_leaves_log_curves_and_checkpoints(finished: Path):
    log = rows(finished)
    losses = [row["loss"] for row in log if "loss" in row]
    checks = {row["step"]: row["validation_loss"] for row in log if "validation_loss" in row}
    assert [row["step"] for row in log if "loss" in row] == list(range(1, 81))
    assert sorted(checks) == [30, 60, 80]
    run = Run.open(finished)
    assert losses[0] == pytest.approx(np.log(len(run.text.vocabulary)), rel=0.1)
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name.split("-")[0] for path in (finished / "last").iterdir()) == ["50", "80"]

    # The best checkpoint is the one that the log says, and gives the loss that the log says.
    learner = Learner(run.config, len(run.text.vocabulary))
    step, params, loss = run.restore("best", learner.first_state().params)
    windows = validation_windows(data.load(finished / "text.bin", run.text).validation, run.config)
    assert step == min(checks, key=checks.__getitem__)
    assert float(learner.evaluate(params, windows)) == checks[step] == loss


def test_sample_writes_what_seed_and_top_k_say(finished: Path, capsys: pytest.CaptureFixture[str]):
    def sample(*options: str) -> str:
        assert main(["sample", str(finished), "--length", "60", *options]) == 0
        return capsys.readouterr().out

    first, again, other = (sample("--prompt", "def f", "--seed", seed) for seed in "001")
    assert first.startswith("def f")
    assert len(first) == len("def f") + 60 + 1
    assert first == again != other
    assert sample("--top-k", "1") == sample("--top-k", "1", "--seed", "1", "--temperature", "5")
    assert sample("--top-k", "100000") == sample()
    # Another length writes the same text, up to its end, and a character of share 1 is the likeliest.
    assert sample("--length", "70").startswith(sample()[:-1])
    assert sample("--min-p", "1") == sample("--top-p", "0.000001") == sample("--top-k", "1")


def test_samples_of_several_prompts(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("def f\n\nreturn x +\n")
    options = ["sample", str(finished), "--length", "20"]
    assert main([*options, "--prompts", str(prompts), "--samples", "2"]) == 0
    output = capsys.readouterr().out
    titles = [f"--- prompt {prompt}, sample {sample} ---\n" for prompt in (1, 2) for sample in (1, 2)]
    texts = []
    for title, following in zip(titles, [*titles[1:], None], strict=True):
        text = output[output.index(title) + len(title) :]
        texts.append(text[: text.index(following)] if following else text)
    assert [len(text) for text in texts] == [26, 26, 31, 31]
    assert texts[0].startswith("def f")
    assert texts[2].startswith("return x +")
    assert texts[0] != texts[1]
    # The first sample is the one that a call for a single one writes.
    assert main([*options, "--prompt", "def f"]) == 0
    assert capsys.readouterr().out == texts[0]

    prompts.write_text("\n\n")
    assert "at least one prompt" in told(capsys, *options, "--prompts", prompts)
    assert "not allowed with" in told(capsys, *options, "--prompts", prompts, "--prompt", "d")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("--cell gru --windows random --dropout 0.2 --weight-decay 0.1", marks=pytest.mark.thorough),
        pytest.param("--layers 2 --dropout 0.2", marks=pytest.mark.thorough),
        pytest.param("--cell rnn --seed 7", marks=pytest.mark.thorough),
    ],
)
def test_a_stopped_run_resumes_bit_equal(
    options: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    options += " --steps 30 --eval-every 9 --sample-every 8 --checkpoint-every 10"
    entire, stopped = tmp_path / "entire", tmp_path / "stopped run"
    assert train(text, entire, options) == 0

    train_step = Learner.train_step
    with monkeypatch.context() as patch:

        def ctrl_c_in_step_17(self, state, *windows):
            if int(state.step) == 16:
                os.kill(os.getpid(), signal.SIGINT)
            return train_step(self, state, *windows)

        patch.setattr(Learner, "train_step", ctrl_c_in_step_17)
        capsys.readouterr()
        assert train(text, stopped, options) == 130
    assert f"python -m examples.char_lm resume '{stopped}'" in capsys.readouterr().out
    assert rows(stopped) == [row for row in rows(entire) if row["step"] <= 17]

    assert main(["resume", str(stopped)]) == 0
    assert rows(stopped) == rows(entire)
    np.testing.assert_equal(last_state(stopped), last_state(entire))


def test_streams_keep_the_state_and_begin_anew_with_each_epoch(text: Path, tmp_path: Path):
    config = Config(hidden_size=16, embedding_size=8, batch=3, window=10, learning_rate=1e-8, eval_windows=10**6)
    (tmp_path / "short.py").write_text(text.read_text()[:1000])
    facts, corpus = stored(tmp_path / "short.py", tmp_path)
    learner = Learner(config, len(facts.vocabulary))
    state, ids = learner.first_state(), jnp.asarray(corpus.train)
    length = (ids.size - 1) // 3
    windows = length // 10
    model = learner.model(state.params)
    streams = jnp.stack([ids[i * length : i * length + windows * 10 + 1] for i in range(3)])
    logits, _ = model(streams[:, :-1])  # each stream read at once, where training reads windows
    entire = optax.softmax_cross_entropy_with_integer_labels(logits, streams[:, 1:])
    expected = entire.reshape(3, windows, 10).mean((0, 2))
    windows_read = validation_windows(corpus.train, config)
    assert float(learner.evaluate(state.params, windows_read)) == pytest.approx(float(entire.mean()), rel=1e-5)
    losses = []
    for step in range(2 * windows):
        state, measured = learner.train_step(state, *training_windows(corpus.train, step, config))
        losses.append(float(measured["loss"]))
    np.testing.assert_allclose(losses, jnp.tile(expected, 2), rtol=1e-5)


@pytest.mark.thorough
def test_chinese_text_of_a_thousand_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw, alphabet = random.Random(0), "".join(chr(0x4E00 + i) for i in range(1026)) + "\n"
    lyrics = tmp_path / "歌詞.txt"
    lyrics.write_text(alphabet + "".join(draw.choices(alphabet[:50], k=10_000 - len(alphabet))), "utf-8")
    out = tmp_path / "run"
    options = "--cell rnn --window 35 --batch 32 --steps 8 --learning-rate 0.01 --warmup 0 --no-report"
    assert main(["train", "--text", str(lyrics), "--out", str(out), *options.split()]) == 0
    losses = [row["loss"] for row in rows(out) if "loss" in row]
    assert losses[0] == pytest.approx(np.log(1027), rel=0.05)
    assert losses[-1] < losses[0] - 0.5
    capsys.readouterr()
    assert main(["sample", str(out), "--prompt", alphabet[:3], "--length", "20"]) == 0
    written = capsys.readouterr().out
    assert written.startswith(alphabet[:3])
    assert len(encode(written, alphabet)) == 3 + 20 + 1


def test_files_folders_globs_and_the_standard_library(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "2.txt").write_bytes("\ufeffzwei\r\n".encode())
    (tmp_path / "1.txt").write_text("eins")
    (tmp_path / "3.rst").write_text("drei")

    def load_text(source: str | None, *leave_out: Path) -> str:
        return "".join(data.read(source, *leave_out))

    assert load_text(str(tmp_path)) == "eins\ndrei\nzwei\n"
    assert load_text(str(tmp_path / "**" / "*.txt")) == "eins\nzwei\n"
    # A run folder below the text's folder is no part of the text.
    (tmp_path / "last").mkdir()
    for name in ("last/80", "log.jsonl", "text.bin"):
        (tmp_path / name).write_bytes(b"\xff")
    assert load_text(str(tmp_path), tmp_path) == "eins\ndrei\nzwei\n"
    library = load_text(None)
    assert len(library) > 2_000_000
    assert library.isascii()
    assert library.index("class ArgumentParser") < library.index("def dedent(")  # argparse.py before textwrap.py


def test_wrong_texts_and_options_are_told_before_anything_is_written(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, bad = tmp_path / "run", tmp_path / "bad.txt"
    begin = ["train", "--out", out, *TINY.split()]
    assert "'absent.txt'" in told(capsys, *begin, "--text", "absent.txt")
    assert "no file" in told(capsys, *begin, "--text", str(tmp_path / "*.nothing"))
    # Neither the current folder nor the standard library is meant.
    assert "'' names no file" in told(capsys, *begin, "--text", "")
    bad.write_text(" \n")
    assert "empty" in told(capsys, *begin, "--text", bad)
    bad.write_text("a" * 1000)
    assert "only repeats 'a'" in told(capsys, *begin, "--text", bad)
    assert "'/dev/zero' is a device" in told(capsys, *begin, "--text", "/dev/zero")
    # 4 × 65,536 × (65,536 + 8) weights of the layer, 16 bytes each in training.
    large = ["--text", text, "--hidden-size", "65536"]
    assert "274.9 GB of memory at least" in told(capsys, *begin, *large)
    # 4 windows of 10 need 41 characters in nine tenths, and 11 in the last: 110 is the least.
    bad.write_text("abc" * 36 + "a")
    error = told(capsys, *begin, "--text", bad)
    assert "109 characters" in error
    assert "need 110" in error
    bad.write_bytes(b"caf\xe9 " * 100)
    error = told(capsys, *begin, "--text", bad)
    assert str(bad) in error
    assert "byte 0xe9 at offset 3" in error
    for option, wrong, expected in [
        ("--batch", "0", "an integer, 1 to 65,536; got '0'"),
        ("--dropout", "1.5", "a number, 0.0 to 0.95; got '1.5'"),
        ("--clip", "nan", "a number, 1e-06 or more; got 'nan'"),
        ("--steps", "many", "an integer, 1 to 100,000,000; got 'many'"),
        ("--cell", "qrnn", "invalid choice: 'qrnn'"),
    ]:
        error = told(capsys, *begin, "--text", text, option, wrong)
        assert option in error
        assert expected in error
    assert "a file, not a folder" in told(capsys, "train", "--text", text, "--out", text)
    assert not out.exists()


def test_the_least_text_is_enough(tmp_path: Path):
    text = tmp_path / "text.txt"
    for batch, window in [(4, 10), (1, 7), (9, 10), (10, 10), (13, 3)]:
        config = Config(batch=batch, window=window)
        with pytest.raises(UserError, match="need") as error:
            data.check_size(np.array([1, 1]), config)
        needed = int(str(error.value).split("need ")[1].split(".")[0].replace(",", ""))
        text.write_text("ab" + "a" * (needed - 2))
        data.check_size(data.count(str(text)), config)
        _, corpus = stored(text, tmp_path)
        assert (len(corpus.train) - 1) // batch >= window
        assert len(corpus.validation) > window
        assert training_windows(corpus.train, 10**6, config)[0].shape == (batch, window + 1)
        assert validation_windows(corpus.validation, config).shape[2] == window + 1
        with pytest.raises(UserError, match="too short"):
            data.check_size(np.array([needed - 1]), config)


def test_a_run_is_never_lost_by_accident(
    finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before = contents(finished)
    error = told(capsys, "train", "--text", text, "--out", finished, *TINY.split())
    assert "already holds a run" in error
    assert f"resume {finished}" in error
    assert "--overwrite" in error
    told(capsys, "train", "--text", "absent.txt", "--out", finished, *TINY.split(), "--overwrite")
    assert contents(finished) == before

    mine = shutil.copytree(finished, tmp_path / "run")
    (mine / "notes.txt").write_text("keep")
    assert train(text, mine, "--overwrite --steps 3") == 0
    assert (mine / "notes.txt").read_text() == "keep"
    assert rows(mine)[-1]["step"] == 3


def test_wrong_prompts_and_runs_are_told(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    error = told(capsys, "sample", finished, "--prompt", "def 猫")
    assert "'猫' (U+732B)" in error
    assert "never saw" in error
    assert "no run" in told(capsys, "sample", tmp_path / "nowhere")
    assert "no run" in told(capsys, "resume", tmp_path / "nowhere")

    mine = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(mine / "best")
    assert "first validation" in told(capsys, "sample", mine)
    shutil.copytree(finished / "best", mine / "best")
    shutil.rmtree(mine / "last")
    assert "no intact checkpoint" in told(capsys, "resume", mine)
    shutil.rmtree(mine / "best")
    assert "no run" in told(capsys, "resume", mine)
