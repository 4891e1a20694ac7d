"""The loop of a training: it repeats steps, shows progress, validates, and saves."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from .config import UserError
from .devices import ALONE, Devices
from .files import BEST, LAST
from .log import Log
from .run import Run, Saved
from .stop import Stop, Stopped

# The least seconds between two drawings of the curves, which take about one.
_DRAW_EVERY = 30.0


def begin(run: Run, state: Any, resume: bool, devices: Devices = ALONE) -> Saved:
    """Returns what training goes on from.

    Args:
        run: the run folder.
        state: the state before the first step.
        resume: whether to take the last checkpoint in place of `state`.
        devices: the processes, of which the first alone reads and writes files.

    Raises:
        UserError: if the checkpoint cannot be used.
    """
    start = Saved(0, state, math.inf)
    with devices.together():
        if resume and devices.leads:
            start = run.restore(LAST, state)
        elif devices.leads:
            # A run that stops before its first checkpoint can be resumed too.
            run.save(LAST, *start)
    step, best = devices.tell([start.step, start.best])
    return Saved(step, devices.tell_arrays(start.tree), best)


def repeat(
    run: Run,
    console: Console,
    log: Log,
    start: Saved,
    *,
    train_step: Callable[[int, Any], tuple[Any, Any]],
    status: Callable[[float, float], str],
    validate: Callable[[int, Any], tuple[str, float]],
    show: Callable[[int, Any], None] | None = None,
    show_every: int = 1,
    draw: Callable[[], None] = lambda: None,
    devices: Devices = ALONE,
) -> Saved:
    """Trains to the end or to a signal, and saves everything in both cases.

    Args:
        run: the run folder. Its settings have `steps`, `eval_every` and `checkpoint_every`. The
            states have `params`.
        console: where progress is shown.
        log: takes the loss of each step.
        start: what `begin` returned.
        train_step: takes the number of steps before, and the state; returns the new state and the
            loss. If it took several steps at once, it returns the loss of each of them. In place
            of the loss it may return a dict of all that the log takes, with "loss" among them.
        status: makes the line of progress, from the loss and the seconds of a step.
        validate: scores the state after a step. It returns what the screen says, and the score;
            lower is better.
        show: shows what the model can do. It takes the number of a step, and the state after it.
        show_every: the steps between two calls of `show`. The last step shows nothing.
        draw: draws the curves. It is called after validations, at most every 30 seconds, and at
            the end.
        devices: where the state lies, and the processes that take part.

    Returns:
        The last step, its state, and the best score.

    Raises:
        Stopped: after Ctrl-C or SIGTERM, when all is saved.
        UserError: if the loss or the state is no longer finite.
    """
    config = run.config
    step, state, best = start
    saved_step = step
    drawn = before = time.monotonic()
    seconds_per_step = math.inf
    # What the device may still compute: the losses, and the numbers of their steps.
    awaited: list[tuple[int, dict[str, jax.Array]]] = []
    progress = Progress(
        MofNCompleteColumn(),
        BarColumn(None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        console=console,
    )

    def due(every: int) -> bool:
        return step % every == 0 or step == config.steps

    def check(finite: bool, what: str, at: int) -> None:
        if finite:
            return
        with devices.together():
            # What led there helps to choose other settings.
            log.save()
            draw()
            raise UserError(
                f"{what} is no longer finite at step {at}. "
                f"{str(run.folder)!r} keeps the checkpoint of step {saved_step} and the best one. "
                "Going on would end here again: begin again with a lower --learning-rate."
            )

    def save(kind: str, tree: Any) -> None:
        # A state with a NaN cannot go on, so it never takes the place of an older one.
        tree = devices.gather(tree)
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
        check(finite, "the state", step)
        with devices.together():
            if devices.leads:
                # The log must hold every step up to the checkpoint.
                log.save()
                run.save(kind, step, tree, best)

    def read_loss() -> None:
        nonlocal before, seconds_per_step
        last, measured = awaited.pop(0)
        # Reading the numbers waits until their steps are complete.
        columns = [np.atleast_1d(column).tolist() for column in measured.values()]
        count = len(columns[0])
        for number, values in enumerate(zip(*columns, strict=True), last - count + 1):
            row = dict(zip(measured, values, strict=True))
            loss = row["loss"]
            check(math.isfinite(loss), "the loss", number)
            log.note(number, **row)
        seconds_of_all = time.monotonic() - before
        before += seconds_of_all
        seconds = seconds_of_all / count
        # The time of one step is noisy, so it is averaged. The first step also compiles: when
        # the average is far above the newest time, it begins again.
        if seconds_per_step < 10 * seconds:
            seconds_per_step = 0.95 * seconds_per_step + 0.05 * seconds
        else:
            seconds_per_step = seconds
        progress.update(task, completed=last, description=status(loss, seconds_per_step))

    with progress, Stop() as stop:
        task = progress.add_task("compiling", total=config.steps, completed=step)
        code = None
        stopping = False
        while step < config.steps and not stopping:
            state, measured = train_step(step, state)
            if not isinstance(measured, dict):
                measured = {"loss": measured}
            step += measured["loss"].size
            awaited.append((step, measured))
            code = devices.stop_code(stop.code)
            stopping = code is not None
            validating, saving = due(config.eval_every), due(config.checkpoint_every) or stopping
            showing = show is not None and step % show_every == 0 and step < config.steps
            # JAX computes in the background: the loss of the step before is read meanwhile. What
            # comes next needs all losses.
            if len(awaited) > 1:
                read_loss()
            if validating or saving or showing:
                read_loss()

            if validating:
                line, score = validate(step, state)
                check(math.isfinite(score), "the score", step)
                if score < best:
                    best = score
                    line += ", the best so far"
                    save(BEST, state.params)
                console.print(line, highlight=False)
            if show is not None and showing:
                show(step, state)
            if saving:
                save(LAST, state)
                saved_step = step
            if validating:
                with devices.together():
                    if time.monotonic() - drawn > _DRAW_EVERY:
                        draw()
                        drawn = time.monotonic()
            if not awaited:
                # The time of a validation or a sample is no time of a step.
                before = time.monotonic()

    with devices.together():
        draw()
    if step < config.steps:
        message = f"Stopped after step {step:,} of {config.steps:,}; all is saved. To go on:"
        console.print(message, highlight=False)
        command = f"  {run.resume_command}{devices.options()}"
        console.print(command, highlight=False, soft_wrap=True)
        assert code is not None
        raise Stopped(code)
    return Saved(step, state, best)
