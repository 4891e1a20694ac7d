"""Bounds on the gradient that flows back through a cell, step by step."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from recurrax._layer import Params, State
from recurrax.cells.affine import AffineCell, Gates, Update, unchanged
from recurrax.layers._wrapper import AffineStandIn, CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class GradientClip(CellWrapper):
    """Bounds the gradient that flows back into the pre-activations of a cell, at every step.

    da_t ← min(max(da_t, -bound), bound)

    The gradient is bounded at each step before it flows to the step before. So one exploding step
    does not spoil the gradients of the other steps. If only the weight gradients are clipped, after
    the last step, one step can spoil them all. Forward mode has no such flow, so it gives the exact
    derivative. `"newton"` solves one equation for all steps. It has no such flow either and raises.
    The layer has the parameters and the state of the cell.

    Args:
        layer: an affine cell, such as an Elman cell, an LSTM or a GRU; or layers that keep such a
            cell affine.
        bound: the largest magnitude.

    Raises:
        TypeError: if `layer` is neither.
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
                "`layer` of GradientClip must be an affine cell, such as LSTMCell(128) or "
                f"GRUCell(128); got {self.layer!r}."
            )
        if not self.bound > 0:
            raise ValueError(f"`bound` of GradientClip must be above 0; got {self.bound}.")

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell with bounds on its gradient."""
        return _Bounded.of(cell, bound=self.bound), params, xs


@dataclasses.dataclass(frozen=True, repr=False)
class _Bounded(AffineStandIn):
    """A cell with bounds on the gradient of its pre-activations."""

    bound: float = dataclasses.field(default=1.0, kw_only=True)

    alters_gradient: ClassVar[bool] = True

    def pointwise(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> tuple[State, jax.Array]:
        return super().pointwise(params, tuple(map(self._bounded, a)), state, update)

    def _bounded(self, a: jax.Array) -> jax.Array:
        """Returns `a`; the gradient of `a` is bounded."""

        # The identity, written as a linear equation. Reverse mode solves the transposed equation,
        # and that solution is clipped. JAX takes derivatives of any mode and order through it;
        # a `custom_vjp` would have no forward mode.
        def solve(_: Any, a: jax.Array) -> jax.Array:
            return a

        def solve_transposed(_: Any, da: jax.Array) -> jax.Array:
            return jnp.clip(da, -self.bound, self.bound)

        return lax.custom_linear_solve(lambda a: a, a, solve, solve_transposed)
