"""Dropout of features and of words."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._arguments import check_key
from recurrax._check import check_rate
from recurrax._layer import Layer, Params, ScanContext, State
from recurrax.layers._random import dropped


@dataclasses.dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Sets features to zero at random and scales the rest by 1 / (1 - rate).

    It acts only when `scan` has a key. Its parameters and its state are `()`.

    Args:
        rate: the probability of zero, in [0, 1).
        shared: whether one mask serves all steps of a sequence; by default each step has its own.

    Raises:
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> layer, key = recurrax.Dropout(0.5), jax.random.key(0)
        >>> _, ys = recurrax.scan(layer, (), jax.numpy.ones((2, 3)), key=key)
        >>> sorted(set(ys.ravel().tolist()))
        [0.0, 2.0]

    References:
        Zaremba et al., Recurrent neural network regularization, 2014,
        https://arxiv.org/abs/1409.2329

        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural
        networks (`shared`), 2016, https://arxiv.org/abs/1512.05287
    """

    rate: float
    shared: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate("rate", self.rate)

    @property
    def stochastic(self) -> bool:
        """Whether the rate is positive."""
        return self.rate > 0

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> tuple[()]:
        """Returns `()`: there are no parameters."""
        return ()

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[()]:
        """Returns `()`: there is no state."""
        return ()

    def output_size(self, input_size: int) -> int:
        """Returns `input_size`."""
        return input_size

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: jax.Array
    ) -> tuple[State, jax.Array]:
        """Drops features of `xs` if there is a key."""
        if context.key is None or not self.rate:
            return state, xs
        shape = xs.shape  # [T, *B, I]
        if self.shared:
            shape = (1, *xs.shape[1:])  # one mask for all steps
        return state, dropped(context.key, self.rate, xs, shape)


def embedding_dropout(key: jax.Array | None, embedding: jax.Array, rate: float) -> jax.Array:
    """Drops words: sets rows of an embedding to zero at random.

    The other rows are divided by 1 - rate. A dropped word is dropped at every place in the text.

    Args:
        key: the source of randomness; with None nothing is dropped.
        embedding: `[V, D]`, a row for each word.
        rate: the probability of zero, in [0, 1).

    Returns:
        The embedding for this training step, in the shape and dtype of `embedding`.

    Raises:
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> embedding = jnp.ones((100, 8))
        >>> embedding = recurrax.layers.embedding_dropout(jax.random.key(0), embedding, 0.5)
        >>> xs = embedding[jnp.array([[3, 1, 3], [2, 0, 1]])]
        >>> bool((xs[0, 0] == xs[0, 2]).all()), sorted(set(embedding.ravel().tolist()))
        (True, [0.0, 2.0])

    References:
        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural
        networks (section 4.2), 2016, https://arxiv.org/abs/1512.05287

        Merity et al., Regularizing and optimizing LSTM language models (section 4.3), 2018,
        https://arxiv.org/abs/1708.02182
    """
    check_rate("rate", rate)
    if key is not None:
        check_key("key", key)
    if key is None or not rate:
        return embedding
    return _words_dropped(key, rate, embedding)


# `jax.jit` puts the random flags on the devices of the embedding, even if the caller has set no
# mesh.
@functools.partial(jax.jit, static_argnames="rate")
def _words_dropped(key: jax.Array, rate: float, embedding: jax.Array) -> jax.Array:
    # One choice for each row, that is for each word.
    return dropped(key, rate, embedding, (embedding.shape[0], 1))
