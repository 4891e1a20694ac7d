"""The command line: `python -m examples.seq2seq train|evaluate|translate|resume`."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.char_lm.command import (
    DEFAULT,
    DONE,
    Parser,
    add_settings,
    run_command,
    screen,
    settings,
)

from .config import PROGRAM, Config, UserError

DEFAULT_RUN = "runs/seq2seq"


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="Dates as people write them become ISO dates.")
    names = "train|evaluate|translate|resume"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    train = commands.add_parser("train", help="learn to translate dates")
    train.add_argument("--out", type=Path, default=DEFAULT_RUN, help="run folder to make" + DEFAULT)
    overwrite_help = "lose the run that --out may hold"
    train.add_argument("--overwrite", action="store_true", help=overwrite_help)
    add_settings(train, Config)
    evaluate = commands.add_parser("evaluate", help="score the dates of the test part")
    translate = commands.add_parser("translate", help="translate dates of yours")
    resume = commands.add_parser("resume", help="go on with a stopped run")
    # The run folder tells the settings, so these commands have few options.
    for command in (evaluate, translate, resume):
        command.add_argument(
            "run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + DEFAULT
        )
    translate.add_argument("--text", required=True, action="append", help="a date; may be repeated")
    picture_help = "also draw what the decoder reads into this PNG file"
    translate.add_argument("--picture", type=Path, help=picture_help)
    return parser


def _train(options: argparse.Namespace) -> int:
    # Each command imports its modules itself, so --help and a wrong option answer at once.
    from examples.char_lm.lock import Lock

    from .dates import make_corpus
    from .run import Facts, Run
    from .train import train

    config = settings(options, Config)
    Run.check_free(options.out, options.overwrite)
    corpus = make_corpus(config)
    with Lock(options.out) as lock:
        # This removes an old run, so every check comes before it.
        Run.clear(options.out, options.overwrite)
        run = Run(options.out, config, Facts(corpus.sha256), lock)
        train(run, corpus, screen())
    return DONE


def _resume(options: argparse.Namespace) -> int:
    from examples.char_lm.lock import Lock

    from .train import train

    run, corpus = _opened(options.run)
    with Lock(run.folder) as run.lock:
        train(run, corpus, screen(), resume=True)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from .train import score, show_scores, show_translations

    run, corpus = _opened(options.run)
    learner, params = _best(run)
    console = Console()
    show_translations(console, learner, params, corpus.test)
    show_scores(console, "Test", score(learner, params, corpus.test), run.config.beam)
    return DONE


def _translate(options: argparse.Namespace) -> int:
    import numpy as np

    from .dates import Dates, decode_target, encode_sources
    from .plot import plot_attention
    from .run import Run

    # A wrong text is told before anything is loaded.
    sources, lengths = encode_sources(options.text)
    learner, params = _best(Run.open(options.run))
    found, log_probs = learner.search(params, sources, lengths)
    targets = np.asarray(found)
    for text, target, log_prob in zip(options.text, targets, log_probs, strict=True):
        print(f"{decode_target(target)}\t{math.exp(log_prob):.3f}\t{text}")
    if options.picture is not None:
        dates = Dates(sources, lengths, targets)
        weights = learner.attention(params, *dates)
        plot_attention(dates, np.asarray(weights), options.picture)
    return DONE


def _opened(folder: Path) -> tuple[Any, Any]:
    """Opens a run folder and makes its dates again."""
    from .dates import make_corpus
    from .run import Run

    run = Run.open(folder)
    corpus = make_corpus(run.config)
    if corpus.sha256 != run.text.sha256:
        raise UserError(
            f"the dates are no longer those that {str(folder)!r} began with: the program makes "
            f"others now. Begin another run: {PROGRAM} train."
        )
    return run, corpus


def _best(run: Any) -> tuple[Any, Any]:
    """Returns the compiled functions and the parameters of the best checkpoint."""
    from .train import Learner

    learner = Learner(run.config)
    return learner, run.restore("best", learner.split.first_state().params).tree


COMMANDS = {"train": _train, "evaluate": _evaluate, "translate": _translate, "resume": _resume}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C; 75 after SIGTERM.
    """
    options = make_parser().parse_args(arguments)
    return run_command(COMMANDS[options.command], options)


if __name__ == "__main__":
    sys.exit(main())
