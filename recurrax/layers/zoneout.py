"""Zoneout: noise on the state."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax

from recurrax._check import check_rate
from recurrax._layer import Cell, Gate, Params, State, features
from recurrax.layers._random import bernoulli
from recurrax.layers._wrapper import CellWrapper, StandIn


@dataclasses.dataclass(frozen=True, repr=False)
class Zoneout(CellWrapper):
    """Lets units of the state keep their value at random. Each step draws anew.

    s'_t = cell(s_{t-1}, x_t)
    s_t = m_t * s_{t-1} + (1 - m_t) * s'_t,  m_t ~ Bernoulli(rate)
    y_t = output(s_t, x_t)

    With a key, m is random. Without a key, m is its expectation, `rate`. The output follows from
    the state after zoneout: it is the new h of an LSTM, and o * h of a `QRNNCell`. The new h is
    computed before zoneout acts on c, as in the paper.

    Each part of the state has its own mask: h and c of an LSTM. In `SLSTMCell` and `MLSTMCell`, c
    and n are in units of exp(m). So c, n and m are one part, the memory: a unit of it, or a head,
    keeps all three or takes all three. Without a key, the memories C = c * exp(m) and N = n *
    exp(m) are mixed, not the three arrays:

    C_t = rate * C_{t-1} + (1 - rate) * C'_t,  N_t = rate * N_{t-1} + (1 - rate) * N'_t

    The layer has the parameters and the state of the cell.

    Args:
        layer: the cell. A cell of your own must set `output_part` or define `output`, unless it is
            a `LinearCell`.
        rate: the probability of keeping the old value, in [0, 1). One number serves all parts of
            the state. A tuple has one number for each part, in order: `(0.05, 0.5)` is 0.05 for h
            of an LSTM and 0.5 for c. In an `SLSTMCell` the second number is for the memory.

    Raises:
        TypeError: if `layer` is not a cell; at the first call, if the cell does not say how its
            output follows from its state.
        ValueError: if a rate is outside [0, 1), or the number of rates is not the number of parts
            of the state.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Zoneout(recurrax.LSTMCell(4), (0.05, 0.5))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> xs = jax.numpy.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(layer, params, xs, key=jax.random.key(1))
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
            raise TypeError(
                f"`layer` of Zoneout must be a cell, such as LSTMCell(128); got {self.layer!r}."
            )
        # The shapes of a state are enough to count its parts.
        parts = len(self.cell.state_parts(jax.eval_shape(self.cell.initial_state)))
        if isinstance(self.rate, (tuple, list)):
            object.__setattr__(self, "rate", tuple(self.rate))
            if len(self.rate) != parts:
                raise ValueError(
                    f"`rate` of Zoneout must be one number or {parts}, one for each part of the "
                    f"state of {self.layer}; got {len(self.rate)}."
                )
        for rate in self._rates(parts):
            check_rate("rate", rate)

    def _rates(self, parts: int) -> tuple[float, ...]:
        """Returns one rate for each part of the state."""
        if isinstance(self.rate, tuple):
            return self.rate
        return (self.rate,) * parts

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return any(rate > 0 for rate in self._rates(1)) or self.layer.stochastic

    def replacement(
        self, cell: Cell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell with separate masks for every step."""
        parts = cell.state_parts(state)
        zoned = _Zoned.of(cell, rates=self._rates(len(parts)))
        # Without a key each step keeps the share `rate` of the old state.
        if key is None:
            return zoned, params, (xs, None)
        # One mask for each part of the state, [T, *B, ...]: which units keep their value.
        steps, keep = features(xs).shape[0], []
        keys = jax.random.split(key, len(parts))
        for part_key, rate, part in zip(keys, zoned.rates, parts, strict=True):
            keep.append(bernoulli(part_key, rate, part, (steps, *part.shape)))
        return zoned, params, (xs, keep)


@dataclasses.dataclass(frozen=True, repr=False)
class _Zoned(StandIn):
    """A cell whose inputs are `(xs, keep)`.

    `keep` has a mask for each part of the state. None stands for the rates.
    """

    rates: tuple[float, ...] = dataclasses.field(default=(), kw_only=True)

    def project_inputs(self, params: Params, xs: Any) -> Any:
        xs, keep = xs
        return self.cell.project_inputs(params, xs), keep

    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        z, keep = z
        # The output of the step follows from the new state, before zoneout. So it is computed
        # again.
        new, _ = self.cell.step(params, state, z)
        if keep is None:
            keep = self.rates
        mixture = self.cell.mix_states(keep, state, new)
        y = self.cell.output(params, mixture, z)
        if y is None:
            raise TypeError(
                f"`layer` of Zoneout must say how its output follows from its state; {self.cell} "
                "does not. "
                'Set `output_part = "h"` in its class if the output is the h of the state; else '
                "define "
                "`output(self, params, state, z)`."
            )
        return mixture, y

    def output(self, params: Params, state: State, z: Any) -> jax.Array | None:
        return self.cell.output(params, state, z[0])

    def gate_values(self, params: Params, state: State, xs: Any) -> dict[str, Gate]:
        return super().gate_values(params, state, xs[0])
