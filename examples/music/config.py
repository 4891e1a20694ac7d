"""Every setting of a run, declared once: its default, its range, its help on the command line."""

import dataclasses
import math

from examples.char_lm.config import UserError, choice, number, program

__all__ = ["PROGRAM", "Config", "UserError"]

PROGRAM = program("examples.music")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that decide a run.

    Each checkpoint holds them.
    """

    # The network.
    cell: str = choice("lstm", ("rnn", "lstm", "gru"), "the recurrent cell")
    layers: int = number(1, 1, 64, "recurrent layers, one on top of another")
    hidden_size: int = number(200, 1, 65536, "units of each recurrent layer")
    dropout: float = number(
        0.3, 0.0, 0.95, "share of features dropped before, between and after the layers"
    )

    # The data of a training step.
    batch: int = number(32, 1, 65536, "windows read side by side")
    window: int = number(64, 1, 65536, "steps in a window: how far gradients reach back")
    steps_per_beat: int = number(2, 1, 96, "steps of a quarter note, where MIDI files are read")

    # The optimizer, and the randomness.
    steps: int = number(600, 1, 10**8, "training steps")
    learning_rate: float = number(0.005, 1e-8, 10.0, "highest learning rate, after the warm-up")
    warmup: int = number(
        50, 0, 10**8, "steps over which the learning rate rises; a cosine lowers it afterwards"
    )
    clip: float = number(1.0, 1e-6, math.inf, "gradients are scaled down to this global norm")
    weight_decay: float = number(0.01, 0.0, 10.0, "AdamW's weight decay, on the kernels")
    seed: int = number(0, 0, 2**31 - 1, "the seed of all randomness")

    # The work between training steps.
    eval_every: int = number(50, 1, 10**8, "steps between two validations")
    checkpoint_every: int = number(100, 1, 10**8, "steps between two checkpoints")
