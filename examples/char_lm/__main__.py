"""The command line: `python -m examples.char_lm train|sample|resume`."""

import argparse
import dataclasses
import itertools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from .config import PROGRAM, Config, UserError

DEFAULT_RUN = "runs/char_lm"


def _number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """An argparse type for numbers within a range."""
    span = f"{low:,}" + (" or more" if high > 10**9 else f" to {high:,}")

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            word = "an integer" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {word}, {span}; got {text!r}")
        return value

    return parse


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # The usage of twenty options would hide what is wrong.
        fail(f"{message}\nAll options: {self.prog} --help")
        raise SystemExit(2)


def fail(message: str) -> None:
    """Tells what is wrong."""
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser; the options of `train` are the fields of `Config`."""
    default = " (default: %(default)s)"
    parser = _Parser(prog=PROGRAM, description="A character-level language model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|sample|resume")

    train = commands.add_parser("train", help="learn a text", description="Learns a text.")
    text_help = "a UTF-8 file, a folder, or a quoted glob such as 'books/**/*.txt'"
    train.add_argument("--text", help=f"{text_help} (default: Python's standard library)")
    train.add_argument("--out", type=Path, default=DEFAULT_RUN, help="run folder to make" + default)
    train.add_argument("--overwrite", action="store_true", help="lose the run that --out may hold")
    for field in dataclasses.fields(Config):
        values: dict[str, Any] = {"choices": field.metadata.get("choices")}
        if values["choices"] is None:
            span = field.metadata["low"], field.metadata["high"]
            values = {"metavar": "N", "type": _number(type(field.default), *span)}
        name = f"--{field.name.replace('_', '-')}"
        train.add_argument(name, default=field.default, help=field.metadata["help"] + default, **values)

    sample = commands.add_parser("sample", help="write a text", description="Writes with the best checkpoint.")
    sample.add_argument("run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + default)
    sample.add_argument("--prompt", default="", help="what to write on from (default: a new line)")
    for name, kind, low, high, value, about in [
        ("--length", int, 1, 10**9, 1000, "characters to write" + default),
        ("--temperature", float, 0.01, 100, 0.8, "below 1 is more careful, above is bolder" + default),
        ("--top-k", int, 1, 10**9, None, "draw among the N likeliest characters only (default: among all)"),
        ("--seed", int, 0, 2**31 - 1, 0, "another seed writes another text" + default),
    ]:
        sample.add_argument(name, type=_number(kind, low, high), default=value, metavar="N", help=about)

    resume = commands.add_parser("resume", help="go on with a stopped run", description="Goes on with a run.")
    resume.add_argument("run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + default)
    resume.add_argument("--text", help="the same text, if it has moved since")
    return parser


def _train(options: argparse.Namespace) -> int:
    # Imported here and below, so that --help and a wrong option answer at once.
    from .data import load_text, make_corpus
    from .run import Run
    from .train import train

    config = Config(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Config)})
    Run.check_free(options.out, options.overwrite)
    corpus = make_corpus(load_text(options.text), config)
    console = Console()
    console.print(_about(corpus, options.text), highlight=False)
    # Only now, as all that can be wrong is known to be right, may an old run be lost.
    run = Run.create(options.out, config, options.text, corpus)
    return 0 if train(run, corpus, console) else 130


def _resume(options: argparse.Namespace) -> int:
    from .data import load_text, make_corpus
    from .run import Run
    from .train import train

    run = Run.open(options.run)
    source = options.text or run.text.source
    corpus = make_corpus(load_text(source), run.config)
    if corpus.sha256 != run.text.sha256:
        raise UserError(
            f"the text is no longer the one that {str(options.run)!r} began with, so its run cannot go on. "
            f"Put the old text back (or name it with --text), or begin another run: {PROGRAM} train."
        )
    console = Console()
    console.print(_about(corpus, source), highlight=False)
    return 0 if train(run, corpus, console, resume=True) else 130


def _sample(options: argparse.Namespace) -> int:
    import jax

    from .run import Run
    from .sample import write
    from .train import Learner

    run = Run.open(options.run)
    learner = Learner(run.config, len(run.text.vocabulary))
    _, params = run.restore("best", learner.first_state().params)
    chars = write(
        learner.model(params),
        run.text.vocabulary,
        prompt=options.prompt,
        length=options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        key=jax.random.key(options.seed),
    )
    first = next(chars)  # before the prompt is shown, as it may be refused
    for char in itertools.chain(options.prompt, first, chars):
        print(char, end="", flush=True)
    print()
    return 0


def _about(corpus: Any, source: str | None) -> str:
    """What is about to be learnt."""
    size = len(corpus.train) + len(corpus.validation)
    name = source or "the Python standard library"
    return f"Text: {name}, {size:,} characters, {len(corpus.vocabulary):,} distinct; the last tenth is held out."


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for what the user can put right, 130 after Ctrl-C."""
    options = make_parser().parse_args(arguments)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what the messages here say
    try:
        return {"train": _train, "resume": _resume, "sample": _sample}[options.command](options)
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:  # `sample | head` has read enough; Python would complain of what is left to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # A full disk, a folder that must not be written.
        fail(str(error))
    except KeyboardInterrupt:
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
