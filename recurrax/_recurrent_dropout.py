"""Dropout within a step: of what it sees of the state, and of what it brings to it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._affine import AffineCell, along
from recurrax._check import check_rate
from recurrax._layer import Params, State, Walk
from recurrax._wrapper import Wrapper


@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentDropout(Wrapper):
    """Drops features of what a cell's recurrent product sees of its state, the same ones at every step of a sequence.

    u_t = (m * h_{t-1} / (1 - rate)) @ recurrent_kernel + recurrent_bias,  m ~ Bernoulli(1 - rate), once a sequence

    It acts only where `scan` is given a key, a part of a sequence at a time if it is given parts. Together with
    `Dropout(rate, shared=True)` below it is the variational dropout of Gal and Ghahramani, and Keras' `dropout` and
    `recurrent_dropout`, but that Keras' LSTM and GRU draw a mask for each gate. Parameters and state are those of the
    cell.

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
        mask = _mask(walk.key, self.rate, state.h.shape, state.h.dtype)
        return walk(_Masked(self.layer.hidden_size, cell=self.layer, dtype=self.layer.dtype), (params, mask), state, xs)


@dataclasses.dataclass(frozen=True, repr=False)
class UpdateDropout(Wrapper):
    """Drops features of the candidate, which a step brings to the state: what the state holds is never lost.

    c' = f * c + i * d(g) for an LSTM,  h' = (1 - z) * d(n) + z * h for a GRU,  h' = d(tanh(z + u)) for Elman's cell,

    where d(g) = m * g / (1 - rate),  m ~ Bernoulli(1 - rate), once a sequence. It acts only where `scan` is given a
    key, a part of a sequence at a time if it is given parts. Parameters and state are those of the cell.

    Args:
        layer: an `AffineCell` whose equations pass their candidate through `update`, as all of this package's do.
        rate: the probability of zero, in [0, 1).

    Raises:
        TypeError: if `layer` is not such a cell; of one of your own it is known at the first call with a key.
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.UpdateDropout(recurrax.LSTMCell(4), 0.25)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), key=jax.random.key(1))[1].shape
        (2, 7, 4)

    References:
        Semeniuta et al., Recurrent dropout without memory loss, 2016, https://arxiv.org/abs/1603.05118
    """

    layer: AffineCell
    rate: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.layer, AffineCell):
            raise TypeError(
                "`layer` of UpdateDropout must be an AffineCell, such as LSTMCell(128) or GRUCell(128); "
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
        size = self.layer.hidden_size
        mask = _mask(walk.key, self.rate, (*state.h.shape[:-1], size), state.h.dtype)
        return walk(_Updated(size, cell=self.layer, dtype=self.layer.dtype), (params, mask), state, xs)


def _mask(key: jax.Array, rate: float, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / (1 - rate)


@dataclasses.dataclass(frozen=True, repr=False)
class _WithMask(AffineCell):
    """An affine cell whose parameters are `(params, mask)`, so that kernels serve it as they do any other."""

    cell: AffineCell = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    @property
    def gates(self) -> int:  # type: ignore[override]
        return self.cell.gates

    @property
    def feature_ndim(self) -> int:
        return self.cell.feature_ndim

    @property
    def is_affine(self) -> bool:
        return self.cell.is_affine

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_shape, dtype)

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.first_state(params[0], batch_shape, dtype)

    def output_size(self, input_size: int) -> int:
        return self.cell.output_size(input_size)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        return self.cell.project_inputs(params[0], xs)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        return self.cell.project_state(params[0], h)

    def preactivations(self, z: Any, u: Any) -> Any:
        return self.cell.preactivations(z, u)

    def pointwise(self, params: Params, a: Any, state: State) -> tuple[State, jax.Array]:
        return self.cell.pointwise(params, a, state)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(params[0])


@dataclasses.dataclass(frozen=True, repr=False)
class _Masked(_WithMask):
    """A cell whose recurrent product sees `h * mask`."""

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        params, mask = params
        return self.cell.project_state(params, h * along(mask, h))


@dataclasses.dataclass(frozen=True, repr=False)
class _Updated(_WithMask):
    """A cell whose candidate is masked."""

    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        params, mask = params
        return self._masking("step", mask, params, state, z)

    def pointwise(self, params: Params, a: Any, state: State) -> tuple[State, jax.Array]:
        params, mask = params
        return self._masking("pointwise", mask, params, a, state)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(params[0]), params[1]

    def _masking(self, method: str, mask: jax.Array, *args: Any) -> tuple[State, jax.Array]:
        seen = []

        def update(candidate: jax.Array) -> jax.Array:
            seen.append(candidate)
            return candidate * mask.astype(candidate.dtype)

        # A cell holds no arrays: this one lives for a single call, and nobody else sees it.
        cell = copy.copy(self.cell)
        object.__setattr__(cell, "update", update)
        out = getattr(cell, method)(*args)
        if not seen:
            raise TypeError(
                f"`layer` of UpdateDropout must pass its candidate through `update`; {self.cell} does not. "
                "Call `self.update(candidate)` in its `pointwise`."
            )
        return out
