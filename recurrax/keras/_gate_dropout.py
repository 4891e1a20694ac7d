"""Dropout for each gate, as in Keras. The masks are drawn once for a sequence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Params, State
from recurrax.cells.affine import AffineCell, broadcast_to_rank
from recurrax.layers._random import bernoulli
from recurrax.layers._wrapper import AffineStandIn, CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class GateDropout(CellWrapper):
    """Drops features that a gate reads, the same features at every step of a sequence.

    z_g = (m_g * x / (1 - rate)) @ kernel_g
    u_g = (n_g * h / (1 - recurrent_rate)) @ recurrent_kernel_g
    """

    layer: AffineCell
    rate: float
    recurrent_rate: float
    number: int  # of masks: one for each gate, or 1

    @property
    def stochastic(self) -> bool:
        """Whether a rate is positive."""
        return self.rate > 0 or self.recurrent_rate > 0

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """The cell with masks for all steps."""
        if key is None or not self.stochastic:
            return cell, params, xs
        keys = jax.random.split(key)
        x_masks = self._masks(keys[0], self.rate, xs[0])
        h_masks = self._masks(keys[1], self.recurrent_rate, state.h)
        return _Masked.of(cell), (params, x_masks, h_masks), xs

    def _masks(self, key: jax.Array, rate: float, like: jax.Array) -> jax.Array | None:
        if not rate:
            return None
        shape = (self.number, *like.shape)
        kept = bernoulli(key, 1 - rate, like, shape)
        return kept.astype(like.dtype) / (1 - rate)


@dataclasses.dataclass(frozen=True, repr=False)
class _Masked(AffineStandIn):
    """A cell whose parameters are `(params, masks of the inputs, masks of the state)`."""

    def cell_params(self, params: Params) -> Params:
        return params[0]

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        params, masks, _ = params
        return self._project(self.cell.project_inputs, params, masks, xs)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        params, _, masks = params
        return self._project(self.cell.project_state, params, masks, h)

    def _project(
        self, project: Callable, params: Params, masks: jax.Array | None, x: jax.Array
    ) -> jax.Array:
        if masks is None:
            return project(params, x)
        # One mask serves all gates, or each gate has a mask.
        parts = [params]
        if len(masks) > 1:
            parts = self.cell.gate_params(params)
        products = []
        for part, mask in zip(parts, masks, strict=True):
            kept = x * broadcast_to_rank(mask, x)
            products.append(project(part, kept))
        return jnp.concatenate(products, axis=-1)

    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        if self.cell.is_affine:
            return super().step(params, state, z)
        params, _, masks = params
        if masks is None:
            return self.cell.step(params, state, z)
        # The reset gate of this GRU acts on the state. Each gate reads the state through a mask.
        cell: Any = self.cell
        h_r, h_z, h_n = state.h[None] * masks  # [*B, H] each
        reset, update, candidate = cell.gate_params(params)
        u = cell.project_state(reset, h_r), cell.project_state(update, h_z)
        z = cell.split(z.astype(state.h.dtype))

        def project_candidate(r: jax.Array) -> jax.Array:
            return cell.project_state(candidate, r * h_n)

        return cell.reset_first(z, u, project_candidate, state)
