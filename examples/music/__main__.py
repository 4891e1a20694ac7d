"""The command line: `python -m examples.music train|compose|resume`."""

import argparse
import sys
from pathlib import Path
from typing import Any

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

DEFAULT_RUN = "runs/music"


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="Learns music for a piano, and continues pieces.")
    names = "train|compose|resume"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    train = commands.add_parser("train", help="learn pieces")
    data_help = (
        "a .mat file with the arrays traindata, validdata and testdata, or a folder of MIDI files "
        "(default: pieces that the program composes by rules)"
    )
    train.add_argument("--data", help=data_help)
    train.add_argument("--out", type=Path, default=DEFAULT_RUN, help="run folder to make" + DEFAULT)
    overwrite_help = "lose the run that --out may hold"
    train.add_argument("--overwrite", action="store_true", help=overwrite_help)
    add_settings(train, Config)
    compose = commands.add_parser("compose", help="continue a piece of the test part")
    resume = commands.add_parser("resume", help="go on with a stopped run")
    # The run folder tells the settings, so these commands have few options.
    for command in (compose, resume):
        command.add_argument(
            "run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + DEFAULT
        )
        command.add_argument("--data", help="the same pieces, if they have moved since")
    _add_compose(compose)
    return parser


def _add_compose(parser: argparse.ArgumentParser) -> None:
    picture_help = "PNG file to draw (default: composed.png in the run folder)"
    parser.add_argument("--picture", type=Path, help=picture_help)
    midi_help = "MIDI file to write (default: composed.mid in the run folder)"
    parser.add_argument("--midi", type=Path, help=midi_help)
    numbers = (
        ("--piece", int, 0, 10**9, 0, "which piece of the test part begins, from 0"),
        ("--observed", int, 1, 10**6, 16, "steps that the model is given"),
        ("--length", int, 2, 10**6, 64, "steps of the result"),
        ("--temperature", float, 0.01, 100, 0.7, "below 1 is more careful, above is bolder"),
        ("--voices", int, 0, 88, 4, "keys at each new step; with 0 each key is drawn by itself"),
        ("--tempo", float, 1, 1000, 80, "quarter notes in a minute, in the MIDI file"),
        ("--seed", int, 0, 2**31 - 1, 0, "another seed composes another piece"),
    )
    for option, kind, low, high, default, text in numbers:
        type_ = number_type(kind, low, high)
        parser.add_argument(option, type=type_, default=default, metavar="N", help=text + DEFAULT)


def _train(options: argparse.Namespace) -> int:
    # Each command imports its modules itself, so --help and a wrong option answer at once.
    from examples.char_lm.lock import Lock

    from .pieces import load
    from .run import Facts, Run
    from .train import train

    config = settings(options, Config)
    Run.check_free(options.out, options.overwrite)
    corpus = load(options.data, config.steps_per_beat)
    console = screen()
    console.print(_about(corpus, options.data), highlight=False)
    # The run may be resumed from another working directory.
    source = options.data
    if source is not None:
        source = str(Path(source).absolute())
    with Lock(options.out) as lock:
        # This removes an old run, so every check comes before it.
        Run.clear(options.out, options.overwrite)
        run = Run(options.out, config, Facts(source, corpus.sha256), lock)
        train(run, corpus, console)
    return DONE


def _resume(options: argparse.Namespace) -> int:
    from examples.char_lm.lock import Lock

    from .train import train

    run, corpus = _opened(options)
    with Lock(run.folder) as run.lock:
        train(run, corpus, screen(), resume=True)
    return DONE


def _compose(options: argparse.Namespace) -> int:
    import jax
    import numpy as np

    from . import midi
    from .plot import plot_rolls
    from .train import Learner

    run, corpus = _opened(options)
    observed, length = options.observed, options.length
    if length <= observed:
        raise UserError(f"--length must be above --observed, which is {observed}; got {length}.")
    pieces = corpus.parts.test
    if options.piece >= len(pieces):
        most = len(pieces) - 1
        raise UserError(
            f"--piece must be 0 to {most}, a piece of the test part; got {options.piece}."
        )
    original = pieces[options.piece]
    if len(original) < observed:
        raise UserError(
            f"--observed must be at most {len(original)}, the steps of piece {options.piece}; "
            f"got {observed}."
        )
    learner = Learner(run.config)
    params = run.restore("best", learner.split.first_state().params).tree
    begun = original[None, :observed].astype(np.float32)  # [1, N, 88]
    key = jax.random.key(options.seed)
    rolls = learner.compose(params, begun, length, key, options.temperature, options.voices)
    composed = np.asarray(rolls[0])  # [length, 88]
    picture = options.picture or run.folder / "composed.png"
    plot_rolls(original[:length], composed, observed, picture)
    print(f"The piano roll is in {picture}.")
    path = options.midi or run.folder / "composed.mid"
    midi.write(composed, path, run.config.steps_per_beat, options.tempo)
    print(f"The MIDI file is {path}.")
    return DONE


def _opened(options: argparse.Namespace) -> tuple[Any, Any]:
    """Opens a run folder and loads its pieces again."""
    from .pieces import load
    from .run import Run

    run = Run.open(options.run)
    source = run.text.source
    if options.data is not None:
        source = options.data
    corpus = load(source, run.config.steps_per_beat)
    # Other pieces would be scored as if the run had been trained on them.
    if corpus.sha256 != run.text.sha256:
        raise UserError(
            f"the pieces are no longer those that {str(options.run)!r} began with. Put the old "
            "ones back (or name them with --data), "
            f"or begin another run: {PROGRAM} train."
        )
    return run, corpus


def _about(corpus: Any, source: str | None) -> str:
    """Describes the pieces of a run."""
    name = source
    if source is None:
        name = "pieces composed by rules"
    train, validation, test = map(len, corpus.parts)
    return f"Pieces: {name}; {train:,} to learn, {validation:,} to validate, {test:,} to test."


COMMANDS = {"train": _train, "compose": _compose, "resume": _resume}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C; 75 after SIGTERM.
    """
    options = make_parser().parse_args(arguments)
    return run_command(COMMANDS[options.command], options)


if __name__ == "__main__":
    sys.exit(main())
