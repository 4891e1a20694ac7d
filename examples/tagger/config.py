"""Every setting of a run, declared once: its default, its range, its help on the command line."""

import dataclasses
import math

from examples.char_lm.config import UserError, number, program

__all__ = ["PROGRAM", "Config", "UserError"]

PROGRAM = program("examples.tagger")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings that decide a run, together with the data."""

    # The network.
    crf: bool = dataclasses.field(
        default=True,
        metadata={"help": "score the labels of a sentence together, or each label by itself"},
    )
    layers: int = number(1, 1, 16, "bidirectional LSTM layers, one on top of another")
    hidden_size: int = number(96, 1, 65536, "units of each layer in each direction")
    char_size: int = number(64, 1, 65536, "numbers that stand for a character")
    pair_size: int = number(32, 1, 65536, "numbers that stand for two neighboring characters")
    least_count: int = number(2, 1, 10**6, "a character that the text has less often is unknown")
    pairs: int = number(40000, 0, 10**7, "known pairs of neighbors, the most frequent; 0: none")
    dropout: float = number(0.3, 0.0, 0.95, "share of features dropped before and after the LSTM")

    # The optimizer, and the randomness.
    batch: int = number(2048, 1, 10**7, "characters in the batch of a training step, about")
    steps: int = number(1200, 1, 10**8, "training steps")
    learning_rate: float = number(0.005, 1e-8, 10.0, "highest learning rate, after the warm-up")
    warmup: int = number(
        100, 0, 10**8, "steps over which the learning rate rises; a cosine lowers it afterwards"
    )
    clip: float = number(1.0, 1e-6, math.inf, "gradients are scaled down to this global norm")
    weight_decay: float = number(0.01, 0.0, 10.0, "AdamW's weight decay, on the kernels")
    seed: int = number(0, 0, 2**31 - 1, "the seed of all randomness")

    # The work between training steps.
    eval_every: int = number(400, 1, 10**8, "steps between two validations")
    checkpoint_every: int = number(400, 1, 10**8, "steps between two checkpoints")
