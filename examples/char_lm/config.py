"""Every setting of a run, declared once: its default, its range, its help on the command line."""

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import Any


def program(module: str) -> str:
    """Names a program as it was started, so that a user can paste messages into a shell."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"{shlex.quote(str(python))} -m {module}"


PROGRAM = program("examples.char_lm")


class UserError(Exception):
    """A fault that the user can mend. It is shown as one message, without a traceback."""


def number(default: float, low: float, high: float, text: str) -> Any:
    """Declares a setting that is a number within a range."""
    metadata = {"low": low, "high": high, "help": text}
    return dataclasses.field(default=default, metadata=metadata)


def choice(default: str, choices: tuple[str, ...], text: str) -> Any:
    """Declares a setting that is one of some words."""
    metadata = {"choices": choices, "help": text}
    return dataclasses.field(default=default, metadata=metadata)


def flag(default: bool, text: str) -> Any:
    """Declares a setting that is on or off."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that decide a run.

    Each checkpoint holds them.
    """

    # The network.
    cell: str = choice("lstm", ("rnn", "lstm", "gru"), "the recurrent cell")
    layers: int = number(1, 1, 64, "recurrent layers, one on top of another")
    hidden_size: int = number(256, 1, 65536, "units of each recurrent layer")
    embedding_size: int = number(64, 1, 65536, "numbers that stand for a character")
    dropout: float = number(
        0.0, 0.0, 0.95, "share of activations dropped before, between and after the layers"
    )

    dtype: str = choice(
        "float32",
        ("float32", "bfloat16"),
        "dtype of the matrix products; parameters, states and losses stay float32",
    )
    remat: int = number(
        0, 0, 65536, "keep every Nth state for the gradients, compute the rest again; 0 keeps all"
    )

    # The data of a training step.
    windows: str = choice(
        "streams",
        ("streams", "random"),
        "streams: read on where the last step stopped, and keep the state; "
        "random: start anywhere, from a zero state",
    )
    batch: int = number(32, 1, 65536, "windows read side by side")
    window: int = number(64, 1, 65536, "characters in a window: how far gradients reach back")

    # The optimizer, and the randomness.
    steps: int = number(2600, 1, 10**8, "training steps")
    learning_rate: float = number(0.01, 1e-8, 10.0, "highest learning rate, after the warm-up")
    warmup: int = number(
        100, 0, 10**8, "steps over which the learning rate rises; a cosine lowers it afterwards"
    )
    clip: float = number(1.0, 1e-6, math.inf, "gradients are scaled down to this global norm")
    weight_decay: float = number(0.01, 0.0, 10.0, "AdamW's weight decay, on the kernels")
    seed: int = number(0, 0, 2**31 - 1, "the seed of all randomness")

    # The work between training steps.
    steps_per_dispatch: int = number(
        1, 1, 10**6, "steps that the device takes at once, where no other work falls between"
    )
    eval_every: int = number(250, 1, 10**8, "steps between two validations")
    eval_windows: int = number(150, 1, 10**8, "windows to read of each validation stream, at most")
    sample_every: int = number(500, 1, 10**8, "steps between two samples")
    checkpoint_every: int = number(250, 1, 10**8, "steps between two checkpoints")
    report: bool = flag(True, "write report.html at the end, which takes some seconds")
    tensorboard: bool = flag(False, "also write the log for TensorBoard")
