"""Who tries where a state is to be tracked or recalled, and what the running products of a group ask."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Seen, Task
from recurrax import (
    CausalConv,
    Dense,
    ElmanCell,
    Gated,
    Layer,
    LRUCell,
    LSTMCell,
    MinGRUCell,
    MinLSTMCell,
    MLSTMCell,
    Residual,
    RGLRUCell,
    RMSNorm,
    SLSTMCell,
    Stack,
)

TRAINED, LONG, B, H, WIDTH = 20, 60, 32, 64, 32
SHORT_ACCURACY, LONG_ACCURACY = f"accuracy to {TRAINED}", f"accuracy from {LONG // 2 + 1} to {LONG}"


def blocks(cell: Layer) -> Contender:
    """Two residual blocks as Griffin has them: norm, short convolution, cell, gate; and a small network."""
    gated = Gated(Stack((CausalConv(WIDTH), cell)), Dense(WIDTH, jax.nn.silu))
    mixing = Residual(Stack((RMSNorm(), gated, Dense(WIDTH))))
    network = Residual(Stack((RMSNorm(), Dense(2 * WIDTH, jax.nn.gelu), Dense(WIDTH))))
    return Contender(Stack((Dense(WIDTH), mixing, network, mixing, network, RMSNorm())))


CONTENDERS = {
    "Elman": Contender(ElmanCell(H), rates=(1e-3, 3e-3)),
    "LSTM": Contender(LSTMCell(H)),
    "sLSTM": Contender(SLSTMCell(H)),
    "LSTM in blocks": blocks(LSTMCell(WIDTH)),
    "MinGRU in blocks": blocks(MinGRUCell(WIDTH)),
    "MinLSTM in blocks": blocks(MinLSTMCell(WIDTH)),
    "LRU in blocks": blocks(LRUCell(WIDTH)),
    "RG-LRU in blocks": blocks(RGLRUCell(WIDTH)),
    "mLSTM in blocks": blocks(MLSTMCell(WIDTH, num_heads=2)),
}
POSITIVE = ("MinGRU in blocks", "RG-LRU in blocks", "mLSTM in blocks")


def cross_entropy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """In nats, over the steps that are asked about, those whose target is not negative."""
    asked = batch.targets >= 0
    each = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(batch.targets, 0))
    return jnp.sum(each * asked) / jnp.sum(asked)


def accuracy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The share of right answers among the steps that are asked about."""
    return jnp.sum(outputs.argmax(-1) == batch.targets) / jnp.sum(batch.targets >= 0)


def nothing_long(seen: Seen, layers: tuple[str, ...], chance: float) -> bool:
    """Whether none of the layers gets further than half of the way from chance at lengths not trained on."""
    return all(seen.median(layer, LONG_ACCURACY) < (1 + chance) / 2 for layer in layers)


def further(seen: Seen, layer: str, others: tuple[str, ...]) -> bool | None:
    """Whether a layer is right more often than the others at lengths not trained on; None where seeds decide."""
    verdicts = [seen.below(other, layer, LONG_ACCURACY) for other in others]
    return True if all(verdicts) else None if False not in verdicts else False


def running(
    name: str,
    what: str,
    draw: Callable[[jax.Array, str], Batch],
    outputs: int,
    chance: float,
    steps: int,
    rate: float = 3e-3,
    shape: Callable[[jax.Array], jax.Array] = lambda ys: ys,
) -> Task:
    """A task whose every step asks for the product of a group's elements so far."""

    def right(outputs: jax.Array, batch: Batch) -> jax.Array:
        each = shape(outputs).argmax(-1) == batch.targets
        return each if each.ndim == 2 else each.all(-1)

    def loss(outputs: jax.Array, batch: Batch) -> jax.Array:
        return cross_entropy(shape(outputs), batch)

    return Task(
        name=name,
        what=f"""{what} Asked at every step. Trained on {TRAINED} steps, tested on those and on the second half of
        {LONG}. Chance is {chance:.3g}.""",
        draw=draw,
        outputs=outputs,
        loss=loss,
        measures={
            SHORT_ACCURACY: Measure(lambda ys, batch: right(ys, batch).mean(), higher_is_better=True, solved=0.95),
            LONG_ACCURACY: Measure(
                lambda ys, batch: right(ys, batch)[:, LONG // 2 :].mean(), "long", higher_is_better=True, solved=0.95
            ),
        },
        contenders=CONTENDERS,
        claims=(
            Claim(
                "Recurrences that are not linear solve it, at lengths not trained on as well (Delétang et al. 2023, "
                "Merrill et al. 2024).",
                lambda seen: seen.solved("Elman", "LSTM", "sLSTM"),
            ),
            Claim(
                "Linear ones whose eigenvalues are positive do not (Merrill et al. 2024, Grazzi et al. 2024): all "
                "stay in the lower half between chance and 1.",
                lambda seen: nothing_long(seen, POSITIVE, chance),
            ),
            Claim(
                "Complex eigenvalues that the input does not set do not help (Merrill et al. 2024).",
                lambda seen: nothing_long(seen, ("LRU in blocks",), chance),
            ),
            Claim(
                "It is the cell and not what stands around it: in the same blocks an LSTM gets further at lengths not "
                "trained on than any linear cell.",
                lambda seen: further(seen, "LSTM in blocks", (*POSITIVE, "LRU in blocks")),
            ),
        ),
        steps=steps,
        rates=(rate,),
    )
