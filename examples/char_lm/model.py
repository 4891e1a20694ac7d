"""The network: embedding, stacked recurrent layers, logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax import nnx as rnn

from .config import Config

LAYERS = {"rnn": rnn.RNN, "lstm": rnn.LSTM, "gru": rnn.GRU}


class CharLM(nnx.Module):
    """Predicts each next character of a text from the characters before it.

    Example:
        >>> import jax.numpy as jnp
        >>> model = CharLM(65, Config(cell="gru"), rngs=nnx.Rngs(0))
        >>> chars = jnp.zeros([8, 100], jnp.int32)  # 8 streams, 100 characters of each
        >>> logits, state = model(chars)
        >>> logits.shape
        (8, 100, 65)
        >>> logits, state = model(chars, state)  # the next 100
    """

    def __init__(self, vocabulary_size: int, config: Config, *, rngs: nnx.Rngs):
        """Makes the parameters."""
        # With None the products have the dtype of the parameters, float32.
        dtype = None
        if config.dtype != "float32":
            dtype = jnp.dtype(config.dtype)
        self.remat = config.remat or None
        # Flax draws short rows by default. Training would spend hundreds of steps to lengthen them.
        self.embedding = nnx.Embed(
            vocabulary_size,
            config.embedding_size,
            embedding_init=nnx.initializers.normal(1.0),
            dtype=dtype,
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        # The argument `dropout` of a recurrent module acts between its layers, as in PyTorch.
        dropout_between_layers = 0.0
        if config.layers > 1:
            dropout_between_layers = config.dropout
        self.recurrent = LAYERS[config.cell](
            config.embedding_size,
            config.hidden_size,
            config.layers,
            batch_first=True,
            dropout=dropout_between_layers,
            dtype=dtype,
            rngs=rngs,
        )
        self.logits = nnx.Linear(config.hidden_size, vocabulary_size, dtype=dtype, rngs=rngs)

    def __call__(
        self, chars: jax.Array, state: Any = None, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, Any]:
        """Reads characters, starting from `state`.

        Args:
            chars: `int[B, T]`, or `int[T]` for a single stream.
            state: the state that an earlier call returned; None at the start of a text.
            lengths: `int[B]`, how many characters of each stream to read; all by default.

        Returns:
            The logits of each following character, `[B, T, V]`, and the state after the last one.
        """
        xs = self.dropout(self.embedding(chars))  # [B, T, embedding_size]
        ys, state = self.recurrent(
            xs, state, lengths=lengths, remat=self.remat
        )  # [B, T, hidden_size]
        return self.logits(self.dropout(ys)).astype(jnp.float32), state

    def step(self, char: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Reads one character, without dropout: `int[B]` to logits `[B, V]`, and the next state."""
        y, state = self.recurrent.step(self.embedding(char), state)
        return self.logits(y).astype(jnp.float32), state

    def initial_state(self, *batch: int) -> Any:
        """Returns the state before the first character, of `batch` streams or of a single one."""
        return self.recurrent.initial_state(batch)
