"""Training: what one step does, and how the model is scored."""

import shlex
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from examples.char_lm.files import BEST, CURVES, LOG
from examples.char_lm.log import Log
from examples.char_lm.loop import begin, repeat
from examples.char_lm.split import Split, TrainState
from examples.char_lm.train import make_optimizer

from .config import PROGRAM, Config
from .model import Composer, step_losses
from .pieces import Corpus, padded
from .plot import plot_curves
from .run import Run

# The pieces that are scored at once.
_ROWS = 32


class Pieces(NamedTuple):
    """All pieces of a part in one array, so that a compiled function can draw from them.

    Attributes:
        roll: `uint8[S, 88]`, the pieces one after another.
        starts: `int32[N]`, the first step of each piece.
        lengths: `int32[N]`, the number of its steps.
    """

    roll: Any
    starts: Any
    lengths: Any


def joined(pieces: list[np.ndarray]) -> Pieces:
    """Puts pieces one after another."""
    lengths = np.array([len(piece) for piece in pieces], np.int32)
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)
    return Pieces(np.concatenate(pieces), starts, lengths)


def draw_windows(
    key: jax.Array, pieces: Pieces, batch: int, window: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws windows of `window` steps, each from one piece.

    Returns:
        The steps to read, `[B, T, 88]`; the next steps, `[B, T, 88]`; the lengths, `int[B]`.
    """
    piece_key, start_key = jax.random.split(key)
    # A piece is drawn as often as its share of all steps. So every step counts alike.
    step = jax.random.randint(piece_key, [batch], 0, len(pieces.roll))  # [B]
    piece = jnp.searchsorted(pieces.starts, step, side="right") - 1  # [B]
    # The last step of a piece has no step after it to predict.
    predicted = pieces.lengths[piece] - 1  # [B]
    starts = jax.random.randint(start_key, [batch], 0, jnp.maximum(predicted - window, 0) + 1)
    first = pieces.starts[piece] + starts  # [B]
    # A window beyond the end of its piece reads the next one, which `lengths` masks.
    steps = first[:, None] + jnp.arange(window + 1)[None]  # [B, T + 1]
    steps = jnp.minimum(steps, len(pieces.roll) - 1)
    rolls = pieces.roll[steps].astype(jnp.float32)  # [B, T + 1, 88]
    return rolls[:, :-1], rolls[:, 1:], jnp.minimum(predicted, window)


def total_loss(
    model: Composer,
    xs: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    key: jax.Array | None = None,
) -> jax.Array:
    """The sum of the losses of all steps of a batch, in nats.

    Args:
        model: the model.
        xs: `[B, T, 88]`, the steps to read.
        targets: `[B, T, 88]`, the keys of the step after each.
        lengths: `int[B]`, the number of steps of each piece.
        key: the randomness of dropout; without it nothing is dropped.
    """
    losses = step_losses(model(xs, lengths, key), targets)  # [B, T]
    is_step = jnp.arange(xs.shape[1])[None] < lengths[:, None]  # [B, T]
    return jnp.sum(losses, where=is_step)


class Learner:
    """The compiled functions that training is made of."""

    def __init__(self, config: Config):
        self.config = config
        self.split = Split(self._new_model, make_optimizer(config))

    def _new_model(self) -> Composer:
        return Composer(self.config, rngs=nnx.Rngs(params=self.config.seed, dropout=0))

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_step(self, state: TrainState, pieces: Pieces) -> tuple[TrainState, jax.Array]:
        """Learns from windows of `pieces`; returns the next state and the loss of a step."""
        config = self.config
        # Randomness follows from the step's number alone, so a resumed run draws the same numbers.
        step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        window_key, dropout_key = jax.random.split(step_key)
        xs, targets, lengths = draw_windows(window_key, pieces, config.batch, config.window)

        def loss_of(params: nnx.State) -> jax.Array:
            total = total_loss(self.split.model(params), xs, targets, lengths, dropout_key)
            return total / lengths.sum().astype(total.dtype)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return self.split.next_state(state, grads), loss

    @partial(jax.jit, static_argnums=0)
    def evaluate(
        self, params: nnx.State, xs: jax.Array, targets: jax.Array, lengths: jax.Array
    ) -> jax.Array:
        """Returns the sum of the losses of a batch of complete pieces."""
        return total_loss(self.split.model(params), xs.astype(jnp.float32), targets, lengths)

    @partial(jax.jit, static_argnums=(0, 3, 6))
    def compose(
        self,
        params: nnx.State,
        rolls: jax.Array,
        length: int,
        key: jax.Array,
        temperature: float,
        voices: int,
    ) -> jax.Array:
        """Continues pieces: see `Composer.compose`."""
        return self.split.model(params).compose(rolls, length, key, temperature, voices)


def score(learner: Learner, params: nnx.State, pieces: list[np.ndarray]) -> float:
    """The mean loss of a step, over all steps of all pieces alike."""
    total, steps = 0.0, 0
    for batch in padded(pieces, _ROWS):
        xs, targets = batch.xs
        total += float(learner.evaluate(params, xs, targets, batch.lengths))
        steps += int(batch.lengths.sum())
    return total / steps


def train(run: Run, corpus: Corpus, console: Console, *, resume: bool = False) -> None:
    """Trains to the end or to a signal, and saves everything in both cases.

    Args:
        run: the run folder, which takes the log, the checkpoints and the curves.
        corpus: the pieces.
        console: where progress is shown.
        resume: start from the last checkpoint, rather than from the first step.

    Raises:
        Stopped: after Ctrl-C or SIGTERM.
        UserError: if a file cannot be read or written, or the loss is no longer finite.
    """
    config = run.config
    learner = Learner(config)
    start = begin(run, learner.split.first_state(), resume)
    pieces = jax.tree.map(jnp.asarray, joined(corpus.parts.train))
    log = Log(run.folder / LOG, start.step)

    def train_step(step: int, state: TrainState) -> tuple[TrainState, jax.Array]:
        return learner.train_step(state, pieces)

    def status(loss: float, seconds: float) -> str:
        speed = config.batch * config.window / seconds
        return f"loss {loss:.3f} · {speed:,.0f} steps of music/s"

    def validate(step: int, state: TrainState) -> tuple[str, float]:
        loss = score(learner, state.params, corpus.parts.validation)
        log.note(step, validation_loss=loss)
        return f"step {step:,}: validation {loss:.3f} nats a step", loss

    def draw() -> None:
        title = f"{config.layers} × {config.cell} of {config.hidden_size}"
        plot_curves(log.rows, run.folder / CURVES, title)

    end = repeat(
        run,
        console,
        log,
        start,
        train_step=train_step,
        status=status,
        validate=validate,
        draw=draw,
    )
    # The test part is scored once, by the parameters that validation has chosen.
    best = run.restore(BEST, end.tree.params)
    test = score(learner, best.tree, corpus.parts.test)
    console.print(
        f"Test part: {test:.3f} nats a step, summed over the keys; "
        f"validation part {best.best:.3f}. "
        f"By the checkpoint of step {best.step:,}, after {log.minutes()}. "
        f"Curves, log and checkpoints are in {run.folder}. To continue a piece:",
        highlight=False,
    )
    folder = shlex.quote(str(run.folder))
    console.print(f"  {PROGRAM} compose {folder}", highlight=False, soft_wrap=True)
