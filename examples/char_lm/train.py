"""Training: what one step does, and the loop that repeats it."""

import contextlib
import json
import math
import shlex
import signal
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .config import PROGRAM, Config, UserError
from .data import Corpus
from .model import CharLM
from .plot import plot
from .run import Run
from .sample import write


class TrainState(NamedTuple):
    """Everything that changes from one step to the next; a checkpoint holds it."""

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    rnn_state: Any


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Makes AdamW behind gradient clipping.

    The learning rate rises during the warm-up. Then it follows a cosine down to a hundredth.
    """
    # The schedule needs a warm-up that is shorter than the run.
    warmup = min(config.warmup, config.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=config.steps,
        end_value=config.learning_rate / 100,
    )
    # Kernels and embeddings decay. Biases, which have one axis, do not.
    decayed = partial(jax.tree.map, lambda param: param.ndim > 1)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        # The default b2 averages over a thousand steps, too many for a short run.
        optax.adamw(rate, b2=0.99, weight_decay=config.weight_decay, mask=decayed),
    )


def stream_starts(
    step: jax.Array, size: int, batch: int, window: int
) -> tuple[jax.Array, jax.Array]:
    """Tells where the windows of a step begin.

    The text is divided into B equal streams, which are read side by side. Row b of one batch
    continues in row b of the next batch. The starts follow from the step alone, so a checkpoint
    need not hold the position of an iterator.

    Args:
        step: the number of the training step.
        size: the number of characters in the text.
        batch: B, the number of streams.
        window: the number of characters in a window.

    Returns:
        The first character of each window, `int[B]`, and whether each stream begins there.
    """
    # The last character of the text has no successor to predict.
    length = (size - 1) // batch
    window_index = step % (length // window)
    starts = jnp.arange(batch) * length + window_index * window  # [B]
    return starts, window_index == 0


def mean_loss(
    model: CharLM, text: jax.Array, starts: jax.Array, window: int, rnn_state: Any
) -> tuple[jax.Array, Any]:
    """Predicts `window` characters from each start.

    Returns:
        The mean cross-entropy of a character, in nats, and the state after the last one.
    """
    positions = starts[:, None] + jnp.arange(window + 1)[None]  # [B, window + 1]
    chars = text[positions]
    # Each character is predicted from the characters before it.
    read, expected = chars[:, :-1], chars[:, 1:]
    logits, rnn_state = model(read, rnn_state)  # [B, window, V]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, expected)
    return losses.mean(), rnn_state


class Learner:
    """The compiled functions that training is made of."""

    def __init__(self, config: Config, vocabulary_size: int):
        self.config = config
        self.vocabulary_size = vocabulary_size
        # `train_step` differentiates by the parameters alone, so they stand apart from the rest.
        parts: tuple[Any, ...] = nnx.split(self._new_model(), nnx.Param, ...)
        self.graphdef, _, self.rest = parts
        self.optimizer = make_optimizer(config)

    def _new_model(self) -> CharLM:
        rngs = nnx.Rngs(params=self.config.seed, dropout=self.config.seed)
        return CharLM(self.vocabulary_size, self.config, rngs=rngs)

    def first_state(self) -> TrainState:
        """Returns the state before the first step."""
        model = self._new_model()
        params = nnx.state(model, nnx.Param)
        rnn_state = model.initial_state(self.config.batch)
        step = jnp.zeros([], jnp.int32)
        return TrainState(step, params, self.optimizer.init(params), rnn_state)

    def model(self, params: nnx.State) -> CharLM:
        """Returns a model with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest, copy=True)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_step(self, state: TrainState, text: jax.Array) -> tuple[TrainState, jax.Array]:
        """Learns from the windows of one step; returns the next state and the loss."""
        config = self.config
        # Randomness follows from the step's number alone, so a resumed run draws the same numbers.
        step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        starts_key, dropout_key = jax.random.split(step_key)
        batch, window = config.batch, config.window
        if config.windows == "random":
            starts = jax.random.randint(starts_key, [batch], 0, text.size - window)
            first = jnp.array(True)
        else:
            starts, first = stream_starts(state.step, text.size, batch, window)

        def zero_if_first(leaf: jax.Array) -> jax.Array:
            return jnp.where(first, jnp.zeros_like(leaf), leaf)

        rnn_state = jax.tree.map(zero_if_first, state.rnn_state)

        def loss_of(params: nnx.State) -> tuple[jax.Array, Any]:
            model = self.model(params)
            model.train()
            nnx.reseed(model, dropout=dropout_key)
            # The state enters as a constant, so gradients end where the window begins.
            # The literature calls this truncated backpropagation through time.
            return mean_loss(model, text, starts, window, rnn_state)

        grads_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, rnn_state), grads = grads_of(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state, rnn_state)
        return state, loss

    @partial(jax.jit, static_argnums=0)
    def evaluate(self, params: nnx.State, text: jax.Array) -> jax.Array:
        """Returns the loss on a text that is read from its start, without dropout."""
        window = self.config.window
        predicted = text.size - 1
        # The held-out tenth of a short text has no room for a full batch of streams.
        streams = min(self.config.batch, predicted // window)
        windows = min(self.config.eval_windows, predicted // streams // window)
        model = self.model(params)
        model.eval()

        def eval_step(rnn_state: Any, step: jax.Array) -> tuple[Any, jax.Array]:
            starts, _ = stream_starts(step, text.size, streams, window)
            loss, rnn_state = mean_loss(model, text, starts, window, rnn_state)
            return rnn_state, loss

        first_state = model.initial_state(streams)
        _, losses = jax.lax.scan(eval_step, first_state, jnp.arange(windows))
        return losses.mean()


class CtrlC:
    """Lets the running step end, so that its state can be saved. A second Ctrl-C stops at once."""

    asked = False

    def __enter__(self) -> "CtrlC":
        self.previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Log:
    """The log of a run, in its file and in memory."""

    def __init__(self, run: Run, step: int):
        """Opens the log of a run that goes on after `step`."""
        # A killed run may have logged steps after its last checkpoint. They are logged again.
        self.rows = run.truncate_log(step)
        self._file = (run.folder / "log.jsonl").open("a", encoding="utf-8")
        self._began = time.monotonic()
        # The clock of a resumed run continues.
        if self.rows:
            self._began -= self.rows[-1]["seconds"]

    def note(self, step: int, **values: float) -> None:
        """Adds a line."""
        seconds = round(time.monotonic() - self._began, 3)
        row = {"step": step, **values, "seconds": seconds}
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")

    def lowest_validation_loss(self) -> float:
        """Returns the lowest validation loss so far; infinity if there is none."""
        lowest = math.inf
        for row in self.rows:
            lowest = min(lowest, row.get("validation_loss", math.inf))
        return lowest

    def flush(self) -> None:
        """Makes sure that a kill loses no line."""
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def train(run: Run, corpus: Corpus, console: Console, *, resume: bool = False) -> bool:
    """Trains to the end or to a Ctrl-C, and saves everything in both cases.

    Args:
        run: the run folder, which takes the log, the checkpoints and the curves.
        corpus: the text.
        console: where progress is shown.
        resume: start from the last checkpoint, rather than from the first step.

    Returns:
        Whether the end was reached.

    Raises:
        UserError: if the checkpoint cannot be used, or the loss is no longer finite.
    """
    config = run.config
    learner = Learner(config, len(corpus.vocabulary))
    step, state = 0, learner.first_state()
    if resume:
        step, state = run.restore("last", state)
    else:
        # A run that stops before its first checkpoint can be resumed too.
        run.save("last", step, state)
    text, held_out = jnp.asarray(corpus.train), jnp.asarray(corpus.validation)
    log = Log(run, step)
    best = log.lowest_validation_loss()

    def due(every: int) -> bool:
        return step % every == 0 or step == config.steps

    def show_sample(params: nnx.State, title: str) -> None:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        model = learner.model(params)
        chunks = write(model, corpus.vocabulary, length=400, temperature=0.8, key=key)
        sample = Text("".join(chunk[0] for chunk in chunks))
        panel = Panel(sample, title=title, title_align="left", border_style="dim")
        console.print(panel)

    progress = Progress(
        MofNCompleteColumn(),
        BarColumn(None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        console=console,
    )
    with contextlib.closing(log), progress, CtrlC() as ctrl_c:
        task = progress.add_task("compiling", total=config.steps, completed=step)
        seconds_per_step = math.inf
        stopping = False
        while step < config.steps and not stopping:
            before = time.monotonic()
            state, loss_array = learner.train_step(state, text)
            # JAX computes in the background. Reading the loss waits until the step is complete.
            loss = float(loss_array)
            step += 1
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is no longer finite at step {step}; "
                    f"{str(run.folder)!r} keeps what came before. "
                    "Begin again with a lower --learning-rate."
                )
            log.note(step, loss=loss)

            seconds = time.monotonic() - before
            # The time of one step is noisy, so it is averaged. The first step also compiles: when
            # the average is far above the newest time, it begins again.
            if seconds_per_step < 10 * seconds:
                seconds_per_step = 0.95 * seconds_per_step + 0.05 * seconds
            else:
                seconds_per_step = seconds
            speed = config.batch * config.window / seconds_per_step
            bits = f"{_bits(loss):.3f} bits/char"
            status = f"loss {loss:.3f} · {bits} · {speed:,.0f} chars/s"
            progress.update(task, completed=step, description=status)
            stopping = ctrl_c.asked

            if due(config.eval_every):
                validation = float(learner.evaluate(state.params, held_out))
                log.note(step, validation_loss=validation)
                bits = f"{_bits(validation):.3f} bits/char"
                status = f"step {step:,}: validation {bits}"
                if validation < best:
                    best = validation
                    status += ", the best so far"
                    run.save("best", step, state.params)
                console.print(status, highlight=False)
            # The end of the run shows a sample of the best checkpoint instead.
            if due(config.sample_every) and step < config.steps:
                show_sample(state.params, f"written after step {step:,}")
            if due(config.checkpoint_every) or stopping:
                # The log must hold every step up to the checkpoint.
                log.flush()
                run.save("last", step, state)

    folder = shlex.quote(str(run.folder))
    if step < config.steps:
        message = f"Stopped after step {step:,} of {config.steps:,}; all is saved. To go on:"
        console.print(message, highlight=False)
        console.print(f"  {PROGRAM} resume {folder}", highlight=False, soft_wrap=True)
        return False

    title = f"{config.layers} × {config.cell} of {config.hidden_size}"
    plot(log.rows, run.folder / "curves.png", title)
    best_step, params = run.restore("best", state.params)
    show_sample(params, f"written by the best checkpoint, of step {best_step:,}")
    minutes, seconds = divmod(round(log.rows[-1]["seconds"]), 60)
    console.print(
        f"Validation {_bits(best):.3f} bits per character (loss {best:.4f}) "
        f"at step {best_step:,}, after {minutes} min {seconds} s. "
        f"Curves, log and checkpoints are in {run.folder}. To let it write more:",
        highlight=False,
    )
    console.print(f"  {PROGRAM} sample {folder}", highlight=False, soft_wrap=True)
    return True


def _bits(nats: float) -> float:
    return nats / math.log(2)
