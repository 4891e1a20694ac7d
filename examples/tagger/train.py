"""Training: what one step does, and how the model is scored."""

import operator
import shlex
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from examples.char_lm.files import CURVES, LOG
from examples.char_lm.log import Log
from examples.char_lm.loop import begin, repeat
from examples.char_lm.split import Split, TrainState
from examples.char_lm.train import make_optimizer
from recurrax.data import PaddedBatch, batch_by_length

from .config import PROGRAM, Config
from .data import LENGTHS, Corpus, Encoder, Example, Facts, epoch_batches
from .model import Tagger
from .plot import confusion, plot
from .run import Run
from .sentences import Sentence
from .show import show_scores
from .spans import ALL, Score, bio_labels, score, spans_of

# The rows of a batch outside of training.
_ROWS = 64


class Learner:
    """The compiled functions that training is made of."""

    def __init__(self, config: Config, facts: Facts):
        self.config = config
        self.facts = facts
        self.split = Split(self._new_model, make_optimizer(config))

    def _new_model(self) -> Tagger:
        # `train_step` brings its own key for dropout.
        rngs = nnx.Rngs(params=self.config.seed, dropout=0)
        return Tagger(self.facts, self.config, rngs=rngs)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def train_step(
        self, state: TrainState, xs: Example, lengths: jax.Array, seed: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        """Learns from one batch; returns the next state and the loss.

        Args:
            state: the state, which is used up.
            xs: the batch; its parts are `int[B, T]`.
            lengths: the characters of each sentence, `int[B]`.
            seed: the seed of the run. It is no constant of the program, so runs with different
                seeds can share a compiled program.
        """
        # Randomness follows from the step's number alone, so a resumed run draws the same numbers.
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss_of(params: nnx.State) -> jax.Array:
            model = self.split.model(params)
            model.train()
            nnx.reseed(model, dropout=dropout_key)
            emissions = model(xs.chars, xs.pairs, lengths)
            return model.loss(emissions, xs.labels, lengths)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        return self.split.next_state(state, grads), loss

    @partial(jax.jit, static_argnums=0)
    def decode(self, params: nnx.State, xs: Example, lengths: jax.Array) -> jax.Array:
        """Returns the labels that the model gives a batch, `int[B, T]`."""
        model = self.split.model(params)
        model.eval()
        return model.decode(model(xs.chars, xs.pairs, lengths), lengths)

    def labels(self, params: nnx.State, examples: list[Example]) -> list[np.ndarray]:
        """Returns the labels that the model gives each example, `int[T]`, in their order."""
        found: list[Any] = [None] * len(examples)
        for batch in batch_by_length(examples, LENGTHS, _ROWS):
            rows = np.asarray(self.decode(params, batch.xs, batch.lengths))
            for row, length, index in zip(rows, batch.lengths, batch.indices, strict=True):
                # The last batches have rows without an example.
                if index >= 0:
                    found[index] = row[:length]
        return found

    def tag(self, params: nnx.State, texts: list[str]) -> list[Sentence]:
        """Finds the spans in texts of at most 256 characters each."""
        sentences = [Sentence(text, ()) for text in texts]
        examples = list(map(Encoder(self.facts), sentences))
        return self.labeled(sentences, self.labels(params, examples))

    def labeled(self, sentences: list[Sentence], labels: list[np.ndarray]) -> list[Sentence]:
        """Returns the sentences with the spans that the labels say."""
        names = np.array(bio_labels(self.facts.types))
        found = []
        for sentence, numbers in zip(sentences, labels, strict=True):
            spans = spans_of(names[numbers].tolist())
            found.append(Sentence(sentence.text, tuple(spans)))
        return found

    def score(self, sentences: list[Sentence], labels: list[np.ndarray]) -> dict[str, Score]:
        """Counts the spans of predicted labels, by type."""
        spans = operator.attrgetter("spans")
        predicted = self.labeled(sentences, labels)
        return score(map(spans, sentences), map(spans, predicted), self.facts.types)


class Batches:
    """The batch of each training step. A step's batch follows from the step's number alone."""

    def __init__(self, examples: list[Example], config: Config):
        """Takes the training part."""
        self.examples = examples
        self.config = config
        self._epoch = 0
        self._batches = self._draw(0)

    def __getitem__(self, step: int) -> PaddedBatch:
        """Returns the batch of a step, from 0."""
        # Each epoch has equally many batches.
        epoch, index = divmod(step, len(self._batches))
        if epoch != self._epoch:
            self._batches = self._draw(epoch)
            self._epoch = epoch
        return self._batches[index]

    def _draw(self, epoch: int) -> list[PaddedBatch]:
        draw = np.random.default_rng([self.config.seed, epoch])
        return epoch_batches(self.examples, self.config.batch, draw)


def train(run: Run, corpus: Corpus, console: Console, *, resume: bool = False) -> None:
    """Trains to the end or to a signal, and saves everything in both cases.

    Args:
        run: the run folder, which takes the log, the checkpoints and the picture.
        corpus: the data.
        console: where progress is shown.
        resume: start from the last checkpoint, rather than from the first step.

    Raises:
        Stopped: after Ctrl-C or SIGTERM.
        UserError: if a file cannot be read or written, or the loss is no longer finite.
    """
    config = run.config
    learner = Learner(config, corpus.facts)
    start = begin(run, learner.split.first_state(), resume)
    log = Log(run.folder / LOG, start.step)
    batches = Batches(corpus.train.examples, config)
    validation, types = corpus.validation, corpus.facts.types
    # The labels that the newest validation gave.
    newest: list[np.ndarray] = []
    seed = jnp.uint32(config.seed)

    def train_step(step: int, state: TrainState) -> tuple[TrainState, jax.Array]:
        batch = batches[step]
        return learner.train_step(state, batch.xs, batch.lengths, seed)

    def status(loss: float, seconds: float) -> str:
        return f"loss {loss:.4f} nats/char · {1 / seconds:.1f} steps/s"

    def validate(step: int, state: TrainState) -> tuple[str, float]:
        labels = learner.labels(state.params, validation.examples)
        newest[:] = labels
        total = learner.score(validation.sentences, labels)[ALL]
        log.note(step, f1=total.f1, precision=total.precision, recall=total.recall)
        # The lowest score is the best, and the highest F1.
        return f"step {step:,}: validation F1 {100 * total.f1:.2f} %", -total.f1

    def draw(labels: list[np.ndarray] = newest) -> None:
        # A run that stops before its first validation has nothing to draw.
        if labels:
            counts = confusion(validation.examples, labels, len(types))
            plot(log.rows, counts, types, run.folder / CURVES)

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
    labels = learner.labels(best.tree, validation.examples)
    scores = learner.score(validation.sentences, labels)
    show_scores(console, f"The validation part, by the checkpoint of step {best.step:,}", scores)
    # The picture now shows what the best checkpoint takes for what.
    draw(labels)
    console.print(
        f"This took {log.minutes()}. "
        f"The picture, log and checkpoints are in {run.folder}. To score the test part:",
        highlight=False,
    )
    folder = shlex.quote(str(run.folder))
    console.print(f"  {PROGRAM} evaluate {folder}", highlight=False, soft_wrap=True)
