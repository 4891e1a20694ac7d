"""The network: embedding, stacked recurrent layers, logits."""

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax import nnx as rnn

from .config import Config

LAYERS = {"rnn": rnn.RNN, "lstm": rnn.LSTM, "gru": rnn.GRU}


class CharLM(nnx.Module):
    """Predicts each next character of a text from those before it.

    Example:
        >>> model = CharLM(65, Config(cell="gru"), rngs=nnx.Rngs(0))
        >>> logits, state = model(jnp.zeros([8, 100], jnp.int32))  # 8 streams, 100 characters of each
        >>> logits.shape
        (8, 100, 65)
        >>> logits, state = model(jnp.zeros([8, 100], jnp.int32), state)  # the next 100
    """

    def __init__(self, vocabulary_size: int, config: Config, *, rngs: nnx.Rngs):
        """Makes the parameters."""
        self.embedding = nnx.Embed(vocabulary_size, config.embedding_size, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.recurrent = LAYERS[config.cell](
            config.embedding_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            dropout=config.dropout,
            rngs=rngs,
        )
        self.logits = nnx.Linear(config.hidden_size, vocabulary_size, rngs=rngs)

    def __call__(self, chars: jax.Array, state=None) -> tuple[jax.Array, jax.Array | tuple[jax.Array, ...]]:
        """Reads characters, going on from `state`.

        Args:
            chars: `int[B, T]`, or `int[T]` for a single stream.
            state: what an earlier call returned; None at the start of a text.

        Returns:
            The logits of each following character, `[B, T, V]`, and the state after the last one.
        """
        xs = self.dropout(self.embedding(chars))
        ys, state = self.recurrent(xs, state)
        return self.logits(self.dropout(ys)), state

    def initial_state(self, *batch: int):
        """The zero state of `batch` streams, or of a single one, for loops that need a state to begin with."""
        shapes = nnx.eval_shape(lambda model: model(jnp.zeros([*batch, 1], jnp.int32))[1], self)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
