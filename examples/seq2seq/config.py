"""Every setting of a run, declared once: its default, its range, its help on the command line."""

import dataclasses
import math

from examples.char_lm.config import UserError, choice, number, program

__all__ = ["PROGRAM", "Config", "UserError"]

PROGRAM = program("examples.seq2seq")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that decide a run.

    Each checkpoint holds them.
    """

    # The network.
    attention: str = choice("bahdanau", ("bahdanau", "luong"), "how the decoder reads the source")
    hidden_size: int = number(64, 1, 65536, "units of each direction of the encoder")
    decoder_size: int = number(128, 1, 65536, "units of the decoder")
    embedding_size: int = number(32, 1, 65536, "numbers that stand for a character")

    # The data of a training step.
    examples: int = number(20000, 1, 10**6, "dates to learn from; each is written in one form")
    batch: int = number(64, 1, 65536, "dates in a training step")
    sampling: float = number(
        0.2, 0.0, 1.0, "scheduled sampling: share of characters that the model reads of its own"
    )

    # The optimizer, and the randomness.
    steps: int = number(600, 1, 10**8, "training steps")
    learning_rate: float = number(0.005, 1e-8, 10.0, "highest learning rate, after the warm-up")
    warmup: int = number(
        100, 0, 10**8, "steps over which the learning rate rises; a cosine lowers it afterwards"
    )
    clip: float = number(1.0, 1e-6, math.inf, "gradients are scaled down to this global norm")
    weight_decay: float = number(0.01, 0.0, 10.0, "AdamW's weight decay, on the kernels")
    seed: int = number(0, 0, 2**31 - 1, "the seed of all randomness")

    # The work between training steps.
    eval_every: int = number(100, 1, 10**8, "steps between two validations")
    checkpoint_every: int = number(100, 1, 10**8, "steps between two checkpoints")
    beam: int = number(4, 1, 1000, "texts that beam search keeps, at the end and in `translate`")
