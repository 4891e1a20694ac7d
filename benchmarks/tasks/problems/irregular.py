"""A sine seen at irregular times: how fast does it swing?"""

import jax
import jax.numpy as jnp

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Task
from recurrax import CfCCell, GRUCell, LTCCell
from recurrax.cells.timed import TimedInputs

T, B = 16, 32
SLOWEST, FASTEST = 0.5, 3.0
ERROR = "squared error"


def draw(key: jax.Array, split: str) -> Batch:
    """Values of a sine and the time since the value before; the target is the frequency, scaled to variance 1."""
    frequency_key, phase_key, time_key = jax.random.split(key, 3)
    frequency = jax.random.uniform(frequency_key, (B, 1), minval=SLOWEST, maxval=FASTEST)
    phase = jax.random.uniform(phase_key, (B, 1), maxval=2 * jnp.pi)
    dt = jax.random.uniform(time_key, (B, T), minval=0.02, maxval=1.0)
    values = jnp.sin(frequency * jnp.cumsum(dt, axis=-1) + phase)
    scaled = (frequency[:, 0] - (SLOWEST + FASTEST) / 2) / ((FASTEST - SLOWEST) / 12**0.5)
    return Batch(TimedInputs(values[..., None], dt), scaled)


def error(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The mean squared error of the last output."""
    return jnp.mean((outputs[:, -1, 0] - batch.targets) ** 2)


def values_only(xs: TimedInputs) -> jax.Array:
    """Blind to time."""
    return xs.x


def time_as_feature(xs: TimedInputs) -> jax.Array:
    """The time beside the value."""
    assert xs.dt is not None
    return jnp.concatenate([xs.x, xs.dt[..., None]], axis=-1)


TASK = Task(
    name="irregular",
    what=f"""{T} values of a sine at random times, and the time since the one before; its frequency is asked for. Who
    always says the mean has an error of 1.""",
    draw=draw,
    outputs=1,
    loss=error,
    measures={ERROR: Measure(error, solved=0.02)},
    contenders={
        "CfC": Contender(CfCCell(32, 32)),
        "CfC without times": Contender(CfCCell(32, 32), view=values_only),
        "LTC": Contender(LTCCell(16)),
        "LTC without times": Contender(LTCCell(16), view=values_only),
        "GRU": Contender(GRUCell(32), view=values_only),
        "GRU with time as a feature": Contender(GRUCell(32), view=time_as_feature),
    },
    claims=(
        Claim(
            "CfC, told of the times, does better than a GRU that is not (Hasani et al. 2022).",
            lambda seen: seen.below("CfC", "GRU", ERROR),
        ),
        Claim(
            "So does LTC (Hasani et al. 2021).",
            lambda seen: seen.below("LTC", "GRU", ERROR),
        ),
        Claim(
            "Both owe it to the times.",
            lambda seen: all(seen.below(name, f"{name} without times", ERROR) for name in ("CfC", "LTC")),
        ),
        Claim(
            "CfC does better than a GRU that has the time as a feature (Hasani et al. 2022).",
            lambda seen: seen.below("CfC", "GRU with time as a feature", ERROR),
        ),
    ),
    steps=1500,
    rates=(3e-3, 1e-2),
)
