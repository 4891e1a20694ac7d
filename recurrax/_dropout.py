"""Dropout of features, of weights and of words."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._arguments import check_key
from recurrax._check import check_layer, check_rate
from recurrax._layer import Layer, Params, State, Walk
from recurrax._params import named
from recurrax._random import dropped
from recurrax._wrapper import Wrapper


@dataclasses.dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Sets features to zero at random and scales the rest by 1 / (1 - rate).

    It acts only where `scan` is given a key. Its parameters and its state are `()`.

    Args:
        rate: the probability of zero, in [0, 1).
        shared: whether one mask serves all steps of a sequence; by default each step has its own.

    Raises:
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> _, ys = recurrax.scan(recurrax.Dropout(0.5), (), jax.numpy.ones((2, 3)), key=jax.random.key(0))
        >>> sorted(set(ys.ravel().tolist()))
        [0.0, 2.0]

    References:
        Zaremba et al., Recurrent neural network regularization, 2014, https://arxiv.org/abs/1409.2329

        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural networks (`shared`),
        2016, https://arxiv.org/abs/1512.05287
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
        """No parameters."""
        return ()

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[()]:
        """No state."""
        return ()

    def output_size(self, input_size: int) -> int:
        """That of the input."""
        return input_size

    def apply(self, walk: Walk, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        """Drops features of `xs` if the walk has a key."""
        if walk.key is None or not self.rate:
            return state, xs
        shape = (1, *xs.shape[1:]) if self.shared else xs.shape
        return state, dropped(walk.key, self.rate, xs, shape)


@dataclasses.dataclass(frozen=True, repr=False)
class WeightDrop(Wrapper):
    """Drops single weights at random, once a sequence: DropConnect, on the recurrent kernels by default.

    It acts only where `scan` is given a key. Parameters and state are those of the layer.

    Args:
        layer: any layer.
        rate: the probability of zero, in [0, 1); the other weights are scaled by 1 / (1 - rate).
        names: the names of the parameters, wherever they stand in the layer, as in `named`; a str for a single name.

    Raises:
        TypeError: if `layer` is not a layer, or a name is not a str.
        ValueError: if `rate` is outside [0, 1), there is no name, or, at `init`, the layer has no parameter of a name.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.WeightDrop(recurrax.LSTMCell(4), 0.5)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), key=jax.random.key(1))[1].shape
        (2, 7, 4)

    References:
        Merity et al., Regularizing and optimizing LSTM language models, 2018, https://arxiv.org/abs/1708.02182

        Wan et al., Regularization of neural networks using DropConnect, 2013,
        https://proceedings.mlr.press/v28/wan13.html
    """

    rate: float = 0.5
    names: str | tuple[str, ...] = ("recurrent_kernel",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)
        check_rate("rate", self.rate)
        names = (self.names,) if isinstance(self.names, str) else self.names
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            raise TypeError(
                '`names` of WeightDrop must be the name of a parameter, such as "recurrent_kernel", or a tuple of '
                f"names; got {self.names!r}."
            )
        if not names:
            raise ValueError("`names` of WeightDrop must hold at least 1 name; got none.")
        object.__setattr__(self, "names", tuple(names))

    @property
    def stochastic(self) -> bool:
        """Whether the rate is positive, or the layer draws numbers of its own."""
        return self.rate > 0 or self.layer.stochastic

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer, which must have one of each name."""
        params = super().init(key, input_size, dtype)
        named(params, *self.names)
        return params

    def apply(self, walk: Walk, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the layer with some of its weights at zero."""
        if walk.key is None:
            return walk(self.layer, params, state, xs)
        within, _ = walk.split(2)
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(walk.key, 1), len(leaves))
        drops = zip(keys, leaves, jax.tree.leaves(named(params, *self.names)), strict=True)
        leaves = [dropped(key, self.rate, leaf) if meant else leaf for key, leaf, meant in drops]
        return within(self.layer, jax.tree.unflatten(structure, leaves), state, xs)


def embedding_dropout(key: jax.Array | None, embedding: jax.Array, rate: float) -> jax.Array:
    """Drops whole words: sets rows of an embedding to zero at random and scales the rest by 1 / (1 - rate).

    A word that is dropped is dropped wherever it occurs.

    Args:
        key: the source of randomness; None drops nothing.
        embedding: `[V, D]`, a row for each word.
        rate: the probability of zero, in [0, 1).

    Returns:
        The embedding to look words up in, in the shape and dtype of `embedding`.

    Raises:
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> embedding = recurrax.embedding_dropout(jax.random.key(0), jnp.ones((100, 8)), 0.5)
        >>> xs = embedding[jnp.array([[3, 1, 3], [2, 0, 1]])]
        >>> bool((xs[0, 0] == xs[0, 2]).all()), sorted(set(embedding.ravel().tolist()))
        (True, [0.0, 2.0])

    References:
        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural networks (section 4.2),
        2016, https://arxiv.org/abs/1512.05287

        Merity et al., Regularizing and optimizing LSTM language models (section 4.3), 2018,
        https://arxiv.org/abs/1708.02182
    """
    check_rate("rate", rate)
    if key is not None:
        check_key("key", key)
    if key is None or not rate:
        return embedding
    return _words_dropped(key, rate, embedding)


# Jitted, so that the draws lie on the devices of the embedding also where the caller has set no mesh.
@functools.partial(jax.jit, static_argnames="rate")
def _words_dropped(key: jax.Array, rate: float, embedding: jax.Array) -> jax.Array:
    return dropped(key, rate, embedding, (embedding.shape[0], 1))
