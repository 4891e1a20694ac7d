"""The command line: `python -m examples.char_lm train|sample|resume|report`."""

import argparse
import contextlib
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

from .command import (
    DEFAULT,
    DONE,
    Parser,
    add_settings,
    number_type,
    run_command,
    screen,
    settings,
    warn,
)
from .config import PROGRAM, Config, UserError
from .files import REPORT, TEXT, digest

DEFAULT_RUN = "runs/char_lm"


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = Parser(prog=PROGRAM, description="A character-level language model.")
    names = "|".join(COMMANDS)
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)
    train = commands.add_parser("train", help="learn a text")
    train.description = "Learns a text."
    sample = commands.add_parser("sample", help="write a text")
    sample.description = "Writes with the best checkpoint."
    resume = commands.add_parser("resume", help="go on with a stopped run")
    resume.description = "Goes on with a run."
    _add_train(train)
    _add_sample(sample)
    _add_resume(resume)
    report = commands.add_parser("report", help="describe a run in one HTML file")
    report.description = f"Writes {REPORT} into the run folder; a run need not be at its end."
    _add_run(report)
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
    _add_devices(parser)
    add_settings(parser, Config)


def _add_sample(parser: argparse.ArgumentParser) -> None:
    # The run folder tells the settings, so only the writing itself has options.
    _add_run(parser)
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
    _add_run(parser)
    _add_devices(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=Path, nargs="?", default=DEFAULT_RUN, help="run folder" + DEFAULT
    )


def _add_devices(parser: argparse.ArgumentParser) -> None:
    mesh_help = "split the batch and the kernels over devices (default: one device)"
    parser.add_argument("--mesh", type=_mesh_type, metavar="data=N,model=N", help=mesh_help)
    count = number_type(int, 1, 10**6)
    processes_help = "processes that train together (default: what Slurm says, or 1)"
    parser.add_argument("--processes", type=count, metavar="N", help=processes_help)
    number = number_type(int, 0, 10**6)
    parser.add_argument("--process", type=number, metavar="N", help="the number of this process")
    coordinator_help = "address of process 0 (default: a port of this machine alone)"
    address = _address_type
    parser.add_argument("--coordinator", type=address, metavar="HOST:PORT", help=coordinator_help)


def _address_type(text: str) -> str:
    """Reads an address, such as `node1:8476`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"must be such as node1:8476; got {text!r}")
    return text


def _mesh_type(text: str) -> dict[str, int]:
    """Reads the sizes of a mesh, such as `data=4,model=2`."""
    sizes = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in ("data", "model") or name in sizes or not size.isdecimal() or not int(size):
            raise argparse.ArgumentTypeError(
                "must give the axes data and model, or one of them, a size from 1, "
                f"such as data=4,model=2; got {text!r}"
            )
        sizes[name] = int(size)
    return sizes


def _start(options: argparse.Namespace, folder: Path) -> Any:
    from .devices import start

    return start(folder, options.mesh, options.processes, options.process, options.coordinator)


def _follow(devices: Any, folder: Path, resume: bool) -> int:
    """Trains as a process that is not the first: it reads the text, and writes nothing."""
    from rich.console import Console

    from . import data
    from .run import Run
    from .train import train

    # The first process makes or opens the run.
    with devices.together():
        pass
    facts = devices.tell(None)
    run = Run(folder, Config(**facts["config"]), data.Text(**facts["text"]))
    with devices.together():
        corpus = data.load(folder / TEXT, run.text)
    train(run, corpus, Console(quiet=True), resume=resume, devices=devices)
    # The first process still writes.
    with devices.together():
        return DONE


def _train(options: argparse.Namespace) -> int:
    # Each command imports its modules itself, so --help and a wrong option answer at once.
    from . import data
    from .events import check_tensorboard
    from .expect import check_memory
    from .lock import Lock
    from .run import Run

    config = settings(options, Config)
    if config.tensorboard:
        check_tensorboard()
    source, folder = options.text, options.out
    devices = _start(options, folder)
    with devices.linked(), contextlib.ExitStack() as stack:
        if not devices.leads:
            return _follow(devices, folder, resume=False)
        with devices.together():
            devices.check_batch(config.batch)
            Run.check_free(folder, options.overwrite)
            # The files of an old run may lie below the text's folder.
            counts = data.count(source, leave_out=folder)
            data.check_size(counts, config)
            check_memory((counts > 0).sum(), config)
            lock = stack.enter_context(Lock(folder))
            # This removes an old run, so every check comes before it.
            Run.clear(folder, options.overwrite)
            text = data.store(folder / TEXT, source, counts, leave_out=folder)
            run = Run(folder, config, text, lock)
        _lead(devices, run, resume=False)
    return DONE


def _lead(devices: Any, run: Any, resume: bool) -> None:
    """Trains as the first process, or as the only one."""
    from . import data
    from .expect import about
    from .train import train

    devices.tell(run.facts())
    with devices.together():
        corpus = data.load(run.folder / TEXT, run.text)
    console = screen()
    console.print(about(run.text, corpus, run.config), highlight=False)
    if devices.mesh is not None:
        console.print(f"Mesh: {devices}. The loop of JAX runs there.", highlight=False)
    train(run, corpus, console, resume=resume, devices=devices)
    with devices.together():
        pass


def _resume(options: argparse.Namespace) -> int:
    from .lock import Lock
    from .run import Run

    devices = _start(options, options.run)
    with devices.linked(), contextlib.ExitStack() as stack:
        if not devices.leads:
            return _follow(devices, options.run, resume=True)
        with devices.together():
            # The mesh is no setting of a run, so it is checked against the batch again.
            run = Run.open(options.run)
            devices.check_batch(run.config.batch)
            run.lock = stack.enter_context(Lock(run.folder))
            _text_of(run)
        _lead(devices, run, resume=True)
    return DONE


def _text_of(run: Any) -> Any:
    """Returns the text of a run. If its file is damaged, it is made again."""
    from . import data

    path, source = run.folder / TEXT, run.text.source
    if _is_damaged(run):
        # The source may have changed since. Only the same text may take the place of the old one.
        warn(f"{str(path)!r} is damaged or absent, so the text is read again.")
        counts = data.count(source, leave_out=run.folder)
        text = data.store(path, source, counts, leave_out=run.folder)
        if text != run.text:
            raise UserError(
                f"the text is no longer the one that {str(run.folder)!r} began with, "
                f"so its run cannot go on. Put the old text back into {source!r}, "
                f"or begin another run: {PROGRAM} train."
            )
    return data.load(path, run.text)


def _is_damaged(run: Any) -> bool:
    """Returns whether the file of a run's text is damaged or absent."""
    path = run.folder / TEXT
    return not path.exists() or digest(path) != run.text.sha256


def _sample(options: argparse.Namespace) -> int:
    import jax

    from .data import read_prompts
    from .files import BEST
    from .run import Run
    from .sample import printable, write
    from .train import Learner

    run = Run.open(options.run)
    learner = Learner(run.config, len(run.text.vocabulary))
    params = run.restore(BEST, learner.first_state().params).tree
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

    def shown(text: str) -> str:
        # A file takes the text as it is.
        if sys.stdout.isatty():
            return printable(text)
        return text

    if len(prompts) == 1:
        # One text appears as it is written.
        for part in itertools.chain(prompts, (chunk[0] for chunk in chunks)):
            print(shown(part), end="", flush=True)
        print()
        return DONE
    # Texts that are written side by side can only be shown one after another.
    for number, parts in enumerate(zip(prompts, *chunks, strict=True)):
        title = f"sample {number % options.samples + 1}"
        if options.prompts:
            title = f"prompt {number // options.samples + 1}, {title}"
        print(f"--- {title} ---", shown("".join(parts)), sep="\n")
    return DONE


def _report(options: argparse.Namespace) -> int:
    from . import data
    from .files import BEST
    from .report import write_report
    from .run import Run
    from .train import Learner

    run = Run.open(options.run)
    # `report` may run beside a training, so it writes nothing but the report.
    if _is_damaged(run):
        raise UserError(
            f"{str(run.folder / TEXT)!r} is damaged or absent; this makes it again: "
            f"{PROGRAM} resume {shlex.quote(str(run.folder))}"
        )
    corpus = data.load(run.folder / TEXT, run.text)
    learner = Learner(run.config, len(run.text.vocabulary))
    best = run.restore(BEST, learner.first_state().params)
    write_report(run, corpus, best, learner.model(best.tree))
    print(run.folder / REPORT)
    return DONE


COMMANDS = {"train": _train, "resume": _resume, "sample": _sample, "report": _report}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit code: 0; 2 for a fault that the user can mend; 130 after Ctrl-C; 75 after SIGTERM.
    """
    options = make_parser().parse_args(arguments)
    return run_command(COMMANDS[options.command], options)


if __name__ == "__main__":
    sys.exit(main())
