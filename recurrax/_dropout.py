"""Dropout of features, of what a step sees of its state, and of weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_layer, check_rate
from recurrax._layer import AffineCell, Layer, Params, State, Walk
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
        kept = jax.random.bernoulli(walk.key, 1 - self.rate, xs.shape[1:] if self.shared else xs.shape)
        kept = jnp.broadcast_to(kept[None], xs.shape) if self.shared else kept
        return state, jnp.where(kept, xs / (1 - self.rate), jnp.zeros_like(xs))


@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentDropout(Wrapper):
    """Drops features of what a cell's recurrent product sees of its state, the same ones at every step of a sequence.

    u_t = (m * h_{t-1} / (1 - rate)) @ recurrent_kernel + recurrent_bias,  m ~ Bernoulli(1 - rate), once a sequence

    It acts only where `scan` is given a key, a part of a sequence at a time if it is given parts. Together with
    `Dropout(rate, shared=True)` below it is the variational dropout of Gal and Ghahramani, and Keras'
    `recurrent_dropout`. Parameters and state are those of the cell.

    Args:
        layer: an affine cell, such as Elman's, an LSTM or a GRU.
        rate: the probability of zero, in [0, 1).

    Raises:
        TypeError: if `layer` is not an affine cell.
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> gru = recurrax.RecurrentDropout(recurrax.GRUCell(4), 0.2)
        >>> layer = recurrax.Stack((recurrax.Dropout(0.2, shared=True), gru))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), key=jax.random.key(1))[1].shape
        (2, 7, 4)

    References:
        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural networks, 2016,
        https://arxiv.org/abs/1512.05287
    """

    layer: AffineCell
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.layer, AffineCell) or not self.layer.is_affine:
            raise TypeError(
                "`layer` of RecurrentDropout must be an affine cell, such as LSTMCell(128) or GRUCell(128); "
                f"got {self.layer!r}."
            )
        check_rate("rate", self.rate)

    @property
    def stochastic(self) -> bool:
        """Whether the rate is positive."""
        return self.rate > 0

    def apply(self, walk: Walk, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the cell with one mask for all steps."""
        if walk.key is None or not self.rate:
            return walk(self.layer, params, state, xs)
        kept = jax.random.bernoulli(walk.key, 1 - self.rate, state.h.shape)
        mask = kept.astype(state.h.dtype) / (1 - self.rate)
        return walk(_Masked(self.layer.hidden_size, cell=self.layer, dtype=self.layer.dtype), (params, mask), state, xs)


@dataclasses.dataclass(frozen=True, repr=False)
class _Masked(AffineCell):
    """An affine cell whose recurrent product sees `h * mask`; its parameters are `(params, mask)`."""

    cell: AffineCell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    @property
    def gates(self) -> int:  # type: ignore[override]
        return self.cell.gates

    @property
    def feature_ndim(self) -> int:
        return self.cell.feature_ndim

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_shape, dtype)

    def output_size(self, input_size: int) -> int:
        return self.cell.output_size(input_size)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        return self.cell.project_inputs(params[0], xs)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        params, mask = params
        return self.cell.project_state(
            params, h * jnp.expand_dims(mask.astype(h.dtype), tuple(range(h.ndim - mask.ndim)))
        )

    def preactivations(self, z: Any, u: Any) -> Any:
        return self.cell.preactivations(z, u)

    def pointwise(self, params: Params, a: Any, state: State) -> tuple[State, jax.Array]:
        return self.cell.pointwise(params, a, state)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(params[0])


@dataclasses.dataclass(frozen=True, repr=False)
class WeightDrop(Wrapper):
    """Drops single weights at random, once a sequence: DropConnect, on the recurrent kernels by default.

    It acts only where `scan` is given a key. Parameters and state are those of the layer.

    Args:
        layer: any layer.
        rate: the probability of zero, in [0, 1); the other weights are scaled by 1 / (1 - rate).
        names: the names of the parameters, wherever they stand in the layer.

    Raises:
        TypeError: if `layer` is not a layer.
        ValueError: if `rate` is outside [0, 1).

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
    names: tuple[str, ...] = ("recurrent_kernel",)

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        check_rate("rate", self.rate)
        object.__setattr__(self, "names", tuple(self.names))

    @property
    def stochastic(self) -> bool:
        """Whether the rate is positive, or the layer draws numbers of its own."""
        return self.rate > 0 or self.layer.stochastic

    def apply(self, walk: Walk, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the layer with some of its weights at zero."""
        if walk.key is None:
            return walk(self.layer, params, state, xs)
        within, _ = walk.split(2)
        leaves = jax.tree_util.tree_leaves_with_path(params)
        keys = jax.random.split(jax.random.fold_in(walk.key, 1), len(leaves))
        dropped = [
            self._drop(key, leaf) if getattr(path[-1], "name", None) in self.names else leaf
            for key, (path, leaf) in zip(keys, leaves, strict=True)
        ]
        return within(self.layer, jax.tree.unflatten(jax.tree.structure(params), dropped), state, xs)

    def _drop(self, key: jax.Array, weight: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(key, 1 - self.rate, weight.shape)
        return jnp.where(kept, weight / (1 - self.rate), jnp.zeros_like(weight))
