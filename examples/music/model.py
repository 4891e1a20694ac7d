"""The network: which keys sound at the next step, after all keys before."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import recurrax
from recurrax import nnx as rnn

from .config import Config
from .pieces import KEYS

CELLS = {"rnn": recurrax.ElmanCell, "lstm": recurrax.LSTMCell, "gru": recurrax.GRUCell}


def step_losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The negative log-likelihood of each step, in nats: the sum over its keys.

    Args:
        logits: `[B, T, 88]`; the sigmoid of a logit is the probability that its key sounds.
        targets: `[B, T, 88]`, 1 where a key sounds and 0 elsewhere.

    Returns:
        The losses, `[B, T]`.
    """
    of_keys = optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))
    return of_keys.sum(axis=-1)


class Composer(nnx.Module):
    """Predicts the keys of each next step.

    Example:
        >>> import jax.numpy as jnp
        >>> model = Composer(Config(cell="gru"), rngs=nnx.Rngs(0))
        >>> rolls = jnp.zeros([2, 16, 88])  # 2 pieces of 16 steps
        >>> model(rolls).shape
        (2, 16, 88)
        >>> model.compose(rolls, length=40, key=jax.random.key(0)).shape
        (2, 40, 88)
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        """Makes the parameters."""
        # Dropout acts before, between and after the recurrent layers.
        layers: list[recurrax.Layer] = [recurrax.Dropout(config.dropout)]
        for _ in range(config.layers):
            layers.append(CELLS[config.cell](config.hidden_size))
            layers.append(recurrax.Dropout(config.dropout))
        layers.append(recurrax.Dense(KEYS))
        self.layer = recurrax.Stack(tuple(layers))
        self.recurrent = rnn.Recurrent(self.layer, KEYS, rngs=rngs)

    def __call__(
        self, rolls: jax.Array, lengths: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """Predicts the step after each step.

        Args:
            rolls: `[B, T, 88]`, zeros and ones.
            lengths: `int[B]`, the steps of each piece; all by default.
            key: the randomness of dropout; without it nothing is dropped.

        Returns:
            The logits of the keys, `[B, T, 88]`.
        """
        logits, _ = self.recurrent(rolls, lengths=lengths, deterministic=key is None, rngs=key)
        return logits

    def compose(
        self,
        rolls: jax.Array,
        length: int,
        key: jax.Array,
        temperature: float = 1.0,
        voices: int = 0,
    ) -> jax.Array:
        """Continues pieces.

        Args:
            rolls: `[B, N, 88]`, how the pieces begin.
            length: the number of steps of the result, at least N.
            key: the randomness of the draws.
            temperature: below 1 is more careful, above is bolder.
            voices: how many keys sound at each new step. With 0 each key is drawn by itself.

        Returns:
            The pieces, `[B, length, 88]`. The first N steps are `rolls`.
        """
        batch, observed, _ = rolls.shape
        params = rnn.params_of(self.recurrent)

        # `step` has no key, so nothing is dropped; the key of `unroll` is for the draws alone.
        def step(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
            state, logits = recurrax.step(self.layer, params, x, state)
            return logits, state

        def next_keys(logits: jax.Array, x: jax.Array, key: jax.Array) -> jax.Array:
            return draw_keys(key, logits / temperature, voices)

        # What the loop reads at the new steps, it draws itself.
        unknown = jnp.zeros([batch, length - observed, KEYS], rolls.dtype)
        xs = jnp.concatenate([rolls, unknown], axis=1)  # [B, length, 88]
        state = self.recurrent.initial_state((batch,))
        _, _, used = recurrax.unroll(step, None, next_keys, xs, state, observed=observed, key=key)
        return used


def draw_keys(key: jax.Array, logits: jax.Array, voices: int) -> jax.Array:
    """Draws the keys of a step, `[B, 88]`: each by itself, or exactly `voices` of them."""
    if not voices:
        return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)
    # The greatest logits with Gumbel noise are a draw without replacement (Kool et al., 2019,
    # https://arxiv.org/abs/1903.06059).
    noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    last = jax.lax.top_k(noisy, voices)[0][..., -1:]  # [B, 1]
    return (noisy >= last).astype(logits.dtype)
