"""The network: an encoder that reads both ways, and a decoder with attention."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import recurrax
from recurrax import nnx as rnn
from recurrax.decoding import beam_search
from recurrax.layers import with_memory

from .config import Config
from .dates import SOURCE, STOP, TARGET, TARGET_LENGTH

ATTENTION = {"bahdanau": recurrax.BahdanauAttention, "luong": recurrax.LuongAttention}


class Encoded(NamedTuple):
    """A source that the encoder has read.

    Attributes:
        params: the parameters of the decoder, with the encoder's outputs as its memory.
        state: the state of the decoder before the first character.
    """

    params: Any
    state: Any


class Translator(nnx.Module):
    """Translates texts into other texts, one character at a time.

    Example:
        >>> import jax.numpy as jnp
        >>> model = Translator(Config(), rngs=nnx.Rngs(0))
        >>> sources = jnp.ones([8, 40], int)  # 8 texts of 40 characters
        >>> targets = jnp.ones([8, 11], int)
        >>> model(sources, jnp.full(8, 40), targets).shape  # logits of each character
        (8, 11, 12)
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        """Makes the parameters."""
        size, hidden = config.embedding_size, config.hidden_size
        # Flax draws short rows by default. Training would spend hundreds of steps to lengthen them.
        init = nnx.initializers.normal(1.0)
        # Number 0 is the padding of a source, and the end of a target.
        self.source_embedding = nnx.Embed(len(SOURCE) + 1, size, embedding_init=init, rngs=rngs)
        self.target_embedding = nnx.Embed(len(TARGET) + 1, size, embedding_init=init, rngs=rngs)
        encoder = recurrax.Bidirectional(recurrax.GRUCell(hidden))
        self.encoder = rnn.Recurrent(encoder, size, rngs=rngs)
        self.bridge = nnx.Linear(hidden, config.decoder_size, rngs=rngs)
        attention = ATTENTION[config.attention]
        decoder = attention(recurrax.GRUCell(config.decoder_size), memory_size=2 * hidden)
        self.layer = decoder
        self.decoder = rnn.Recurrent(decoder, size, rngs=rngs)
        self.logits = nnx.Linear(decoder.output_size(size), len(TARGET) + 1, rngs=rngs)

    def encode(self, sources: jax.Array, lengths: jax.Array) -> Encoded:
        """Reads sources `int[B, S]` of these lengths `int[B]`."""
        xs = self.source_embedding(sources)  # [B, S, embedding_size]
        memory, state = self.encoder(xs, lengths=lengths)  # [B, S, 2 * hidden_size]
        # The keys of the memory are formed here, once for all characters of the target.
        params = with_memory(rnn.params_of(self.decoder), memory, lengths=lengths)
        # The backward layer ends at the first character, so it has read all of the source.
        h = jnp.tanh(self.bridge(state.backward.h))  # [B, decoder_size]
        return Encoded(params, self.layer.state_after(recurrax.cells.GRUState(h)))

    def step(self, token: jax.Array, state: Any, params: Any) -> tuple[jax.Array, Any]:
        """Reads one character of the target.

        Args:
            token: `int[B]`, the character before.
            state: the state of the decoder.
            params: the parameters of the decoder, from `encode`.

        Returns:
            The logits of the next character `[B, V]`, and the next state.
        """
        x = self.target_embedding(token)  # [B, embedding_size]
        state, y = recurrax.step(self.layer, params, x, state)
        return self.logits(y), state

    def __call__(
        self,
        sources: jax.Array,
        lengths: jax.Array,
        targets: jax.Array,
        observed: jax.Array | int = TARGET_LENGTH,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts each character of the targets.

        Args:
            sources: `int[B, S]`.
            lengths: `int[B]`.
            targets: `int[B, 11]`.
            observed: `bool[B, 11]`, where the decoder reads the last character of the target.
                Elsewhere it reads a character that it draws itself. Or the number of characters
                that it reads before it goes on alone, without draws.
            key: the randomness of the draws.

        Returns:
            The logits of each character, `[B, 11, V]`.
        """
        encoded = self.encode(sources, lengths)
        # Each character is predicted from the characters before it. The first one is STOP.
        read = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=STOP)  # [B, 11]

        def step(token: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            return self.step(token, state, encoded.params)

        def next_token(logits: jax.Array, token: jax.Array, key: jax.Array | None) -> jax.Array:
            if key is None:
                return logits.argmax(axis=-1)
            return jax.random.categorical(key, logits)

        _, logits, _ = recurrax.unroll(
            step, None, next_token, read, encoded.state, observed=observed, key=key
        )
        return logits

    def greedy(self, sources: jax.Array, lengths: jax.Array) -> jax.Array:
        """Translates with the likeliest next character each time: `int[B, 11]`."""
        unknown = jnp.zeros((len(sources), TARGET_LENGTH), jnp.int32)
        return self(sources, lengths, unknown, observed=1).argmax(axis=-1)

    def search(
        self, sources: jax.Array, lengths: jax.Array, beam: int
    ) -> tuple[jax.Array, jax.Array]:
        """Translates by beam search: the best text `int[B, 11]`, and its log-probability `[B]`."""
        encoded = self.encode(sources, lengths)

        # The memory is no part of the state, so all beams of a source share it.
        def step(token: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            return self.step(token, state, encoded.params)

        first = jnp.full(len(sources), STOP)
        beams = beam_search(
            step, encoded.state, first, beam_size=beam, length=TARGET_LENGTH, stop=STOP
        )
        return beams.tokens[:, 0], beams.scores[:, 0]

    def attention(self, sources: jax.Array, lengths: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns how much each character of the targets reads of the sources, `[B, 11, S]`."""
        encoded = self.encode(sources, lengths)
        read = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=STOP)  # [B, 11]
        xs = self.target_embedding(read)  # [B, 11, embedding_size]
        weights = self.layer.weights
        return recurrax.scan(weights, encoded.params, xs, encoded.state)[1]
