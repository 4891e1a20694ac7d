"""Dropout within a step: of the state that a step reads, and of the candidate that it adds."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax

from recurrax._check import check_rate
from recurrax._dtype import compute_dtype
from recurrax._layer import Gate, Params, State
from recurrax.cells.affine import AffineCell, Gates, Update, broadcast_to_rank, unchanged
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
        layer: an `AffineCell` that passes its candidate through the argument `update` of its
            `pointwise`, as every `AffineCell` of this package does.
        rate: the probability of zero, in [0, 1).

    Raises:
        TypeError: if `layer` is no such cell. At the first call with a key, if a cell of your own
            has the argument and does not call it.
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
        _check_update(self.affine_cell)
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

    def step(
        self, params: Params, state: State, z: Any, update: Update = unchanged
    ) -> tuple[State, jax.Array]:
        if self.cell.is_affine:
            return super().step(params, state, z)
        # The cell does not go through `pointwise`.
        params, mask = params
        return self._call_masked(self.cell.step, mask, update, params, state, z)

    def pointwise(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> tuple[State, jax.Array]:
        params, mask = params
        return self._call_masked(self.cell.pointwise, mask, update, params, a, state)

    def pointwise_gates(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> dict[str, Gate]:
        params, mask = params

        def masked_update(candidate: jax.Array) -> jax.Array:
            return update(self.masked(mask, candidate))

        return super().pointwise_gates(params, a, state, masked_update)

    def other_params(self, params: Params) -> Params:
        return self.cell.other_params(params[0]), params[1]

    def _call_masked(
        self, method: Callable, mask: jax.Array, update: Update, *args: Any
    ) -> tuple[State, jax.Array]:
        """Calls `pointwise` or `step` of the cell with an `update` that applies the mask."""
        seen = []

        def masked_update(candidate: jax.Array) -> jax.Array:
            seen.append(candidate)
            # Another `UpdateDropout` above this layer has its own mask.
            return update(self.masked(mask, candidate))

        out = method(*args, update=masked_update)
        # Without this check the layer would silently drop nothing.
        if not seen:
            raise _no_update(self.cell)
        return out


def _check_update(cell: AffineCell) -> None:
    """Checks that the equations of the cell take `update`."""
    equations = cell.pointwise if cell.is_affine else cell.step
    if "update" not in inspect.signature(equations).parameters:
        raise _no_update(cell)


def _no_update(cell: AffineCell) -> TypeError:
    return TypeError(
        f"`layer` of UpdateDropout must pass its candidate through `update`; {cell} does not. "
        "Write `def pointwise(self, params, a, state, update=lambda candidate: candidate)`, and "
        "`update(candidate)` in it. A `step` of its own takes `update` too."
    )
