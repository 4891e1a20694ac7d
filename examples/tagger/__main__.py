"""The command line: `python -m examples.tagger train|resume|evaluate|tag|compare`."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.char_lm.command import (
    DEFAULT,
    DONE,
    Parser,
    add_settings,
    number_type,
    run_command,
    screen,
    settings,
)

from .config import PROGRAM, Config, UserError

DEFAULT_RUN = "runs/tagger"
DEFAULT_COMPARISON = "runs/tagger-comparison"


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="A tagger of characters: BiLSTM and BiLSTM-CRF.")
    names = "|".join(COMMANDS)
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)

    train = commands.add_parser("train", help="learn labeled sentences")
    _add_data(train)
    train.add_argument("--out", type=Path, default=DEFAULT_RUN, help="run folder to make" + DEFAULT)
    overwrite_help = "lose the run that --out may hold"
    train.add_argument("--overwrite", action="store_true", help=overwrite_help)
    add_settings(train, Config)

    # The run folder tells the data and the settings to the next three commands.
    resume = commands.add_parser("resume", help="go on with a stopped run")
    _add_run(resume)
    evaluate = commands.add_parser("evaluate", help="score a run by type of span")
    _add_run(evaluate)
    part_help = "part of the data to score" + DEFAULT
    evaluate.add_argument("--part", choices=PARTS, default="test", help=part_help)
    errors_help = "also show the first N sentences with a mistake: expected, then predicted"
    number = number_type(int, 0, 10**9)
    evaluate.add_argument("--errors", type=number, default=0, metavar="N", help=errors_help)

    tag = commands.add_parser("tag", help="show the spans of a text in color")
    _add_run(tag)
    tag.add_argument("--text", help="text to tag (default: the standard input)")

    compare = commands.add_parser("compare", help="score the model with and without the CRF")
    _add_data(compare)
    out_help = "folder of the runs; complete runs in it are kept" + DEFAULT
    compare.add_argument("--out", type=Path, default=DEFAULT_COMPARISON, help=out_help)
    seeds_help = "runs of each model" + DEFAULT
    compare.add_argument(
        "--seeds", type=number_type(int, 1, 1000), default=3, metavar="N", help=seeds_help
    )
    jobs_help = "runs side by side, one thread each" + DEFAULT
    compare.add_argument(
        "--jobs", type=number_type(int, 1, 1000), default=1, metavar="N", help=jobs_help
    )
    add_settings(compare, Config)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    data_help = (
        "python: the standard library's source; peoples-daily: a Chinese newspaper; "
        "or a folder with train.txt, validation.txt and test.txt in the CoNLL format" + DEFAULT
    )
    parser.add_argument("--data", default="python", help=data_help)


def _add_run(parser: argparse.ArgumentParser) -> None:
    run_help = "run folder" + DEFAULT
    parser.add_argument("run", type=Path, nargs="?", default=DEFAULT_RUN, help=run_help)


def _train(options: argparse.Namespace) -> int:
    # Each command imports its modules itself, so --help and a wrong option answer at once.
    from examples.char_lm.lock import Lock

    from .data import make_corpus
    from .run import Run
    from .train import train

    config = settings(options, Config)
    Run.check_free(options.out, options.overwrite)
    corpus = make_corpus(options.data, config)
    with Lock(options.out) as lock:
        # This removes an old run, so every check comes before it.
        Run.clear(options.out, options.overwrite)
        run = Run(options.out, config, corpus.facts, lock)
        console = screen()
        console.print(_about(corpus), highlight=False)
        train(run, corpus, console)
    return DONE


def _resume(options: argparse.Namespace) -> int:
    from examples.char_lm.lock import Lock

    from .run import Run
    from .train import train

    run = Run.open(options.run)
    corpus = _same_corpus(run)
    with Lock(run.folder) as run.lock:
        console = screen()
        console.print(_about(corpus), highlight=False)
        train(run, corpus, console, resume=True)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from .run import Run
    from .show import show_mistakes, show_scores
    from .train import Learner

    run = Run.open(options.run)
    corpus = _same_corpus(run)
    learner = Learner(run.config, run.text)
    best = run.restore("best", learner.split.first_state().params)
    # `PARTS` are the names of the parts in `Corpus`.
    part = getattr(corpus, options.part)
    labels = learner.labels(best.tree, part.examples)
    scores = learner.score(part.sentences, labels)
    console = Console()
    if options.errors:
        predicted = learner.labeled(part.sentences, labels)
        show_mistakes(console, part.sentences, predicted, run.text.types, options.errors)
    title = f"The {options.part} part, by the checkpoint of step {best.step:,}"
    show_scores(console, title, scores)
    return DONE


def _tag(options: argparse.Namespace) -> int:
    from .data import pieces
    from .run import Run
    from .show import show_sentences
    from .train import Learner

    run = Run.open(options.run)
    text = options.text
    if text is None:
        text = sys.stdin.read()
    if not text.strip():
        raise UserError("--text: there is no text to tag.")
    # The checkpoint is read into arrays of the same shapes.
    learner = Learner(run.config, run.text)
    best = run.restore("best", learner.split.first_state().params)
    sentences = learner.tag(best.tree, list(pieces(text)))
    show_sentences(Console(), sentences, run.text.types)
    return DONE


def _compare(options: argparse.Namespace) -> int:
    from .compare import compare, table
    from .data import make_corpus

    config = settings(options, Config)
    console = Console()
    began = time.monotonic()
    corpus = make_corpus(options.data, config)
    console.print(_about(corpus), highlight=False)
    runs = compare(
        options.out, corpus, config, seeds=options.seeds, jobs=options.jobs, console=console
    )
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    # The CPU time of the runs does not depend on other programs, as the time of the clock does.
    spent = os.times()
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    console.print(f"{minutes} min {seconds} s, {cpu:,.0f} s of CPU time.", highlight=False)
    text = table(runs)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    (options.out / "table.md").write_text(text + "\n", "utf-8")
    return DONE


def _same_corpus(run: Any) -> Any:
    """Reads the data of a run again.

    Raises:
        UserError: if it has changed.
    """
    from .data import make_corpus

    corpus = make_corpus(run.text.source, run.config)
    if corpus.facts.sha256 != run.text.sha256:
        raise UserError(
            f"the data {run.text.source!r} are no longer those that {str(run.folder)!r} began "
            "with. Put the old data back, "
            f"or begin another run: {PROGRAM} train."
        )
    return corpus


def _about(corpus: Any) -> str:
    """Describes the data of a run."""
    facts = corpus.facts
    sizes = []
    for name in PARTS:
        part = getattr(corpus, name)
        chars = sum(len(sentence.text) for sentence in part.sentences)
        sizes.append(f"{name} {len(part.sentences):,} sentences of {chars:,} characters")
    return f"Data: {facts.source}, {', '.join(sizes)}; types {', '.join(facts.types)}."


PARTS = ("train", "validation", "test")
COMMANDS = {
    "train": _train,
    "resume": _resume,
    "evaluate": _evaluate,
    "tag": _tag,
    "compare": _compare,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C; 75 after SIGTERM.
    """
    options = make_parser().parse_args(arguments)
    return run_command(COMMANDS[options.command], options)


if __name__ == "__main__":
    sys.exit(main())
