"""Parity: is the number of ones odd."""

import jax
import jax.numpy as jnp
import optax

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Task
from recurrax import ElmanCell, GRUCell, LSTMCell, SLSTMCell

TRAINED, LONG, B, H = 40, 256, 64, 32


def draw(key: jax.Array, split: str) -> Batch:
    """Bits as one-hot vectors, of 1 to 40 steps, or of 256 under "long"."""
    bits_key, lengths_key = jax.random.split(key)
    T = LONG if split == "long" else TRAINED
    bits = jax.random.randint(bits_key, (B, T), 0, 2)
    lengths = jax.random.randint(lengths_key, (B,), T if split == "long" else 1, T + 1)
    parity = (bits * (jnp.arange(T) < lengths[:, None])).sum(-1) % 2
    return Batch(jax.nn.one_hot(bits, 2), parity, lengths)


def _last(outputs: jax.Array, batch: Batch) -> jax.Array:
    assert batch.lengths is not None
    return jnp.take_along_axis(outputs[..., 0], batch.lengths[:, None] - 1, axis=1)[:, 0]


def cross_entropy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Of the last unmasked step's output, in nats."""
    return optax.sigmoid_binary_cross_entropy(_last(outputs, batch), batch.targets).mean()


def accuracy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The share of sequences with the right answer."""
    return jnp.mean((_last(outputs, batch) > 0) == (batch.targets == 1))


TASK = Task(
    name="parity",
    what=f"""Bits, and whether the number of ones is odd, asked after the last step alone. Trained on 1 to {TRAINED}
    steps, tested on those and on {LONG}. Chance is 0.5.""",
    draw=draw,
    outputs=1,
    loss=cross_entropy,
    measures={
        f"accuracy to {TRAINED}": Measure(accuracy, higher_is_better=True, solved=0.99),
        f"accuracy at {LONG}": Measure(accuracy, "long", higher_is_better=True, solved=0.99),
    },
    contenders={
        "Elman": Contender(ElmanCell(H)),
        "GRU": Contender(GRUCell(H)),
        "LSTM": Contender(LSTMCell(H)),
        "sLSTM": Contender(SLSTMCell(H)),
    },
    claims=(
        Claim(
            "Recurrences that are not linear solve it, at any length (Delétang et al. 2023).",
            lambda seen: seen.solved("Elman", "GRU", "LSTM"),
        ),
        Claim("So does the sLSTM (Beck et al. 2024).", lambda seen: seen.solved("sLSTM")),
    ),
    steps=4000,
    rates=(3e-3, 1e-2),
)
