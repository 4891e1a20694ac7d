"""Bounds on what flows back through a cell, step by step."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Params, State
from recurrax.cells.affine import AffineCell, Gates
from recurrax.layers._wrapper import AroundAffineCell, CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class GradientClip(CellWrapper):
    """Bounds the gradient that flows back into the pre-activations of a cell, at every step.

    da_t ← min(max(da_t, -bound), bound)

    What comes out of a step is bounded before it goes on to the step before, so one explosive step cannot spoil what
    the others say, as it can where the gradients of the weights are clipped after the context. Forward mode, which has no
    such flow, gives the derivative itself. `"newton"`, which solves one equation for all steps, has no such flow either
    and is refused. Parameters and state are those of the cell.

    Args:
        layer: an affine cell, such as Elman's, an LSTM or a GRU, or one within layers that keep it affine.
        bound: the largest magnitude.

    Raises:
        TypeError: if `layer` is not of that kind.
        ValueError: if `bound` is not positive.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.GradientClip(recurrax.LSTMCell(4), 1.0)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 4)

    References:
        Graves, Generating sequences with recurrent neural networks (section 2.1), 2013,
        https://arxiv.org/abs/1308.0850
    """

    layer: AffineCell | CellWrapper
    bound: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.affine_cell is None or not self.affine_cell.is_affine:
            raise TypeError(
                "`layer` of GradientClip must be an affine cell, such as LSTMCell(128) or GRUCell(128); "
                f"got {self.layer!r}."
            )
        if not self.bound > 0:
            raise ValueError(f"`bound` of GradientClip must be above 0; got {self.bound}.")

    def around(self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any) -> tuple:
        """The cell with bounds."""
        return _Bounded.of(cell, bound=self.bound), params, xs


@dataclasses.dataclass(frozen=True, repr=False)
class _Bounded(AroundAffineCell):
    bound: float = dataclasses.field(default=1.0, kw_only=True)

    alters_gradient: ClassVar[bool] = True

    def pointwise(self, params: Params, a: Gates, state: State) -> tuple[State, jax.Array]:
        return self.cell.pointwise(params, tuple(map(self._bounded, a)), state)

    def _bounded(self, a: jax.Array) -> jax.Array:
        # The identity as a system of equations, whose transpose is solved within the bounds: JAX takes derivatives of
        # any mode and order through it, which it would not through a `custom_vjp`.
        def itself(_: Any, a: jax.Array) -> jax.Array:
            return a

        def within(_: Any, da: jax.Array) -> jax.Array:
            return jnp.clip(da, -self.bound, self.bound)

        return lax.custom_linear_solve(lambda a: a, a, itself, within)
