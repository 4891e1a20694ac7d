"""Dropout within a step: of what it sees of the state, and of what it brings to it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from recurrax._check import check_rate
from recurrax._dtype import compute_dtype
from recurrax._layer import Params, State
from recurrax.cells.affine import AffineCell, broadcast_to_rank
from recurrax.layers._random import drawn
from recurrax.layers._wrapper import AroundAffineCell, CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentDropout(CellWrapper):
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

    layer: AffineCell | CellWrapper
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affine_cell is None or not self.affine_cell.is_affine:
            raise TypeError(
                "`layer` of RecurrentDropout must be an affine cell, such as LSTMCell(128) or GRUCell(128); "
                f"got {self.layer!r}."
            )
        check_rate("rate", self.rate)

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return self.rate > 0 or self.layer.stochastic

    def around(self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any) -> tuple:
        """The cell with one mask for all steps."""
        if key is None or not self.rate:
            return cell, params, xs
        mask = drawn(key, 1 - self.rate, state.h).astype(compute_dtype(cell, params, xs))
        return _Masked.of(cell, rate=self.rate), (params, mask), xs


@dataclasses.dataclass(frozen=True, repr=False)
class UpdateDropout(CellWrapper):
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

    layer: AffineCell | CellWrapper
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affine_cell is None:
            raise TypeError(
                "`layer` of UpdateDropout must be an AffineCell, such as LSTMCell(128) or GRUCell(128); "
                f"got {self.layer!r}."
            )
        check_rate("rate", self.rate)

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return self.rate > 0 or self.layer.stochastic

    def around(self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any) -> tuple:
        """The cell with one mask for all steps."""
        if key is None or not self.rate:
            return cell, params, xs
        shape = (*state.h.shape[:-1], cell.hidden_size)
        mask = drawn(key, 1 - self.rate, state.h, shape).astype(compute_dtype(cell, params, xs))
        return _Updated.of(cell, rate=self.rate), (params, mask), xs


@dataclasses.dataclass(frozen=True, repr=False)
class _WithMask(AroundAffineCell):
    """A cell whose parameters are `(params, mask)`, with a mask of zeros and ones.

    The mask is in the dtype of the products. So it has no say in that dtype, and no rounding changes it.
    """

    rate: float = dataclasses.field(default=0.0, kw_only=True)

    def inner(self, params: Params) -> Params:
        return params[0]

    def masked(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        """`x` with zeros where the mask has zeros, and the rest scaled."""
        return x * broadcast_to_rank(mask, x) / (1 - self.rate)


@dataclasses.dataclass(frozen=True, repr=False)
class _Masked(_WithMask):
    """A cell whose recurrent product sees `h * mask`."""

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        params, mask = params
        return self.cell.project_state(params, self.masked(mask, h))


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
            return self.masked(mask, candidate)

        cell = _updating(self.cell, update)
        out = getattr(cell, method)(*args)
        if not seen:
            raise TypeError(
                f"`layer` of UpdateDropout must pass its candidate through `update`; {self.cell} does not. "
                "Call `self.update(candidate)` in its `pointwise`."
            )
        return out


def _updating(cell: AffineCell, update: Callable) -> AffineCell:
    # A cell holds no arrays: this one lives for a single call, and nobody else sees it.
    cell = copy.copy(cell)
    if isinstance(cell, AroundAffineCell):
        object.__setattr__(cell, "cell", _updating(cell.cell, update))
    else:
        # The cell may have an `update` already: its own, or that of another `UpdateDropout`.
        before = cell.update
        object.__setattr__(cell, "update", lambda candidate: update(before(candidate)))
    return cell
