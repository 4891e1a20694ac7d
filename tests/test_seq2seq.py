"""The program that translates dates: runs of a tiny model, through the command line."""

import datetime
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from examples.char_lm.lock import Lock
from examples.seq2seq import dates, train
from examples.seq2seq.__main__ import main
from examples.seq2seq.config import Config
from examples.seq2seq.dates import Dates, decode_source, decode_target, make_corpus
from examples.seq2seq.run import Facts, Run
from examples.seq2seq.train import Learner
from lenient import lenient_optax

TINY = "--hidden-size 12 --decoder-size 16 --embedding-size 8 --examples 500 --batch 8 --learning-rate 0.02"
SHORT = "--steps 12 --eval-every 5 --checkpoint-every 4 --beam 2 --warmup 2"


@pytest.fixture(autouse=True, scope="module")
def program() -> Iterator[None]:
    """Its optax may mix dtypes, and fewer dates are held out."""
    with lenient_optax(train) as patch:
        patch.setattr(dates, "HELD_OUT", 20)
        yield


def run_train(out: Path, options: str = SHORT) -> int:
    return main(["train", "--out", str(out), *f"{TINY} {options}".split()])


def rows(folder: Path) -> list[dict]:
    """The log without its times, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def last_state(folder: Path) -> list[np.ndarray]:
    run = Run.open(folder)
    saved = run.restore("last", Learner(run.config).split.first_state())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(saved.tree)]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
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


# What follows a run compiles for many seconds; the programs' common parts are tested with `char_lm`.
THOROUGH = pytest.mark.thorough


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be copied by tests that change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run_train(out) == 0
    return out


@THOROUGH
def test_train_evaluate_and_translate(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = rows(finished)
    assert [row["step"] for row in log if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in log if "exact" in row] == [5, 10, 12]
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[0] == pytest.approx(np.log(12), rel=0.2)
    assert losses[-1] < losses[0] - 0.3
    for name in ("curves.png", "attention.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    assert main(["evaluate", str(finished)]) == 0
    assert "greedy" in capsys.readouterr().out
    picture = tmp_path / "picture.png"
    texts = ["--text", "Thursday, 24 November 2026", "--text", "24.11.26"]
    assert main(["translate", str(finished), *texts, "--picture", str(picture)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == texts[1::2]
    assert all(0 <= float(line[1]) <= 1 for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")


@THOROUGH
def test_a_stopped_run_resumes_bit_equal(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped, train_step = tmp_path / "stopped run", Learner.train_step

    def ctrl_c_in_step_7(self, state, dates):
        if int(state.step) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(self, state, dates)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", ctrl_c_in_step_7)
        assert run_train(stopped) == 130
    assert f"python -m examples.seq2seq resume '{stopped}'" in capsys.readouterr().out
    # The picture exists before the end.
    assert (stopped / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["resume", str(stopped)]) == 0
    assert rows(stopped) == rows(finished)
    np.testing.assert_equal(last_state(stopped), last_state(finished))


@THOROUGH
def test_the_model_scores_what_it_writes(finished: Path) -> None:
    run = Run.open(finished)
    learner, part = Learner(run.config), make_corpus(run.config).test
    params = run.restore("best", learner.split.first_state().params).tree
    found, scores = learner.search(params, part.sources, part.lengths)
    # The loss of a text by teacher forcing is its score by beam search.
    complete = np.asarray(found)[:, -1] == dates.STOP
    losses, greedy = learner.evaluate(params, Dates(part.sources, part.lengths, np.asarray(found)))
    full = np.asarray(found).all(axis=-1) | (complete & np.asarray(found)[:, :-1].all(axis=-1))
    np.testing.assert_allclose(-11 * losses[full], scores[full], rtol=1e-4)
    # The greedy text is one of those that the search compares.
    losses, _ = learner.evaluate(params, Dates(part.sources, part.lengths, np.asarray(greedy)))
    full = np.asarray(greedy)[:, :-1].all(axis=-1)
    assert (np.asarray(-11 * losses)[full] <= np.asarray(scores)[full] + 1e-4).all()
    weights = learner.attention(params, part.sources, part.lengths, part.targets)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not np.asarray(weights)[np.broadcast_to((part.sources == 0)[:, None], weights.shape)].any()


def test_dates_are_true_and_the_parts_share_no_day() -> None:
    corpus = make_corpus(Config(examples=300))
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    parts = []
    for part in corpus[:3]:
        texts = [decode_source(source) for source in part.sources]
        days = [datetime.date.fromisoformat(decode_target(target)) for target in part.targets]
        assert [len(text) for text in texts] == part.lengths.tolist()
        for text, day in zip(texts, days, strict=True):
            low = text.lower()
            if any(char.isalpha() for char in low):
                assert months[day.month - 1] in low
            assert f"{day.year % 100:02}" in low
        parts.append(set(days))
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    words = [dates._in_words(day) for day in (1, 12, 20, 21, 30, 31)]
    assert words == ["first", "twelfth", "twentieth", "twenty-first", "thirtieth", "thirty-first"]
    assert [dates._ordinal(day) for day in (1, 2, 11, 13, 22, 23)] == ["1st", "2nd", "11th", "13th", "22nd", "23rd"]
    # Another number of dates changes neither held-out part.
    other = make_corpus(Config(examples=10, seed=3))
    np.testing.assert_equal(other[1:3], corpus[1:3])


def test_faults_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = told(capsys, "translate", tmp_path, "--text", "24 août 2026")
    assert "'û' (U+00FB)" in error
    assert "has 0" in told(capsys, "translate", tmp_path, "--text", "")
    assert "1 to 40 characters" in told(capsys, "translate", tmp_path, "--text", "x" * 41)
    assert "no run" in told(capsys, "evaluate", tmp_path / "nowhere")
    assert "an integer, 1 to 65,536; got '0'" in told(capsys, "train", "--out", tmp_path, "--batch", "0")
    config = Config(examples=50)
    with Lock(tmp_path / "run") as lock:
        run = Run(lock.folder, config, Facts(sha256="0"), lock)
        run.save("last", 0, [np.zeros(1)], np.inf)
    assert "already holds a run" in told(capsys, "train", "--out", run.folder)
    assert "seq2seq train" in told(capsys, "resume", tmp_path / "nowhere")
    assert "no longer those" in told(capsys, "resume", run.folder)
