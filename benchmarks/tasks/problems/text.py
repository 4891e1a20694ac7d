"""A little text and regularized LSTMs: the source of Python's standard library, which every machine has."""

import functools
import sysconfig
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Seen, Task
from recurrax import Dropout, LayerNormLSTMCell, LSTMCell, RecurrentDropout, Stack, WeightDrop, Zoneout

MODULES = ("argparse", "ast", "configparser", "dataclasses", "difflib", "fractions", "optparse", "shutil", "statistics")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
T, B, H = 64, 32, 128
SHARE = 6_000
HELD_OUT, AT_THE_END, TRAINED_ON = "held out", "held out, at the end", "trained on"


@functools.cache
def _texts() -> dict[str, np.ndarray]:
    """Of each module the first characters are trained on, the rest is held out."""
    parts: dict[str, list[np.ndarray]] = {"train": [], HELD_OUT: []}
    for module in MODULES:
        text = (Path(sysconfig.get_path("stdlib")) / f"{module}.py").read_text("utf-8")
        numbers = np.array([CHARACTERS.index(character) for character in text if character in CHARACTERS], np.int32)
        parts["train"].append(numbers[:SHARE])
        parts[HELD_OUT].append(numbers[SHARE:])
    return {split: np.concatenate(part) for split, part in parts.items()}


def draw(key: jax.Array, split: str) -> Batch:
    """Windows from anywhere in the text, one-hot; the target is the next character."""
    text = _texts()[split]
    starts = jax.random.randint(key, (B, 1), 0, len(text) - T)
    window = jnp.asarray(text)[starts + jnp.arange(T + 1)]
    return Batch(len(CHARACTERS) ** 0.5 * jax.nn.one_hot(window[:, :-1], len(CHARACTERS)), window[:, 1:])


def bits(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Bits a character."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets).mean() / jnp.log(2)


def _better(layer: str) -> Callable[[Seen], bool | None]:
    return lambda seen: seen.below(layer, "LSTM", HELD_OUT)


TASK = Task(
    name="text",
    what=f"""The next character, in windows of {T}, in bits; trained on the first {SHARE:,} characters of {len(MODULES)}
    modules of Python's standard library, tested on what follows there. *Held out* is taken where it was best along
    the way, on other windows.""",
    draw=draw,
    outputs=len(CHARACTERS),
    loss=bits,
    measures={
        HELD_OUT: Measure(bits, HELD_OUT, stopped_early=True),
        AT_THE_END: Measure(bits, HELD_OUT),
        TRAINED_ON: Measure(bits),
    },
    contenders={
        "LSTM": Contender(LSTMCell(H)),
        "zoneout": Contender(Zoneout(LSTMCell(H), (0.05, 0.5))),
        "variational dropout": Contender(Stack((RecurrentDropout(LSTMCell(H), 0.3), Dropout(0.3, shared=True)))),
        "weight drop": Contender(WeightDrop(LSTMCell(H), 0.5)),
        "layer norm": Contender(LayerNormLSTMCell(H)),
    },
    claims=(
        Claim("Zoneout is better than none on text held out (Krueger et al. 2017).", _better("zoneout")),
        Claim("So is variational dropout (Gal and Ghahramani 2016).", _better("variational dropout")),
        Claim("So is weight drop (Merity et al. 2018).", _better("weight drop")),
        Claim("So is layer norm (Ba et al. 2016).", _better("layer norm")),
        Claim(
            "Layer norm learns what it is trained on faster (Ba et al. 2016).",
            lambda seen: seen.below("layer norm", "LSTM", TRAINED_ON),
        ),
    ),
    steps=800,
    rates=(5e-3, 1e-2),
)
