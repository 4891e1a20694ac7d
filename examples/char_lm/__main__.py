"""The command line: `python -m examples.char_lm train|sample|resume`."""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from .command import (
    DEFAULT,
    DONE,
    STOPPED,
    Parser,
    add_settings,
    number_type,
    run_command,
    settings,
)
from .config import PROGRAM, Config, UserError

DEFAULT_RUN = "runs/char_lm"


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="A character-level language model.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|sample|resume")
    train = commands.add_parser("train", help="learn a text")
    train.description = "Learns a text."
    sample = commands.add_parser("sample", help="write a text")
    sample.description = "Writes with the best checkpoint."
    resume = commands.add_parser("resume", help="go on with a stopped run")
    resume.description = "Goes on with a run."
    _add_train(train)
    _add_sample(sample)
    _add_resume(resume)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    text_help = (
        "a UTF-8 file, a folder, or a quoted glob such as 'books/**/*.txt' "
        "(default: Python's standard library)"
    )
    parser.add_argument("--text", help=text_help)
    out_help = "run folder to make" + DEFAULT
    parser.add_argument("--out", type=Path, default=DEFAULT_RUN, help=out_help)
    overwrite_help = "lose the run that --out may hold"
    parser.add_argument("--overwrite", action="store_true", help=overwrite_help)
    add_settings(parser, Config)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    # The run folder tells the settings, so only the writing itself has options.
    parser.add_argument(
        "run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + DEFAULT
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", help="text to continue (default: a new line)")
    prompt.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a UTF-8 file of texts to continue, one a line"
    )
    parser.add_argument(
        "--samples",
        type=number_type(int, 1, 10**6),
        default=1,
        metavar="N",
        help="texts to write for each prompt, all at once" + DEFAULT,
    )
    parser.add_argument(
        "--length",
        type=number_type(int, 1, 10**9),
        default=1000,
        metavar="N",
        help="characters to write" + DEFAULT,
    )
    parser.add_argument(
        "--temperature",
        type=number_type(float, 0.01, 100),
        default=0.8,
        metavar="N",
        help="below 1 is more careful, above is bolder" + DEFAULT,
    )
    parser.add_argument(
        "--top-k",
        type=number_type(int, 1, 10**9),
        metavar="N",
        help="draw among the N likeliest characters only (default: among all)",
    )
    parser.add_argument(
        "--top-p",
        type=number_type(float, 1e-6, 1),
        metavar="N",
        help="draw among the likeliest characters with this probability together (default: all)",
    )
    parser.add_argument(
        "--min-p",
        type=number_type(float, 0, 1),
        metavar="N",
        help="draw among characters with this share of the highest probability (default: all)",
    )
    parser.add_argument(
        "--seed",
        type=number_type(int, 0, 2**31 - 1),
        default=0,
        metavar="N",
        help="another seed writes another text" + DEFAULT,
    )


def _add_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + DEFAULT
    )
    parser.add_argument("--text", help="the same text, if it has moved since")


def _train(options: argparse.Namespace) -> int:
    # Each command imports its modules itself, so --help and a wrong option answer at once.
    from .data import load_text, make_corpus
    from .run import Run
    from .train import train

    config = settings(options, Config)
    Run.check_free(options.out, options.overwrite)
    corpus = make_corpus(load_text(options.text), config)
    console = Console()
    console.print(_about(corpus, options.text), highlight=False)
    # `create` removes an old run, so every check comes before it.
    run = Run.create(options.out, config, options.text, corpus)
    finished = train(run, corpus, console)
    if not finished:
        return STOPPED
    return DONE


def _resume(options: argparse.Namespace) -> int:
    from .data import load_text, make_corpus
    from .run import Run
    from .train import train

    run = Run.open(options.run)
    source = run.text.source
    if options.text is not None:
        source = options.text
    corpus = make_corpus(load_text(source), run.config)
    # Another text has another vocabulary, or other windows in the same steps.
    if corpus.sha256 != run.text.sha256:
        raise UserError(
            f"the text is no longer the one that {str(options.run)!r} began with, "
            "so its run cannot go on. Put the old text back (or name it with --text), "
            f"or begin another run: {PROGRAM} train."
        )
    console = Console()
    console.print(_about(corpus, source), highlight=False)
    finished = train(run, corpus, console, resume=True)
    if not finished:
        return STOPPED
    return DONE


def _sample(options: argparse.Namespace) -> int:
    import jax

    from .data import read_prompts
    from .run import Run
    from .sample import write
    from .train import Learner

    run = Run.open(options.run)
    learner = Learner(run.config, len(run.text.vocabulary))
    _, params = run.restore("best", learner.first_state().params)
    prompts = [options.prompt]
    if options.prompts:
        prompts = read_prompts(options.prompts)
    prompts = [prompt for prompt in prompts for _ in range(options.samples)]
    chunks = write(
        learner.model(params),
        run.text.vocabulary,
        prompts=prompts,
        length=options.length,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        key=jax.random.key(options.seed),
    )
    # `write` refuses a wrong prompt with its first characters, before anything is printed.
    chunks = itertools.chain([next(chunks)], chunks)
    if len(prompts) == 1:
        # One text appears as it is written.
        for part in itertools.chain(prompts, (chunk[0] for chunk in chunks)):
            print(part, end="", flush=True)
        print()
        return DONE
    # Texts that are written side by side can only be shown one after another.
    for number, parts in enumerate(zip(prompts, *chunks, strict=True)):
        title = f"sample {number % options.samples + 1}"
        if options.prompts:
            title = f"prompt {number // options.samples + 1}, {title}"
        print(f"--- {title} ---", "".join(parts), sep="\n")
    return DONE


def _about(corpus: Any, source: str | None) -> str:
    """Describes the text of a run, and says whether the loop in C++ is there."""
    import recurrax

    name = source
    if source is None:
        name = "the Python standard library"
    size = len(corpus.train) + len(corpus.validation)
    distinct = len(corpus.vocabulary)
    native = recurrax.implementations.available()["native"]
    return (
        f"Text: {name}, {size:,} characters, {distinct:,} distinct; the last tenth is held out.\n"
        f'The loop in C++, implementation="native": {native}'
    )


COMMANDS = {"train": _train, "resume": _resume, "sample": _sample}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C.
    """
    options = make_parser().parse_args(arguments)
    return run_command(COMMANDS[options.command], options)


if __name__ == "__main__":
    sys.exit(main())
