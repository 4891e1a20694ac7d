"""Dropout within a step: of the state that a step reads, and of the candidate that it adds."""

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
from recurrax.layers._random import bernoulli
from recurrax.layers._wrapper import AffineStandIn, CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentDropout(CellWrapper):
    """Drops features of the state that the recurrent product reads, the same at every step.

    u_t = (m * h_{t-1} / (1 - rate)) @ recurrent_kernel + recurrent_bias
    m ~ Bernoulli(1 - rate), once a sequence

    The layer acts only when `scan` has a key. Each call of `scan` draws a new mask, so each part of
    a sequence has its own. With `Dropout(rate, shared=True)` below it, the layer is the variational
    dropout of Gal and Ghahramani. Keras' `dropout` and `recurrent_dropout` do the same, but its
    LSTM and GRU draw one mask for each gate. The layer has the parameters and the state of the
    cell.

    Args:
        layer: an affine cell, such as an Elman cell, an LSTM or a GRU.
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
        Gal and Ghahramani, A theoretically grounded application of dropout in recurrent neural
        networks, 2016, https://arxiv.org/abs/1512.05287
    """

    layer: AffineCell | CellWrapper
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affine_cell is None or not self.affine_cell.is_affine:
            raise TypeError(
                "`layer` of RecurrentDropout must be an affine cell, such as LSTMCell(128) or "
                f"GRUCell(128); got {self.layer!r}."
            )
        check_rate("rate", self.rate)

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return self.rate > 0 or self.layer.stochastic

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell with one mask for all steps."""
        if key is None or not self.rate:
            return cell, params, xs
        mask = bernoulli(key, 1 - self.rate, state.h)  # [*B, H]
        mask = mask.astype(compute_dtype(cell, params, xs))  # zeros and ones
        return _Masked.of(cell, rate=self.rate), (params, mask), xs


@dataclasses.dataclass(frozen=True, repr=False)
class UpdateDropout(CellWrapper):
    """Drops features of the candidate that a step adds to the state.

    The state itself loses nothing:

    d(g) = m * g / (1 - rate),  m ~ Bernoulli(1 - rate), once a sequence
    c' = f * c + i * d(g) for an LSTM
    h' = (1 - z) * d(n) + z * h for a GRU
    h' = d(tanh(z + u)) for an Elman cell

    The layer acts only when `scan` has a key. Each call of `scan` draws a new mask, so each part of
    a sequence has its own. The layer has the parameters and the state of the cell.

    Args:
        layer: an `AffineCell` that passes its candidate through `update`, as every `AffineCell` of
            this package does.
        rate: the probability of zero, in [0, 1).

    Raises:
        TypeError: if `layer` is no such cell. For a cell of your own this is known at the first
            call with a key.
        ValueError: if `rate` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.UpdateDropout(recurrax.LSTMCell(4), 0.25)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), key=jax.random.key(1))[1].shape
        (2, 7, 4)

    References:
        Semeniuta et al., Recurrent dropout without memory loss, 2016,
        https://arxiv.org/abs/1603.05118
    """

    layer: AffineCell | CellWrapper
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affine_cell is None:
            raise TypeError(
                "`layer` of UpdateDropout must be an AffineCell, such as LSTMCell(128) or "
                f"GRUCell(128); got {self.layer!r}."
            )
        check_rate("rate", self.rate)

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return self.rate > 0 or self.layer.stochastic

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell with one mask for all steps."""
        if key is None or not self.rate:
            return cell, params, xs
        # The candidate has H features, also where a projection makes h narrower.
        shape = (*state.h.shape[:-1], cell.hidden_size)
        mask = bernoulli(key, 1 - self.rate, state.h, shape)  # [*B, H]
        mask = mask.astype(compute_dtype(cell, params, xs))
        return _Updated.of(cell, rate=self.rate), (params, mask), xs


@dataclasses.dataclass(frozen=True, repr=False)
class _WithMask(AffineStandIn):
    """A cell whose parameters are `(params, mask)`, with a mask of zeros and ones.

    The mask has the dtype of the products. So it does not change that dtype, and no rounding
    changes the mask.
    """

    rate: float = dataclasses.field(default=0.0, kw_only=True)

    def cell_params(self, params: Params) -> Params:
        return params[0]

    def masked(self, mask: jax.Array, x: jax.Array) -> jax.Array:
        """Returns `x` with zeros where the mask has zeros; the rest is scaled."""
        return x * broadcast_to_rank(mask, x) / (1 - self.rate)


@dataclasses.dataclass(frozen=True, repr=False)
class _Masked(_WithMask):
    """A cell whose recurrent product reads `h * mask`."""

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        params, mask = params
        return self.cell.project_state(params, self.masked(mask, h))


@dataclasses.dataclass(frozen=True, repr=False)
class _Updated(_WithMask):
    """A cell whose candidate is masked."""

    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        params, mask = params
        return self._call_masked("step", mask, params, state, z)

    def pointwise(self, params: Params, a: Any, state: State) -> tuple[State, jax.Array]:
        params, mask = params
        return self._call_masked("pointwise", mask, params, a, state)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(params[0]), params[1]

    def _call_masked(self, method: str, mask: jax.Array, *args: Any) -> tuple[State, jax.Array]:
        """Calls a method of the cell whose `update` applies the mask."""
        seen = []

        def update(candidate: jax.Array) -> jax.Array:
            seen.append(candidate)
            return self.masked(mask, candidate)

        cell = _with_update(self.cell, update)
        out = getattr(cell, method)(*args)
        # Without this check the layer would silently drop nothing.
        if not seen:
            raise TypeError(
                f"`layer` of UpdateDropout must pass its candidate through `update`; {self.cell} "
                "does not. Call `self.update(candidate)` in its `pointwise`."
            )
        return out


def _with_update(cell: AffineCell, update: Callable) -> AffineCell:
    """Returns a copy of the cell that passes its candidate through `update` too."""
    # The copy holds arrays through `update`, so it must not outlive the call.
    cell = copy.copy(cell)
    if isinstance(cell, AffineStandIn):
        # The equations that call `update` are those of the replaced cell.
        object.__setattr__(cell, "cell", _with_update(cell.cell, update))
    else:
        # The cell may have an `update` already, from its class or from another `UpdateDropout`.
        before = cell.update
        object.__setattr__(cell, "update", lambda candidate: update(before(candidate)))
    return cell
