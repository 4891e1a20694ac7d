"""Moving pixels: a pattern that bounces about a grid, frame by frame."""

import jax
import jax.numpy as jnp
import optax

from benchmarks.tasks.task import Batch, Claim, Contender, Measure, Task
from recurrax import ConvGRUCell, ConvLSTMCell, Layer, LSTMCell

SIZE, PATTERN, T, GIVEN, B = 8, 2, 8, 3, 8
NATS = "nats a frame"


def _bounce(key: jax.Array) -> jax.Array:
    """The place of the pattern on one axis, at each of T + 1 frames: a pixel a frame, back at the walls."""
    reach = SIZE - PATTERN
    at = (jax.random.randint(key, (B, 1), 0, 2 * reach) + jnp.arange(T + 1)) % (2 * reach)
    return jnp.where(at > reach, 2 * reach - at, at)


def draw(key: jax.Array, split: str) -> Batch:
    """Frames `[B, T, 8, 8, 1]`; the target is the next frame."""
    pattern_key, *keys = jax.random.split(key, 3)
    patterns = jax.random.bernoulli(pattern_key, 0.6, (B, PATTERN, PATTERN)).astype(jnp.float32)
    places = [jax.nn.one_hot(_bounce(k)[..., None] + jnp.arange(PATTERN), SIZE) for k in keys]
    frames = jnp.einsum("bpq,btpr,btqc->btrc", patterns, *places)
    return Batch(frames[:, :-1, ..., None], frames[:, 1:, ..., None])


def cross_entropy(outputs: jax.Array, batch: Batch) -> jax.Array:
    """In nats a frame, after those that are given."""
    each = optax.sigmoid_binary_cross_entropy(outputs, batch.targets)
    return each[:, GIVEN - 1 :].sum((2, 3, 4)).mean()


def exact(outputs: jax.Array, batch: Batch) -> jax.Array:
    """The share of frames with every pixel right."""
    right = jnp.all((outputs > 0) == (batch.targets > 0.5), axis=(2, 3, 4))
    return right[:, GIVEN - 1 :].mean()


def flattened(layer: Layer) -> Contender:
    """A layer without space: a frame is a vector to it."""
    return Contender(
        layer,
        view=lambda xs: xs.reshape(*xs.shape[:2], -1),
        outputs=SIZE * SIZE,
        shape=lambda ys: ys.reshape(*ys.shape[:2], SIZE, SIZE, 1),
    )


TASK = Task(
    name="pixels",
    what=f"""A random pattern of {PATTERN}×{PATTERN} pixels moves a pixel a frame along both axes of a {SIZE}×{SIZE}
    grid and bounces off the walls; after {GIVEN} frames, each next one is asked for.""",
    draw=draw,
    outputs=1,
    loss=cross_entropy,
    measures={
        NATS: Measure(cross_entropy),
        "frames exactly right": Measure(exact, higher_is_better=True),
    },
    contenders={
        "ConvLSTM": Contender(ConvLSTMCell(8, (SIZE, SIZE), 3)),
        "ConvGRU": Contender(ConvGRUCell(9, (SIZE, SIZE), 3)),
        "flat LSTM": flattened(LSTMCell(8)),
        "large flat LSTM": flattened(LSTMCell(128)),
    },
    claims=(
        Claim(
            "The convolutional LSTM predicts better than a flat one of as many parameters (Shi et al. 2015).",
            lambda seen: seen.below("ConvLSTM", "flat LSTM", NATS),
        ),
        Claim(
            "It predicts better than a flat one with forty times as many.",
            lambda seen: seen.below("ConvLSTM", "large flat LSTM", NATS),
        ),
        Claim(
            "So does the convolutional GRU than the flat LSTM of as many parameters (Ballas et al. 2016).",
            lambda seen: seen.below("ConvGRU", "flat LSTM", NATS),
        ),
    ),
    steps=1500,
    rates=(1e-2,),
)
