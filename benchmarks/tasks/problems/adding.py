"""The adding problem: two marked numbers far apart, their sum at the end."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Task
from recurrax import ElmanCell, GRUCell, IndRNNCell, LSTMCell, MGUCell, Stack, UGRNNCell

T, B, H = 100, 32, 64


def draw(key: jax.Array, split: str) -> Batch:
    """Numbers in [0, 1) beside flags; one flag in each half of the sequence."""
    numbers_key, first_key, second_key = jax.random.split(key, 3)
    numbers = jax.random.uniform(numbers_key, (B, T))
    marked = [jax.random.randint(first_key, (B,), 0, T // 2), jax.random.randint(second_key, (B,), T // 2, T)]
    flags = sum(jax.nn.one_hot(at, T) for at in marked)
    return Batch(jnp.stack([numbers, flags], axis=-1), (numbers * flags).sum(-1))


def error(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The mean squared error of the last output."""
    return jnp.mean((outputs[:, -1, 0] - batch.targets) ** 2)


def _between(low: float, high: float, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, low, high)


def independent(size: int, steps: int, gamma: float = 2.0) -> Contender:
    """Two layers of IndRNN as Li et al. have them: gradients within γ over all steps, the last layer made to keep."""
    bound = gamma ** (1 / steps)
    below, above = (
        IndRNNCell(size, recurrent_kernel_init=functools.partial(_between, low, bound)) for low in (0.0, 1 / bound)
    )

    def constrain(params: Any) -> Any:
        clipped = (p._replace(recurrent_kernel=jnp.clip(p.recurrent_kernel, -bound, bound)) for p in params)
        return tuple(clipped)

    return Contender(Stack((below, above)), constrain=constrain)


TASK = Task(
    name="adding",
    what=f"""{T} random numbers, two of them marked, one in each half; after the last step their sum is asked for. Who
    always says 1 has an error of 0.167.""",
    draw=draw,
    outputs=1,
    loss=error,
    measures={"squared error": Measure(error, solved=0.01)},
    contenders={
        "Elman": Contender(ElmanCell(H), rates=(1e-3, 3e-3)),
        "IndRNN": independent(128, T),
        "LSTM": Contender(LSTMCell(H)),
        "GRU": Contender(GRUCell(H)),
        "MGU": Contender(MGUCell(H)),
        "UGRNN": Contender(UGRNNCell(H)),
    },
    claims=(
        Claim(
            "The LSTM solves it where Elman's network does not (Hochreiter and Schmidhuber 1997).",
            lambda seen: seen.solved("LSTM") and not seen.solved("Elman"),
        ),
        Claim("So does the GRU (Chung et al. 2014).", lambda seen: seen.solved("GRU") and not seen.solved("Elman")),
        Claim(
            "So does a stack of IndRNN, its recurrent weights bounded (Li et al. 2018).",
            lambda seen: seen.solved("IndRNN") and not seen.solved("Elman"),
        ),
        Claim(
            "The MGU does as well as the GRU with a third of the parameters less (Zhou et al. 2016).",
            lambda seen: seen.solved("MGU", "GRU") and seen.parameters("MGU") < 0.7 * seen.parameters("GRU"),
        ),
        Claim(
            "One gate is enough: the UGRNN trains as a gated network does (Collins et al. 2017).",
            lambda seen: seen.solved("UGRNN") and not seen.solved("Elman"),
        ),
    ),
    steps=2000,
    rates=(3e-3, 1e-2),
)
