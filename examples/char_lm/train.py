"""Training: what one step does, and how the model is scored."""

import math
import shlex
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from .config import PROGRAM, Config
from .data import Corpus, training_windows, validation_windows
from .devices import ALONE, Devices
from .events import Events
from .expect import product_weights
from .files import BEST, CURVES, EVENTS, LOG, REPORT, SESSIONS
from .log import Log
from .loop import begin, repeat
from .machine import note_session, product_rate, read_sessions, speed
from .model import CharLM
from .plot import plot
from .report import write_report
from .run import Run
from .sample import draw_sample, printable


class TrainState(NamedTuple):
    """Everything that changes from one step to the next; a checkpoint holds it."""

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    rnn_state: Any


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Makes AdamW behind gradient clipping.

    The learning rate rises during the warm-up. Then it follows a cosine down to a hundredth.

    Args:
        config: the settings of a program. They have `steps`, `warmup`, `learning_rate`, `clip` and
            `weight_decay`.
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


def mean_loss(model: CharLM, windows: jax.Array, rnn_state: Any) -> tuple[jax.Array, Any]:
    """Predicts all characters of some windows but the first.

    Args:
        model: the network.
        windows: characters, `int[B, window + 1]`.
        rnn_state: the state before them.

    Returns:
        The mean cross-entropy of a character, in nats, and the state after the windows.
    """
    chars = windows.astype(jnp.int32)
    # Each character is predicted from the characters before it.
    read, expected = chars[:, :-1], chars[:, 1:]  # [B, window]
    logits, rnn_state = model(read, rnn_state)  # [B, window, V]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, expected)
    return losses.mean(), rnn_state


class Learner:
    """The compiled functions that training is made of."""

    def __init__(self, config: Config, vocabulary_size: int, devices: Devices = ALONE):
        self.config = config
        self.devices = devices
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
    def train_step(
        self, state: TrainState, windows: jax.Array, first: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Learns from the windows of one step.

        Args:
            state: the state after the step before.
            windows: the characters `int[B, window + 1]`.
            first: whether the windows begin with the zero state, a bool.

        Returns:
            The next state, the loss, and the norm of all gradients before they are clipped.
        """
        # Randomness follows from the step's number alone, so a resumed run draws the same numbers.
        dropout_key = jax.random.fold_in(jax.random.key(self.config.seed), state.step)

        def zero_if_first(leaf: jax.Array) -> jax.Array:
            return jnp.where(first, jnp.zeros_like(leaf), leaf)

        rnn_state = jax.tree.map(zero_if_first, state.rnn_state)

        def loss_of(params: nnx.State) -> tuple[jax.Array, Any]:
            model = self.model(params)
            model.train()
            nnx.reseed(model, dropout=dropout_key)
            # The state enters as a constant, so gradients end where the window begins.
            # The literature calls this truncated backpropagation through time.
            return mean_loss(model, windows, rnn_state)

        grads_of = jax.value_and_grad(loss_of, has_aux=True)
        (loss, rnn_state), grads = grads_of(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state, rnn_state)
        measured = {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
        measured = jax.tree.map(self.devices.keep_scalar, measured)
        return self.devices.keep_state(state), measured

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_steps(
        self, state: TrainState, windows: jax.Array, first: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes several steps: windows `int[N, B, window + 1]`, first `bool[N]`, losses `[N]`."""

        def next_step(state: TrainState, inputs: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            return self.train_step(state, *inputs)

        return jax.lax.scan(next_step, state, (windows, first))

    @partial(jax.jit, static_argnums=0)
    def evaluate(self, params: nnx.State, windows: jax.Array) -> jax.Array:
        """Returns the loss on the windows of a validation `int[N, B, window + 1]`, without dropout.

        The windows with one index b follow each other, so the state goes from each to the next.
        """
        model = self.model(params)
        model.eval()

        def eval_step(rnn_state: Any, windows: jax.Array) -> tuple[Any, jax.Array]:
            loss, rnn_state = mean_loss(model, windows, rnn_state)
            return rnn_state, loss

        first_state = model.initial_state(windows.shape[1])
        _, losses = jax.lax.scan(eval_step, first_state, windows)
        return self.devices.keep_scalar(losses.mean())


def steps_at_once(step: int, config: Config) -> int:
    """Tells how many steps the device takes after `step`: all of a dispatch, or a single one.

    No validation, checkpoint or sample falls inside. The number follows from the step alone, so
    a resumed run takes the same steps together.
    """
    left = config.steps - step
    for every in (config.eval_every, config.checkpoint_every, config.sample_every):
        left = min(left, every - step % every)
    if left < config.steps_per_dispatch:
        return 1
    return config.steps_per_dispatch


def train(
    run: Run,
    corpus: Corpus,
    console: Console,
    *,
    resume: bool = False,
    devices: Devices = ALONE,
) -> None:
    """Trains to the end or to a signal, and saves everything in both cases.

    Args:
        run: the run folder, which takes the log, the checkpoints and the curves.
        corpus: the text.
        console: where progress is shown.
        resume: start from the last checkpoint, rather than from the first step.
        devices: the devices and processes that train.

    Raises:
        Stopped: after Ctrl-C or SIGTERM.
        UserError: if a file cannot be read or written, or the loss is no longer finite.
    """
    config, vocabulary = run.config, run.text.vocabulary
    learner = Learner(config, len(vocabulary), devices)
    start = begin(run, learner.first_state(), resume, devices)
    start = start._replace(tree=devices.place_state(start.tree))
    held_out = validation_windows(corpus.validation, config)
    held_out = devices.place_rows(jnp.asarray(held_out))
    with devices.together():
        log = Log(run.folder / LOG, start.step, writes=devices.leads)
        if devices.leads and start.step < config.steps:
            # Several devices share a machine in many ways, so their rate is not measured.
            rate = None
            if devices.mesh is None:
                rate = product_rate(config.dtype)
            note_session(run.folder / SESSIONS, start.step, rate)
        if devices.leads and config.tensorboard:
            log.followers.append(Events(run.folder / EVENTS, log.rows).add)

    def show_sample(step: int, params: nnx.State, title: str) -> str:
        sample = draw_sample(learner.model(params), vocabulary, config, step)
        text = Text(printable(sample))
        console.print(Panel(text, title=title, title_align="left", border_style="dim"))
        return sample

    def train_step(step: int, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        count = steps_at_once(step, config)
        if count == 1:
            windows, first = training_windows(corpus.train, step, config)
            return learner.train_step(state, devices.place_rows(windows), np.array(first))
        parts = [training_windows(corpus.train, step + i, config) for i in range(count)]
        windows = np.stack([windows for windows, _ in parts])  # [N, B, window + 1]
        firsts = np.array([first for _, first in parts])
        return learner.train_steps(state, devices.place_rows(windows), firsts)

    def status(loss: float, seconds: float) -> str:
        speed = config.batch * config.window / seconds
        return f"loss {loss:.3f} · {_bits(loss):.3f} bits/char · {speed:,.0f} chars/s"

    def validate(step: int, state: TrainState) -> tuple[str, float]:
        loss = float(learner.evaluate(state.params, held_out))
        log.note(step, validation_loss=loss)
        return f"step {step:,}: validation {_bits(loss):.3f} bits/char", loss

    def show(step: int, state: TrainState) -> None:
        # All processes gather the parameters; the first one writes.
        params = devices.gather(state.params)
        if devices.leads:
            log.note(step, sample=show_sample(step, params, f"written after step {step:,}"))

    def draw() -> None:
        if not devices.leads:
            return
        title = f"{config.layers} × {config.cell} of {config.hidden_size}"
        plot(log.rows, run.folder / CURVES, title)

    end = repeat(
        run,
        console,
        log,
        start,
        train_step=train_step,
        status=status,
        validate=validate,
        show=show,
        show_every=config.sample_every,
        draw=draw,
        devices=devices,
    )
    if not devices.leads:
        return
    best = run.restore(BEST, end.tree.params)
    title = f"written by the best checkpoint, of step {best.step:,}"
    show_sample(config.steps, best.tree, title)
    weights = product_weights(len(vocabulary), config)
    sessions = read_sessions(run.folder / SESSIONS)
    console.print(speed(log.rows, sessions, weights, config), highlight=False)
    if config.report:
        write_report(run, corpus, best, learner.model(best.tree))
        console.print(f"Report: {run.folder / REPORT}", highlight=False, soft_wrap=True)
    console.print(
        f"Validation {_bits(best.best):.3f} bits per character (loss {best.best:.4f}) "
        f"at step {best.step:,}, after {log.minutes()}. "
        f"Curves, log and checkpoints are in {run.folder}. To let it write more:",
        highlight=False,
    )
    folder = shlex.quote(str(run.folder))
    console.print(f"  {PROGRAM} sample {folder}", highlight=False, soft_wrap=True)


def _bits(nats: float) -> float:
    return nats / math.log(2)
