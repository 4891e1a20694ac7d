"""The network: embedding, stacked recurrent layers, logits."""

from typing import Any

import jax
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
        # The default's rows are so short that the network would spend its first hundreds of steps on stretching them.
        stretched = nnx.initializers.normal(1.0)
        self.embedding = nnx.Embed(vocabulary_size, config.embedding_size, embedding_init=stretched, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        between = config.dropout if config.layers > 1 else 0.0  # One layer has nothing between.
        self.recurrent = LAYERS[config.cell](
            config.embedding_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            dropout=between,
            rngs=rngs,
        )
        self.logits = nnx.Linear(config.hidden_size, vocabulary_size, rngs=rngs)

    def __call__(self, chars: jax.Array, state: Any = None) -> tuple[jax.Array, Any]:
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

    def step(self, char: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Reads one character; otherwise as the call."""
        y, state = self.recurrent.step(self.embedding(char), state)
        return self.logits(y), state

    def initial_state(self, *batch: int) -> Any:
        """The state before the first character, of `batch` streams or of a single one."""
        return self.recurrent.initial_state(batch)
