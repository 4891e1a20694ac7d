"""Copying memory: symbols, a long silence, a signal; then the symbols again."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Task
from recurrax import ElmanCell, GRUCell, LSTMCell, SLSTMCell
from recurrax.cells.lstm import LSTMParams

SYMBOLS, LENGTH, DELAY, B, H = 8, 5, 50, 32, 64
T = DELAY + 2 * LENGTH
SILENCE, SIGNAL = SYMBOLS, SYMBOLS + 1


def draw(key: jax.Array, split: str) -> Batch:
    """One-hot symbols; the targets are silence but for the last steps."""
    symbols = jax.random.randint(key, (B, LENGTH), 0, SYMBOLS)
    xs = jnp.full((B, T), SILENCE).at[:, :LENGTH].set(symbols).at[:, -LENGTH - 1].set(SIGNAL)
    targets = jnp.full((B, T), SILENCE).at[:, -LENGTH:].set(symbols)
    return Batch(jax.nn.one_hot(xs, SYMBOLS + 2), targets)


def cross_entropy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """In nats, over all steps."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets).mean()


def accuracy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The share of the symbols that come back."""
    return jnp.mean(outputs.argmax(-1)[:, -LENGTH:] == batch.targets[:, -LENGTH:])


@dataclasses.dataclass(frozen=True, repr=False)
class ChronoLSTMCell(LSTMCell):
    """An LSTM whose biases start off so that its units forget over 1 to `horizon` steps (Tallec and Ollivier 2018)."""

    horizon: int = DELAY

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Draws the forget gate's bias as log U(1, horizon - 1), the input gate's is its opposite."""
        params, size = super().init(key, input_size, dtype), self.hidden_size
        assert params.bias is not None
        keep = jnp.log(jax.random.uniform(jax.random.fold_in(key, 1), (size,), dtype, 1, self.horizon - 1))
        return params._replace(bias=params.bias.at[:size].set(-keep).at[size : 2 * size].set(keep))


TASK = Task(
    name="copying",
    what=f"""{LENGTH} symbols of {SYMBOLS}, a silence, a signal {DELAY} steps after the last of them, and the symbols
    are to be repeated (Arjovsky et al. 2016). Chance is {1 / SYMBOLS:.3f}.""",
    draw=draw,
    outputs=SYMBOLS + 1,
    loss=cross_entropy,
    measures={"accuracy": Measure(accuracy, higher_is_better=True, solved=0.95)},
    contenders={
        "Elman": Contender(ElmanCell(H), rates=(1e-3, 3e-3)),
        "GRU": Contender(GRUCell(H)),
        "LSTM": Contender(LSTMCell(H)),
        "LSTM forget bias 4": Contender(LSTMCell(H, forget_bias=4.0)),
        "LSTM chrono": Contender(ChronoLSTMCell(H)),
        "sLSTM": Contender(SLSTMCell(H)),
    },
    claims=(
        Claim(
            "Elman's network says no more than chance (Arjovsky et al. 2016).",
            lambda seen: seen.median("Elman", "accuracy") < 1.5 / SYMBOLS,
        ),
        Claim(
            "Biases spread over the delay help the LSTM (Tallec and Ollivier 2018).",
            lambda seen: seen.below("LSTM", "LSTM chrono", "accuracy"),
        ),
        Claim(
            "A larger forget bias helps it as well (Jozefowicz et al. 2015, who take 1 for 0).",
            lambda seen: seen.below("LSTM", "LSTM forget bias 4", "accuracy"),
        ),
    ),
    steps=4000,
    rates=(1e-2, 2e-2),
)
