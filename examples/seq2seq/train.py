"""Training: what one step does, and how the model is scored."""

import math
import shlex
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

from examples.char_lm.files import CURVES, LOG
from examples.char_lm.log import Log
from examples.char_lm.loop import begin, repeat
from examples.char_lm.split import Split, TrainState
from examples.char_lm.train import make_optimizer

from .config import PROGRAM, Config
from .dates import Corpus, Dates, decode_source, decode_target, in_many_forms
from .model import Translator
from .plot import plot_attention, plot_curves
from .run import Run

# The rows that are scored at once.
_ROWS = 250


class Learner:
    """The compiled functions that training is made of."""

    def __init__(self, config: Config):
        self.config = config
        self.split = Split(self._new_model, make_optimizer(config))

    def _new_model(self) -> Translator:
        return Translator(self.config, rngs=nnx.Rngs(self.config.seed))

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_step(self, state: TrainState, dates: Dates) -> tuple[TrainState, jax.Array]:
        """Learns from a batch that is drawn from `dates`; returns the next state and the loss."""
        config = self.config
        # Randomness follows from the step's number alone, so a resumed run draws the same numbers.
        step_key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        batch_key, observed_key, draw_key = jax.random.split(step_key, 3)
        rows = jax.random.randint(batch_key, [config.batch], 0, len(dates.lengths))
        batch = jax.tree.map(lambda part: part[rows], dates)

        # Scheduled sampling: first the decoder reads the targets alone, which teaches fast. Later
        # it reads some characters of its own, as it must when there is no target.
        progress = state.step / config.steps
        share = config.sampling * jnp.minimum(2 * progress, 1.0)
        observed = jax.random.uniform(observed_key, batch.targets.shape) >= share  # [B, 11]

        def loss_of(params: nnx.State) -> jax.Array:
            model = self.split.model(params)
            logits = model(batch.sources, batch.lengths, batch.targets, observed, draw_key)
            return _cross_entropy(logits, batch.targets).mean()

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return self.split.next_state(state, grads), loss

    @partial(jax.jit, static_argnums=0)
    def evaluate(self, params: nnx.State, dates: Dates) -> tuple[jax.Array, jax.Array]:
        """Returns the loss of each date `[N]`, and its greedy translation `int[N, 11]`."""
        model = self.split.model(params)
        logits = model(dates.sources, dates.lengths, dates.targets)
        losses = _cross_entropy(logits, dates.targets).mean(axis=-1)
        return losses, model.greedy(dates.sources, dates.lengths)

    @partial(jax.jit, static_argnums=0)
    def search(
        self, params: nnx.State, sources: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Translates by beam search: the texts `int[N, 11]` and their log-probabilities `[N]`."""
        return self.split.model(params).search(sources, lengths, self.config.beam)

    @partial(jax.jit, static_argnums=0)
    def attention(
        self, params: nnx.State, sources: jax.Array, lengths: jax.Array, targets: jax.Array
    ) -> jax.Array:
        """Returns how much each character of the targets reads of the sources, `[N, 11, S]`."""
        return self.split.model(params).attention(sources, lengths, targets)


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The loss of each character, `[N, 11]`, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


class Scores(NamedTuple):
    """How well a model translates: the loss of a character, and the shares without a fault."""

    loss: float
    greedy: float
    beam: float


def parts_of(dates: Dates) -> Iterator[Dates]:
    """Divides dates into parts that are scored at once."""
    for start in range(0, len(dates.lengths), _ROWS):
        yield Dates(*(part[start : start + _ROWS] for part in dates))


def score(learner: Learner, params: nnx.State, dates: Dates, beams: bool = True) -> Scores:
    """Scores a model on dates. Without `beams` there is no beam search, which is slower."""
    losses, exact, exact_beams = [], [], []
    for part in parts_of(dates):
        loss, greedy = learner.evaluate(params, part)
        losses.append(np.asarray(loss))
        exact.append(_exact(greedy, part))
        if beams:
            found, _ = learner.search(params, part.sources, part.lengths)
            exact_beams.append(_exact(found, part))
    beam = math.nan
    if beams:
        beam = float(np.concatenate(exact_beams).mean())
    loss, greedy = np.concatenate(losses).mean(), np.concatenate(exact).mean()
    return Scores(float(loss), float(greedy), beam)


def _exact(found: jax.Array, dates: Dates) -> np.ndarray:
    """Whether each translation has no fault, `bool[N]`."""
    return (np.asarray(found) == dates.targets).all(axis=-1)


def train(run: Run, corpus: Corpus, console: Console, *, resume: bool = False) -> None:
    """Trains to the end or to a signal, and saves everything in both cases.

    Args:
        run: the run folder, which takes the log, the checkpoints and the pictures.
        corpus: the dates.
        console: where progress is shown.
        resume: start from the last checkpoint, rather than from the first step.

    Raises:
        Stopped: after Ctrl-C or SIGTERM.
        UserError: if a file cannot be read or written, or the loss is no longer finite.
    """
    config = run.config
    learner = Learner(config)
    start = begin(run, learner.split.first_state(), resume)
    dates = jax.tree.map(jnp.asarray, corpus.train)
    log = Log(run.folder / LOG, start.step)

    def train_step(step: int, state: TrainState) -> tuple[TrainState, jax.Array]:
        return learner.train_step(state, dates)

    def status(loss: float, seconds: float) -> str:
        return f"loss {loss:.4f} · {config.batch / seconds:,.0f} dates/s"

    def validate(step: int, state: TrainState) -> tuple[str, float]:
        scores = score(learner, state.params, corpus.validation, beams=False)
        log.note(step, validation_loss=scores.loss, exact=scores.greedy)
        share = f"{100 * scores.greedy:.1f} % of dates without a fault"
        return f"step {step:,}: loss {scores.loss:.4f}, {share}", scores.loss

    def draw() -> None:
        plot_curves(log.rows, run.folder / CURVES, _title(config))

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
    best = run.restore("best", end.tree.params)
    params = best.tree
    # A day with many different digits makes the clearest picture.
    target = max(corpus.validation.targets, key=lambda target: len(set(target.tolist())))
    shown = in_many_forms(target)
    weights = learner.attention(params, shown.sources, shown.lengths, shown.targets)
    plot_attention(shown, np.asarray(weights), run.folder / "attention.png")
    show_translations(console, learner, params, corpus.validation)
    show_scores(console, "Validation", score(learner, params, corpus.validation), config.beam)
    console.print(
        f"By the checkpoint of step {best.step:,}, after {log.minutes()}. "
        f"The pictures, log and checkpoints are in {run.folder}. To translate more:",
        highlight=False,
    )
    folder = shlex.quote(str(run.folder))
    text = shlex.quote("Thursday, 24 November 2026")
    line = f"  {PROGRAM} translate {folder} --text {text}"
    console.print(line, highlight=False, soft_wrap=True)


def _title(config: Config) -> str:
    attention = config.attention.capitalize()
    return f"{attention}'s attention, decoder of {config.decoder_size}"


def show_scores(console: Console, part: str, scores: Scores, beam: int) -> None:
    """Prints the scores of a part of the dates."""
    console.print(
        f"{part} part, without a fault: [bold]{100 * scores.greedy:.1f} %[/] greedy, "
        f"[bold]{100 * scores.beam:.1f} %[/] with {beam} beams.",
        highlight=False,
    )


def show_translations(console: Console, learner: Learner, params: nnx.State, dates: Dates) -> None:
    """Prints the translations of eight dates, with the faults in red."""
    # The number of rows is the number for scoring, so the search is compiled once.
    part = next(parts_of(dates))
    found, log_probs = learner.search(params, part.sources, part.lengths)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("source")
    table.add_column("translation")
    table.add_column("probability", justify="right")
    for row, log_prob in enumerate(np.asarray(log_probs)[:8]):
        got, expected = decode_target(np.asarray(found[row])), decode_target(dates.targets[row])
        text = f"[green]{got}[/]"
        if got != expected:
            text = f"[bold red]{got}[/], not {expected}"
        table.add_row(decode_source(dates.sources[row]), text, f"{math.exp(log_prob):.3f}")
    console.print(table)
