"""Text: LSTMs with the ingredients of AWD-LSTM predict the next character.

A run has the folder, the checkpoints and the loop of `examples.char_lm`, so it survives a stop and a kill.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import recurrax
from benchmarks.published import dynamic
from benchmarks.published.presets import Preset, TextRecipe
from benchmarks.published.texts import Texts
from examples.char_lm.command import screen
from examples.char_lm.config import UserError, program
from examples.char_lm.data import training_windows
from examples.char_lm.files import BEST, CURVES, LOG
from examples.char_lm.lock import Lock
from examples.char_lm.log import Log
from examples.char_lm.loop import begin, repeat
from examples.char_lm.plot import plot
from examples.char_lm.run import Run
from examples.char_lm.split import Split, TrainState
from recurrax import nnx as rnn

# The streams in which the sources read the validation part. They read the test part in one.
_STREAMS = 10
# The most steps between two checkpoints.
_CHECKPOINT_EVERY = 1000


@dataclasses.dataclass(frozen=True)
class Settings(TextRecipe):
    """The settings of a run: its recipe, its seed, and when it does what.

    Attributes:
        seed: the seed of all randomness.
        steps: the updates of the run.
        eval_every: the updates of an epoch.
        checkpoint_every: the updates between two checkpoints.
        windows: how `training_windows` takes the text: in streams, so that the state goes on.
    """

    seed: int = 0
    steps: int = 1
    eval_every: int = 1
    checkpoint_every: int = 1
    windows: str = "streams"


class Facts(NamedTuple):
    """What a run keeps of its data and its model."""

    preset: str
    cell: str
    digest: str


class TextRun(Run):
    """A run folder. Its best checkpoint has the lowest validation loss."""

    program = program("benchmarks.published")
    config_type = Settings
    text_type = Facts
    restart = "--again"

    @property
    def resume_command(self) -> str:
        """The same command goes on. The run tells the parts of it that it knows."""
        preset, cell, _ = self.text
        runs = shlex.quote(str(self.folder.parent))
        return f"{self.program} {preset} --cells {cell} --seeds {self.config.seed} --runs {runs} --data FILE"


def settings(recipe: TextRecipe, texts: Texts, seed: int) -> Settings:
    """Makes the settings of a run. Their numbers of updates follow from the length of the text.

    Raises:
        UserError: if the text is too short for the batch and the window.
    """
    epoch = (len(texts.train) - 1) // recipe.batch // recipe.window
    if not epoch:
        raise UserError(
            f"the training part must have more than {recipe.batch * recipe.window:,} characters, {recipe.batch} "
            f"streams with a window of {recipe.window}; got {len(texts.train):,}. Tune batch or window lower."
        )
    return Settings(
        **dataclasses.asdict(recipe),
        seed=seed,
        steps=epoch * recipe.epochs,
        eval_every=epoch,
        checkpoint_every=min(epoch, _CHECKPOINT_EVERY),
    )


# The model -------------------------------------------------------------------------------------------


def layer_of(recipe: TextRecipe) -> recurrax.Layer:
    """Makes the layers between the embedding and the last dropout."""
    layers: list[recurrax.Layer] = [recurrax.Dropout(recipe.input_dropout, shared=True)]
    for number in range(recipe.layers):
        # The logits reuse the embedding, so the last outputs have its size.
        size = recipe.hidden_size
        if number == recipe.layers - 1:
            size = recipe.embedding_size
        if number:
            layers.append(recurrax.Dropout(recipe.layer_dropout, shared=True))
        cell: recurrax.Layer = recurrax.LSTMCell(size)
        if recipe.weight_drop:
            cell = recurrax.WeightDrop(cell, recipe.weight_drop)
        layers.append(cell)
    return recurrax.Stack(tuple(layers))


class Outputs(NamedTuple):
    """What the model returns.

    Attributes:
        logits: `[B, T, V]`, of each next character.
        ys: `[B, T, E]`, the outputs of the last LSTM.
        dropped: `[B, T, E]`, the same after dropout.
        state: the state after the last character.
    """

    logits: jax.Array
    ys: jax.Array
    dropped: jax.Array
    state: Any


class CharacterModel(nnx.Module):
    """An embedding, LSTMs, and logits by the same embedding."""

    def __init__(self, recipe: TextRecipe, characters: int, *, rngs: nnx.Rngs):
        """Draws the parameters."""
        shape = (characters, recipe.embedding_size)
        # The source draws its embedding from this range too.
        self.embedding = nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-0.1, maxval=0.1))
        self.bias = nnx.Param(jnp.zeros(characters))
        self.recurrent = rnn.Recurrent(layer_of(recipe), recipe.embedding_size, rngs=rngs)
        self.recipe = recipe

    def __call__(self, chars: jax.Array, state: Any, key: jax.Array | None = None) -> Outputs:
        """Reads characters.

        Args:
            chars: `int[B, T]`.
            state: the state before them.
            key: the randomness of dropout; without it nothing is dropped.
        """
        recipe = self.recipe
        embedding = self.embedding[...]  # [V, E]
        seen = embedding
        if key is not None:
            of_characters, of_layers, of_outputs = jax.random.split(key, 3)
            seen = recurrax.layers.embedding_dropout(of_characters, embedding, recipe.embedding_dropout)
        xs = seen[chars]  # [B, T, E]
        if key is None:
            ys, state = self.recurrent(xs, state, deterministic=True)
            dropped = ys
        else:
            ys, state = self.recurrent(xs, state, deterministic=False, rngs=of_layers)
            last = recurrax.Dropout(recipe.output_dropout, shared=True)
            _, dropped = recurrax.scan(last, (), ys, key=of_outputs)
        logits = dropped @ embedding.T + self.bias[None, None, :]  # [B, T, V]
        return Outputs(logits, ys, dropped, state)


def optimizer_of(config: Settings) -> optax.GradientTransformation:
    """Makes the optimizer of the source: Adam, with the decay of the weights in its gradients."""
    tenths = {config.first_drop * config.eval_every: 0.1, config.second_drop * config.eval_every: 0.1}
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.adam(optax.piecewise_constant_schedule(config.rate, tenths)),
    )


# Training --------------------------------------------------------------------------------------------


class TextState(NamedTuple):
    """Everything that changes from one update to the next; a checkpoint holds it."""

    trained: TrainState
    rnn_state: Any

    @property
    def params(self) -> nnx.State:
        """The parameters."""
        return self.trained.params


class Learner:
    """The compiled functions of a run."""

    def __init__(self, config: Settings, characters: int):
        self.config = config

        def new_model() -> CharacterModel:
            return CharacterModel(config, characters, rngs=nnx.Rngs(params=config.seed, dropout=config.seed))

        self.split = Split(new_model, optimizer_of(config))

    def zero_state(self, params: nnx.State, streams: int) -> Any:
        """The state before the first character of some streams."""
        return self.split.model(params).recurrent.initial_state((streams,))

    def first_state(self) -> TextState:
        """The state before the first update."""
        trained = self.split.first_state()
        return TextState(trained, self.zero_state(trained.params, self.config.batch))

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_step(self, state: TextState, windows: jax.Array, first: jax.Array) -> tuple[TextState, jax.Array]:
        """Takes an update.

        Args:
            state: the state after the update before.
            windows: the characters, `int[B, window + 1]`.
            first: whether the windows begin with the zero state, a bool.

        Returns:
            The next state, and the mean loss of a character in nats, without the penalties.
        """
        config = self.config
        # The key follows from the number of the update, so a resumed run draws the same numbers.
        key = jax.random.fold_in(jax.random.key(config.seed), state.trained.step)
        chars = windows.astype(jnp.int32)

        def zero_if_first(leaf: jax.Array) -> jax.Array:
            return jnp.where(first, jnp.zeros_like(leaf), leaf)

        # The state enters as a constant: truncated backpropagation through time.
        rnn_state = jax.tree.map(zero_if_first, state.rnn_state)

        def loss_of(params: nnx.State) -> tuple[jax.Array, Any]:
            outputs = self.split.model(params)(chars[:, :-1], rnn_state, key)
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, chars[:, 1:])
            loss = losses.mean()
            size = recurrax.penalties.activation_penalty(outputs.dropped)
            change = recurrax.penalties.temporal_activation_penalty(outputs.ys)
            total = loss + config.activation_penalty * size + config.temporal_penalty * change
            return total, (loss, outputs.state)

        (_, (loss, rnn_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return TextState(self.split.next_state(state.trained, grads), rnn_state), loss

    @partial(jax.jit, static_argnums=0)
    def losses(self, params: nnx.State, windows: dynamic.Windows) -> jax.Array:
        """The sums of the losses of the windows `[N]`. Each stream goes on from window to window."""

        def next_window(rnn_state: Any, window: dynamic.Windows) -> tuple[Any, jax.Array]:
            loss, rnn_state = self.window_loss(params, rnn_state, window)
            return rnn_state, loss

        streams = windows.mask.shape[1]
        return jax.lax.scan(next_window, self.zero_state(params, streams), windows)[1]

    def window_loss(self, params: nnx.State, rnn_state: Any, window: dynamic.Windows) -> tuple[jax.Array, Any]:
        """The sum of the losses of one window, without dropout, and the state after it."""
        outputs = self.split.model(params)(window.chars.astype(jnp.int32), rnn_state)
        expected = window.targets.astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, expected)
        return jnp.sum(losses, where=window.mask), outputs.state

    def bits(self, params: nnx.State, part: np.ndarray, streams: int) -> float:
        """The bits per character of a part, over all its characters but the first."""
        windows = dynamic.windows_of(part, streams, self.config.window)
        losses = np.asarray(self.losses(params, windows), np.float64)
        return losses.sum() / windows.mask.sum() / math.log(2)


def train(run: TextRun, texts: Texts, *, resume: bool, adapts: bool, tests: bool) -> dict[str, Any]:
    """Trains one model, and scores the parameters of the best validation epoch on the test part.

    Args:
        run: the run folder, which takes the log, the checkpoints and the curves.
        texts: the text.
        resume: start from the last checkpoint, rather than from the first update.
        adapts: whether the parts are also scored by dynamic evaluation.
        tests: whether the test part is scored. Who chooses a recipe must not see that score.

    Returns:
        The row of the results.

    Raises:
        Stopped: after Ctrl-C or SIGTERM, when all is saved.
        UserError: if a file cannot be read or written, or the loss is no longer finite.
    """
    config, console = run.config, screen()
    learner = Learner(config, texts.characters)
    start = begin(run, learner.first_state(), resume)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(start.tree.params))
    log = Log(run.folder / LOG, start.step)

    def train_step(step: int, state: TextState) -> tuple[TextState, jax.Array]:
        windows, first = training_windows(texts.train, step, config)
        return learner.train_step(state, windows, np.array(first))

    def status(loss: float, seconds: float) -> str:
        speed = config.batch * config.window / seconds
        return f"loss {loss / math.log(2):.3f} bits/char · {speed:,.0f} chars/s"

    def validate(step: int, state: TextState) -> tuple[str, float]:
        bits = learner.bits(state.params, texts.validation, _STREAMS)
        # The log has nats, as the losses are.
        log.note(step, validation_loss=bits * math.log(2))
        return f"epoch {step // config.eval_every}: validation {bits:.4f} bits/char", bits

    def draw() -> None:
        plot(log.rows, run.folder / CURVES, f"{config.layers} × {run.text.cell} of {config.hidden_size}")

    calls: dict[str, Any] = {"train_step": train_step, "status": status, "validate": validate, "draw": draw}
    end = repeat(run, console, log, start, **calls)
    best = run.restore(BEST, end.tree.params)
    row: dict[str, Any] = {"parameters": parameters, "best_epoch": best.step // config.eval_every}
    row["validation"] = round(best.best, 4)
    if tests:
        row["test"] = round(learner.bits(best.tree, texts.test, 1), 4)
    if adapts:
        row["dynamic"] = dynamic.scores(learner, best.tree, texts, tests)
    return row | {"seconds": log.rows[-1]["seconds"]}


def train_in(
    folder: Path,
    preset: Preset,
    cell: str,
    recipe: TextRecipe,
    texts: Texts,
    seed: int,
    *,
    again: bool = False,
    adapts: bool = False,
    tests: bool = True,
) -> dict[str, Any]:
    """Begins a run, or goes on with the run that the folder holds: see `train`.

    Args:
        folder: the run folder.
        preset: the preset.
        cell: the name of the cell.
        recipe: how it is trained.
        texts: the text.
        seed: decides the first parameters and the dropout.
        again: whether an older run is lost.
        adapts: as in `train`.
        tests: as in `train`.

    Returns:
        The row of the results.

    Raises:
        Stopped: as `train`.
        UserError: as `train`, or if the folder holds a run of another recipe.
    """
    config, facts = settings(recipe, texts, seed), Facts(preset.name, cell, preset.digest)
    with Lock(folder) as lock:
        resume = TextRun.exists(folder) and not again
        if resume:
            found = TextRun.open(folder)
            if (found.config, found.text) != (config, facts):
                raise UserError(
                    f"{str(folder)!r} holds a run of another recipe. "
                    "To keep it, name another --runs; to lose it, add --again."
                )
        else:
            TextRun.clear(folder, overwrite=True)
        run = TextRun(folder, config, facts, lock)
        return train(run, texts, resume=resume, adapts=adapts, tests=tests)
