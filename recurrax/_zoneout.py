"""Zoneout: noise on the state."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_rate
from recurrax._layer import Cell, Params, State, features
from recurrax._wrapper import CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class Zoneout(CellWrapper):
    """Lets units of a cell's state keep their value at random, each step on its own.

    s_t = m_t * s_{t-1} + (1 - m_t) * cell(s_{t-1}, x_t),  m_t ~ Bernoulli(rate)

    With a key m is drawn; without one it is its expectation, `rate`. A cell that puts out its h puts out the new one.
    Parameters and state are those of the cell.

    Args:
        layer: the cell.
        rate: the probability of keeping, in [0, 1), one for all parts of the state, or one for each in their order:
            `(0.05, 0.5)` is 0.05 for h and 0.5 for c of an LSTM.

    Raises:
        TypeError: if `layer` is not a cell.
        ValueError: if a rate is outside [0, 1), or their number is not that of the parts of the state.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Zoneout(recurrax.LSTMCell(4), (0.05, 0.5))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), key=jax.random.key(1))
        >>> ys.shape
        (2, 7, 4)

    References:
        Krueger et al., Zoneout: regularizing RNNs by randomly preserving hidden activations, 2017,
        https://arxiv.org/abs/1606.01305
    """

    layer: Cell | CellWrapper
    rate: float | tuple[float, ...] = 0.1

    keeps_affine: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.cell, Cell):
            raise TypeError(f"`layer` of Zoneout must be a cell, such as LSTMCell(128); got {self.layer!r}.")
        parts = len(jax.tree.leaves(jax.eval_shape(self.layer.initial_state)))
        if isinstance(self.rate, (tuple, list)):
            object.__setattr__(self, "rate", tuple(self.rate))
            if len(self.rate) != parts:
                raise ValueError(
                    f"`rate` of Zoneout must be one number or {parts}, one for each part of the state of {self.layer}; "
                    f"got {len(self.rate)}."
                )
        for rate in self._rates(parts):
            check_rate("rate", rate)

    def _rates(self, parts: int) -> tuple[float, ...]:
        return self.rate if isinstance(self.rate, tuple) else (self.rate,) * parts

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return any(rate > 0 for rate in self._rates(1)) or self.layer.stochastic

    def around(self, cell: Cell, key: jax.Array | None, params: Params, state: State, xs: Any) -> tuple:
        """The cell with noise of its own for every step."""
        leaves = jax.tree.leaves(state)
        zoned = _Zoned(cell.hidden_size, cell, self._rates(len(leaves)), dtype=cell.dtype)
        if key is None:
            return zoned, params, (xs, None)
        steps, keys = features(xs).shape[:1], jax.random.split(key, len(leaves))
        keep = [
            jax.random.bernoulli(key, rate, steps + leaf.shape)
            for key, rate, leaf in zip(keys, zoned.rates, leaves, strict=True)
        ]
        return zoned, params, (xs, keep)


@dataclasses.dataclass(frozen=True, repr=False)
class _Zoned(Cell):
    cell: Cell = None  # type: ignore[assignment]
    rates: tuple[float, ...] = ()

    @property
    def feature_ndim(self) -> int:
        return self.cell.feature_ndim

    @property
    def independent_units(self) -> bool:  # type: ignore[override]
        return self.cell.independent_units

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        return self.cell.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.initial_state(batch_shape, dtype)

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        return self.cell.first_state(params, batch_shape, dtype)

    def output_size(self, input_size: int) -> int:
        return self.cell.output_size(input_size)

    def project_inputs(self, params: Params, xs: Any) -> Any:
        xs, keep = xs
        return self.cell.project_inputs(params, xs), keep

    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        z, keep = z
        after, y = self.cell.step(params, state, z)
        old, new = jax.tree.leaves(state), jax.tree.leaves(after)
        if keep is None:
            mixed = [rate * o + (1 - rate) * n for rate, o, n in zip(self.rates, old, new, strict=True)]
        else:
            mixed = [jnp.where(k, o, n) for k, o, n in zip(keep, old, new, strict=True)]
        puts_out = next((i for i, leaf in enumerate(new) if leaf is y), None)
        return jax.tree.unflatten(jax.tree.structure(state), mixed), y if puts_out is None else mixed[puts_out]
