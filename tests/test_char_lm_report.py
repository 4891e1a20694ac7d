"""What the example program shows of a run: the report, speeds, gradient norms, and events for TensorBoard."""

import base64
import functools
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from examples.char_lm import events, machine, sample
from examples.char_lm import train as training
from examples.char_lm.__main__ import main
from examples.char_lm.config import Config, UserError
from examples.char_lm.expect import product_weights
from examples.char_lm.log import read
from examples.char_lm.plot import curve
from examples.char_lm.report import _advice
from examples.char_lm.train import Learner, mean_loss
from fault_injection import write_text
from lenient import lenient_optax

TINY = "--hidden-size 8 --embedding-size 4 --batch 4 --window 10 --warmup 5 --learning-rate 0.02 --steps 30 "
TINY += "--eval-every 10 --sample-every 12 --checkpoint-every 10"


@pytest.fixture(autouse=True, scope="module")
def program() -> Iterator[None]:
    """Its optax may mix dtypes, and all runs share compiled functions."""
    with lenient_optax(training) as patch:
        patch.setattr(training, "Learner", functools.cache(Learner))
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_text(tmp_path_factory.mktemp("text") / "text.py")
    # Characters that mean something in HTML.
    path.write_text(path.read_text().replace("*", "<&>\x1b"))
    return path


def train(text: Path, out: Path, options: str = "") -> int:
    return main(["train", "--text", str(text), "--out", str(out), *f"{TINY} {options}".split()])


class Page(HTMLParser):
    """Reads a page, and checks that its elements are closed in their order."""

    VOID = ("meta", "img")

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict] = []
        self.addresses: list[str] = []
        self.pre: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.pictures.append(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "pre":
            self.pre.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, content):
        if self.open and self.open[-1] == "pre":
            self.pre[-1] += content


def check_report(run: Path, pictures: int) -> str:
    content = (run / "report.html").read_text()
    page = Page(content)
    # Nothing is loaded from elsewhere.
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "url(" not in content
    assert "@import" not in content
    assert len(page.pictures) == pictures
    for picture in page.pictures:
        png = base64.b64decode(picture["src"].partition(",")[2])
        assert png.startswith(b"\x89PNG")
        assert len(picture["alt"]) > 40
    # The samples are those of the log, and the one of the best checkpoint, escaped for the screen.
    rows = read(run / "log.jsonl")
    samples = [sample.printable(row["sample"]) for row in rows if "sample" in row]
    assert len(samples) == 2
    assert page.pre[:2] == samples
    assert "<" in "".join(samples)
    return content


def test_a_report_answers_what_a_newcomer_asks(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    # Ctrl-C between two samples: the report of the resumed run has both, and both sessions.
    train_step = Learner.train_step
    with pytest.MonkeyPatch.context() as patch:

        def ctrl_c_in_step_17(self, state, *windows):
            if int(state.step) == 16:
                os.kill(os.getpid(), signal.SIGINT)
            return train_step(self, state, *windows)

        patch.setattr(Learner, "train_step", ctrl_c_in_step_17)
        assert train(text, run) == 130
    assert not (run / "report.html").exists()
    assert main(["resume", str(run)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    told = re.search(r"Speed: [\d,]+ characters/s, [\d.]+ GFLOP/s .* \d+% of the [\d,]+ GFLOP/s of one large", shown)
    assert told, shown

    # Two curves, gradient norms, gates, gradients by distance.
    content = check_report(run, 5)
    sessions = machine.read_sessions(run / "sessions.jsonl")
    assert [session["step"] for session in sessions] == [0, 17]
    assert all(session["rate"] > 1e6 for session in sessions)
    losses = curve(read(run / "log.jsonl"), "validation_loss")[1]
    assert f"{losses.min() / math.log(2):.2f}" in content
    for word in ("From step 17", "gzip", "forget", "output", jax.__version__, "--hidden-size", "run is finished"):
        assert word in content, word

    (run / "text.bin").write_bytes(b"")
    assert main(["report", str(run)]) == 2
    assert f"resume {run}" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "pictures"),
    [
        ("--cell gru --layers 2", 6),
        ("--cell rnn --steps-per-dispatch 3", 4),
        ("--cell gru --dtype bfloat16 --mesh data=2", 5),
    ],
)
def test_a_report_of_every_cell(
    options: str, pictures: int, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert train(text, run, options) == 0
    content = check_report(run, pictures)
    assert ("no gates" in content) == ("rnn" in options)
    # The command writes the same page again.
    (run / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text() == content
    # An older run has neither sessions nor gradient norms.
    (run / "sessions.jsonl").unlink()
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    lines = [json.dumps({name: row[name] for name in row if name != "gradient_norm"}) for row in rows]
    (run / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["report", str(run)]) == 0
    check_report(run, pictures - 1)
    # Another run takes its place.
    assert train(text, run, "--overwrite --no-report --steps 2") == 0
    assert not (run / "report.html").exists()
    assert len(machine.read_sessions(run / "sessions.jsonl")) == 1


@pytest.mark.thorough
def test_the_log_has_the_norm_of_all_gradients():
    config = Config(hidden_size=4, embedding_size=4, batch=2, window=5, clip=0.01)
    learner = Learner(config, 7)
    state = learner.first_state()
    windows = np.arange(12).reshape(2, 6) % 7

    def loss_of(params: nnx.State) -> jax.Array:
        return mean_loss(learner.model(params), windows, state.rnn_state)[0]

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss_of))(state.params))
    expected = np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    _, measured = learner.train_step(state, windows, np.array(True))
    assert expected > 0.02
    assert float(measured["gradient_norm"]) == pytest.approx(expected, rel=1e-5)
    # 4 gates read 4 numbers of the embedding and 4 units; 7 logits read 4 units.
    assert product_weights(7, config) == 4 * 4 * (4 + 4) + 4 * 7


def test_the_speed_is_that_of_training_steps():
    rows, seconds = [], 5.0  # which the first step compiled
    for step in range(1, 101):
        rows.append({"step": step, "loss": 1.0, "seconds": seconds})
        seconds += 0.02
        if step % 25 == 0:
            rows.append({"step": step, "validation_loss": 1.0, "seconds": seconds})
            seconds += 3
    config = Config(batch=4, window=10)
    assert machine.characters_per_second(rows, config) == pytest.approx(40 / 0.02)
    assert machine.characters_per_second(rows[:1], config) is None
    # Each dispatch logs its steps at once.
    for row in rows:
        row["seconds"] = 0.1 * ((row["step"] + 4) // 5)
    dispatched = Config(batch=4, window=10, steps_per_dispatch=5)
    assert machine.characters_per_second(rows, dispatched) == pytest.approx(40 / 0.02)
    # 2,000 characters a second, 6 operations for each of 5 million weights: 60 GFLOP/s. The last session counts.
    sessions = [{"step": 0, "rate": 1.0}, {"step": 50, "rate": 120e9}]
    expected = "2,000 characters/s, 60.0 GFLOP/s of matrix products: 50% of the 120 GFLOP/s of one large product."
    assert machine.speed(rows, sessions, 5_000_000, dispatched).endswith(expected)
    assert machine.speed(rows, [], 5_000_000, dispatched).endswith("60.0 GFLOP/s of matrix products.")
    assert "too few steps" in machine.speed(rows[:1], [], 5_000_000, dispatched)


@pytest.mark.parametrize(
    ("validation", "training", "expected"),
    [
        ((2, 1.5, 1.6), 1.0, "by heart. More text"),
        ((2, 1.5), 1.0, "other text"),
        ((2, 1.5), 1.5, "larger --hidden-size"),
    ],
)
def test_the_advice_follows_from_the_curves(validation: tuple[float, ...], training: float, expected: str):
    rows = [{"step": 1, "loss": training, "seconds": 0.0}]
    assert "no validation" in _advice(rows, 1.5)
    rows += [{"step": step, "validation_loss": loss, "seconds": 1.0} for step, loss in enumerate(validation, 1)]
    assert expected in _advice(rows, 1.5)
    assert "has read 50% of its text" in _advice(rows, 0.5)


def test_tensorboard_reads_the_log(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"recurrax\[tensorboard\]"):
        events.check_tensorboard()
    monkeypatch.undo()
    pytest.importorskip("tensorboardX")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    rows = [
        {"step": 1, "loss": 2.0, "gradient_norm": 0.5, "seconds": 1.0},
        {"step": 1, "sample": "a\n<b>", "seconds": 2.0},
        {"step": 1, "validation_loss": 1.5, "seconds": 3.0},
    ]
    # A resumed run writes the folder anew.
    for _ in range(2):
        written = events.Events(tmp_path / "tensorboard", rows[:1])
    for row in rows[1:]:
        written.add(row)
    (file,) = (tmp_path / "tensorboard").iterdir()
    found, times = {}, []
    for event in loader.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            assert event.step == 1
            found[value.tag] = value.tensor.float_val or value.tensor.string_val
            times.append(event.wall_time)
    assert found == {
        "bits_per_character/training": [pytest.approx(2 / math.log(2))],
        "gradient_norm": [0.5],
        "sample/text_summary": [b"    a\n    <b>"],
        "bits_per_character/validation": [pytest.approx(1.5 / math.log(2))],
    }
    assert np.diff(times) == pytest.approx([0, 1, 1], abs=1e-3)


@pytest.mark.thorough
def test_a_run_for_tensorboard(text: Path, tmp_path: Path):
    pytest.importorskip("tensorboardX")
    run = tmp_path / "run"
    assert train(text, run, "--tensorboard --no-report") == 0
    (file,) = (run / "tensorboard").iterdir()
    assert file.stat().st_size > 30 * 50
    copied = shutil.copytree(run, tmp_path / "copied")
    assert main(["resume", str(copied)]) == 0
    assert len(list((copied / "tensorboard").iterdir())) == 1
    assert train(text, run, "--overwrite --no-report --steps 2") == 0
    assert not (run / "tensorboard").exists()
