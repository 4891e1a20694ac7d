"""The loop of a training: it repeats steps, shows progress, validates, and saves."""

import contextlib
import json
import math
import shlex
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from .config import UserError
from .run import Run


class CtrlC:
    """Lets the running step end, so that its state can be saved. A second Ctrl-C stops at once."""

    asked = False

    def __enter__(self) -> "CtrlC":
        self.previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Log:
    """The log of a run, in its file and in memory."""

    def __init__(self, run: Run, step: int):
        """Opens the log of a run that goes on after `step`."""
        # A killed run may have logged steps after its last checkpoint. They are logged again.
        self.rows = run.truncate_log(step)
        self._file = (run.folder / "log.jsonl").open("a", encoding="utf-8")
        self._began = time.monotonic()
        # The clock of a resumed run continues.
        if self.rows:
            self._began -= self.rows[-1]["seconds"]

    def note(self, step: int, **values: float) -> None:
        """Adds a line."""
        seconds = round(time.monotonic() - self._began, 3)
        row = {"step": step, **values, "seconds": seconds}
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")

    def values(self, name: str) -> list[float]:
        """Returns all values of this name that were noted."""
        return [row[name] for row in self.rows if name in row]

    def minutes(self) -> str:
        """Returns how long the run took, such as "3 min 28 s"."""
        minutes, seconds = divmod(round(self.rows[-1]["seconds"]), 60)
        return f"{minutes} min {seconds} s"

    def flush(self) -> None:
        """Makes sure that a kill loses no line."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def begin(run: Run, state: Any, resume: bool) -> tuple[int, Any]:
    """Returns the number of the step to go on from, and the state after it.

    Args:
        run: the run folder.
        state: the state before the first step.
        resume: whether to take the last checkpoint in place of `state`.

    Raises:
        UserError: if the checkpoint cannot be used.
    """
    if resume:
        return run.restore("last", state)
    # A run that stops before its first checkpoint can be resumed too.
    run.save("last", 0, state)
    return 0, state


def repeat(
    run: Run,
    console: Console,
    log: Log,
    step: int,
    state: Any,
    *,
    train_step: Callable[[int, Any], tuple[Any, jax.Array]],
    status: Callable[[float, float], str],
    validate: Callable[[int, Any], tuple[str, bool]],
    after_step: Callable[[int, Any], None] | None = None,
) -> tuple[bool, Any]:
    """Trains to the end or to a Ctrl-C, and saves everything in both cases.

    Args:
        run: the run folder. Its settings have `steps`, `eval_every` and `checkpoint_every`. The
            states have `params`.
        console: where progress is shown.
        log: takes the loss of each step. The loop closes it.
        step: the number of steps that were taken.
        state: the state after them.
        train_step: takes the number of steps before, and the state; returns the new state and the
            loss.
        status: makes the line of progress, from the loss and the seconds of a step.
        validate: scores the state after a step. It returns what the screen says, and whether the
            state is the best so far.
        after_step: called after each step, with its number and the state.

    Returns:
        Whether the end was reached, and the state.

    Raises:
        UserError: if the loss is no longer finite.
    """
    config = run.config

    def due(every: int) -> bool:
        return step % every == 0 or step == config.steps

    progress = Progress(
        MofNCompleteColumn(),
        BarColumn(None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        console=console,
    )
    with contextlib.closing(log), progress, CtrlC() as ctrl_c:
        task = progress.add_task("compiling", total=config.steps, completed=step)
        seconds_per_step = math.inf
        stopping = False
        while step < config.steps and not stopping:
            before = time.monotonic()
            state, loss_array = train_step(step, state)
            # JAX computes in the background. Reading the loss waits until the step is complete.
            loss = float(loss_array)
            step += 1
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is no longer finite at step {step}; "
                    f"{str(run.folder)!r} keeps what came before. "
                    "Begin again with a lower --learning-rate."
                )
            log.note(step, loss=loss)

            seconds = time.monotonic() - before
            # The time of one step is noisy, so it is averaged. The first step also compiles: when
            # the average is far above the newest time, it begins again.
            if seconds_per_step < 10 * seconds:
                seconds_per_step = 0.95 * seconds_per_step + 0.05 * seconds
            else:
                seconds_per_step = seconds
            line = status(loss, seconds_per_step)
            progress.update(task, completed=step, description=line)
            stopping = ctrl_c.asked

            if due(config.eval_every):
                line, is_best = validate(step, state)
                if is_best:
                    line += ", the best so far"
                    run.save("best", step, state.params)
                console.print(line, highlight=False)
            if after_step is not None:
                after_step(step, state)
            if due(config.checkpoint_every) or stopping:
                # The log must hold every step up to the checkpoint.
                log.flush()
                run.save("last", step, state)

    if step < config.steps:
        message = f"Stopped after step {step:,} of {config.steps:,}; all is saved. To go on:"
        console.print(message, highlight=False)
        command = f"  {run.program} resume {shlex.quote(str(run.folder))}"
        console.print(command, highlight=False, soft_wrap=True)
    return step == config.steps, state
