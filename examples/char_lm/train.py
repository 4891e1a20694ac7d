"""Training: what one step does, and the loop around it."""

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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .config import PROGRAM, Config, UserError
from .data import Corpus
from .model import CharLM
from .plot import plot
from .run import Run
from .sample import write


class TrainState(NamedTuple):
    """All that changes from one step to the next, hence all that a checkpoint holds."""

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    rnn_state: Any


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """AdamW after clipping; the learning rate warms up, then follows a cosine down to a hundredth."""
    warmup = min(config.warmup, config.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=config.steps,
        end_value=config.learning_rate / 100,
    )
    kernels = partial(jax.tree.map, lambda param: param.ndim > 1)
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        # A short run cannot wait for the thousand steps that the default b2 averages over.
        optax.adamw(rate, b2=0.99, weight_decay=config.weight_decay, mask=kernels),
    )


def stream_starts(step: jax.Array, size: int, batch: int, window: int) -> tuple[jax.Array, jax.Array]:
    """Where the windows of a step begin, `int[B]`, and whether they are the first of their streams.

    The text is cut into B equal streams, read side by side: row b of one batch goes on in row b of the next. The place
    is a function of the step, so there is no iterator whose position a checkpoint would have to hold.
    """
    length = (size - 1) // batch
    at = step % (length // window)
    return jnp.arange(batch) * length + at * window, at == 0


def mean_loss(model: CharLM, text: jax.Array, starts: jax.Array, window: int, rnn_state: Any) -> tuple[jax.Array, Any]:
    """Cross-entropy of predicting `window` characters from each start, in nats each, and the state after them."""
    chars = text[starts[:, None] + jnp.arange(window + 1)[None]]
    logits, rnn_state = model(chars[:, :-1], rnn_state)
    return optax.softmax_cross_entropy_with_integer_labels(logits, chars[:, 1:]).mean(), rnn_state


class Learner:
    """The compiled functions that training is made of."""

    def __init__(self, config: Config, vocabulary_size: int):
        self.config, self.vocabulary_size = config, vocabulary_size
        parts: tuple[Any, ...] = nnx.split(self._new_model(), nnx.Param, ...)
        self.graphdef, _, self.rest = parts
        self.optimizer = make_optimizer(config)

    def _new_model(self) -> CharLM:
        rngs = nnx.Rngs(params=self.config.seed, dropout=self.config.seed)
        return CharLM(self.vocabulary_size, self.config, rngs=rngs)

    def first_state(self) -> TrainState:
        """The state before the first step."""
        model = self._new_model()
        params = nnx.state(model, nnx.Param)
        rnn_state = model.initial_state(self.config.batch)
        return TrainState(jnp.zeros([], jnp.int32), params, self.optimizer.init(params), rnn_state)

    def model(self, params: nnx.State) -> CharLM:
        """The model with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest, copy=True)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_step(self, state: TrainState, text: jax.Array) -> tuple[TrainState, jax.Array]:
        """Learns from the windows of one step; returns the next state and the loss."""
        config = self.config
        # Randomness follows from the step's number alone: a resumed run draws what the first would have drawn.
        for_starts, for_dropout = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), state.step))
        if config.windows == "random":
            starts = jax.random.randint(for_starts, [config.batch], 0, text.size - config.window)
            first = jnp.array(True)
        else:
            starts, first = stream_starts(state.step, text.size, config.batch, config.window)
        # Gradients end where a window begins, as the state enters as a constant: truncated backpropagation.
        rnn_state = jax.tree.map(lambda leaf: jnp.where(first, jnp.zeros_like(leaf), leaf), state.rnn_state)

        def loss_of(params: nnx.State) -> tuple[jax.Array, Any]:
            model = self.model(params)
            model.train()
            nnx.reseed(model, dropout=for_dropout)
            return mean_loss(model, text, starts, config.window, rnn_state)

        (loss, rnn_state), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, rnn_state), loss

    @partial(jax.jit, static_argnums=0)
    def evaluate(self, params: nnx.State, text: jax.Array) -> jax.Array:
        """The loss on a text that is read from its start, without dropout."""
        # A short text has no room for a full batch of streams in its held-out tenth.
        window = self.config.window
        streams = min(self.config.batch, (text.size - 1) // window)
        windows = min(self.config.eval_windows, (text.size - 1) // streams // window)
        model = self.model(params)
        model.eval()

        def eval_step(rnn_state: Any, step: jax.Array) -> tuple[Any, jax.Array]:
            starts, _ = stream_starts(step, text.size, streams, window)
            loss, rnn_state = mean_loss(model, text, starts, window, rnn_state)
            return rnn_state, loss

        return jax.lax.scan(eval_step, model.initial_state(streams), jnp.arange(windows))[1].mean()


class _CtrlC:
    """Lets the running step end, so that there is a state to save; a second Ctrl-C stops at once."""

    asked = False

    def __enter__(self) -> "_CtrlC":
        self.previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.previous)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def train(run: Run, corpus: Corpus, console: Console, *, resume: bool = False) -> bool:
    """Trains to the end or to a Ctrl-C; either way, all is saved.

    Args:
        run: the run folder, which takes the log, the checkpoints and the curves.
        corpus: the text.
        console: where progress is shown.
        resume: go on from the last checkpoint, rather than from the first step.

    Returns:
        Whether the end was reached.

    Raises:
        UserError: if the checkpoint cannot be used, or the loss is no longer finite.
    """
    config, step = run.config, 0
    learner = Learner(config, len(corpus.vocabulary))
    state = learner.first_state()
    if resume:
        step, state = run.restore("last", state)
    else:
        run.save("last", step, state)
    rows = run.cut_log(step)
    best = min((row["validation_loss"] for row in rows if "validation_loss" in row), default=math.inf)
    text, held_out = jnp.asarray(corpus.train), jnp.asarray(corpus.validation)

    def show_sample(params: nnx.State, title: str) -> None:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        sample = "".join(write(learner.model(params), corpus.vocabulary, length=400, temperature=0.8, key=key))
        console.print(Panel(Text(sample), title=title, title_align="left", border_style="dim"))

    columns = MofNCompleteColumn(), BarColumn(None), TextColumn("{task.description}"), TimeRemainingColumn(compact=True)
    log = (run.folder / "log.jsonl").open("a", encoding="utf-8")
    with log, Progress(*columns, console=console) as progress, _CtrlC() as ctrl_c:
        task = progress.add_task("compiling", total=config.steps, completed=step)
        began = time.monotonic() - (rows[-1]["seconds"] if rows else 0.0)
        per_step, stopping = math.inf, False

        def note(**row: Any) -> None:
            rows.append({"step": step, **row, "seconds": round(time.monotonic() - began, 3)})
            log.write(json.dumps(rows[-1]) + "\n")

        def due(every: int) -> bool:
            return step % every == 0 or step == config.steps

        while step < config.steps and not stopping:
            before = time.monotonic()
            state, loss = learner.train_step(state, text)
            loss, step = float(loss), step + 1
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss is no longer finite at step {step}; {str(run.folder)!r} keeps what came before. "
                    "Begin again with a lower --learning-rate."
                )
            note(loss=loss)
            # The first call compiles, so its time says nothing; single later ones are noisy.
            took = time.monotonic() - before
            per_step = 0.95 * per_step + 0.05 * took if per_step < 10 * took else took
            speed = config.batch * config.window / per_step
            status = f"loss {loss:.3f} · {loss / math.log(2):.3f} bits/char · {speed:,.0f} chars/s"
            progress.update(task, completed=step, description=status)
            stopping = ctrl_c.asked
            if due(config.eval_every):
                validation = float(learner.evaluate(state.params, held_out))
                note(validation_loss=validation)
                status = f"step {step:,}: validation {validation / math.log(2):.3f} bits/char"
                if validation < best:
                    best, status = validation, status + ", the best so far"
                    run.save("best", step, state.params)
                console.print(status, highlight=False)
            if due(config.sample_every) and step < config.steps:
                show_sample(state.params, f"written after step {step:,}")
            if due(config.checkpoint_every) or stopping:
                log.flush()
                run.save("last", step, state)

    again = shlex.quote(str(run.folder))
    if step < config.steps:
        console.print(f"Stopped after step {step:,} of {config.steps:,}; all is saved. To go on:", highlight=False)
        console.print(f"  {PROGRAM} resume {again}", highlight=False, soft_wrap=True)
        return False
    plot(rows, run.folder / "curves.png", f"{config.layers} × {config.cell} of {config.hidden_size}")
    best_step, params = run.restore("best", state.params)
    show_sample(params, f"written by the best checkpoint, of step {best_step:,}")
    minutes, seconds = divmod(round(rows[-1]["seconds"]), 60)
    console.print(
        f"Validation {best / math.log(2):.3f} bits per character (loss {best:.4f}) at step {best_step:,}, "
        f"after {minutes} min {seconds} s. Curves, log and checkpoints are in {run.folder}. To let it write more:",
        highlight=False,
    )
    console.print(f"  {PROGRAM} sample {again}", highlight=False, soft_wrap=True)
    return True
