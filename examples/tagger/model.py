"""The network: embeddings, bidirectional LSTM, a score of each label, and the CRF."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import recurrax
from recurrax import nnx as rnn

from .config import Config
from .data import Facts
from .spans import bio_labels


class Tagger(nnx.Module):
    """Gives each character of a sentence a label.

    Example:
        >>> facts = Facts("", "", ["PER", "LOC"], chars="abc", pairs="abbc")
        >>> model = Tagger(facts, Config(crf=False), rngs=nnx.Rngs(params=0, dropout=1))
        >>> chars = pairs = jnp.zeros([8, 32], jnp.int32)  # 8 sentences
        >>> lengths = jnp.full([8], 20)
        >>> emissions = model(chars, pairs, lengths)
        >>> emissions.shape
        (8, 32, 5)
        >>> model.decode(emissions, lengths).shape
        (8, 32)
    """

    def __init__(self, facts: Facts, config: Config, *, rngs: nnx.Rngs):
        """Makes the parameters."""
        labels = bio_labels(facts.types)
        # Number 0 stands for everything unknown.
        self.chars = nnx.Embed(len(facts.chars) + 1, config.char_size, rngs=rngs)
        features = config.char_size
        self.pairs: nnx.Embed | None
        if config.pairs:
            known = len(facts.pairs) // 2
            self.pairs = nnx.Embed(known + 1, config.pair_size, rngs=rngs)
            features += config.pair_size
        else:
            self.pairs = None
        # A feature is dropped at all steps of a sentence or at none.
        self.dropout = nnx.Dropout(config.dropout, broadcast_dims=(1,), rngs=rngs)
        self.recurrent = rnn.LSTM(
            features,
            config.hidden_size,
            config.layers,
            batch_first=True,
            bidirectional=True,
            return_state=False,
            rngs=rngs,
        )
        self.emissions = nnx.Linear(2 * config.hidden_size, len(labels), rngs=rngs)
        self.crf: rnn.CRF | None
        if config.crf:
            # I-PER never follows O, or a label of another type.
            allowed = recurrax.losses.crf.bio_constraints(labels)
            self.crf = rnn.CRF(len(labels), allowed=allowed, rngs=rngs)
        else:
            self.crf = None

    def __call__(self, chars: jax.Array, pairs: jax.Array, lengths: jax.Array) -> jax.Array:
        """Scores each label at each character by itself.

        Args:
            chars: the numbers of the characters, `int[B, T]`.
            pairs: the numbers of the pairs, `int[B, T]`.
            lengths: the characters of each sentence, `int[B]`.

        Returns:
            The scores, which are called emissions: `[B, T, L]` for L labels.
        """
        xs = self.chars(chars)  # [B, T, char_size]
        if self.pairs is not None:
            xs = jnp.concatenate([xs, self.pairs(pairs)], axis=-1)
        ys = self.recurrent(self.dropout(xs), lengths=lengths)  # [B, T, 2 * hidden_size]
        return self.emissions(self.dropout(ys))

    def loss(self, emissions: jax.Array, labels: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns the negative log-likelihood of the labels, in nats per character."""
        if self.crf is not None:
            losses = -self.crf.log_likelihood(emissions, labels, lengths=lengths)  # [B]
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(emissions, labels)  # [B, T]
            mask = recurrax.lengths_to_mask(lengths, labels.shape[1])
            losses = jnp.where(mask, losses, 0.0)
        return losses.sum() / lengths.sum().astype(losses.dtype)

    def decode(self, emissions: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns the labels with the highest score, `int[B, T]`."""
        if self.crf is not None:
            labels, _ = self.crf.viterbi(emissions, lengths=lengths)
            return labels
        return emissions.argmax(axis=-1)
