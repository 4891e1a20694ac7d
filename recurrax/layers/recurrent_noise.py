"""Gaussian noise on the inputs of a cell and on its pre-activations."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recurrax._layer import Params, State
from recurrax.cells.affine import AffineCell
from recurrax.layers._random import normal
from recurrax.layers._wrapper import AffineStandIn, CellWrapper


@dataclasses.dataclass(frozen=True, repr=False)
class RecurrentNoise(CellWrapper):
    """Adds Gaussian noise to the pre-activations of a cell, and to its inputs, at every step.

    z_t = (x_t + scale * input_sigma * η_t) @ kernel + bias + scale * sigma * ξ_t

    η_t has one standard normal number for each input. ξ_t has one for each unit of each gate: the
    noise of a unit is private. The scale is 1, and √(2 / alpha) for a `LeakyCell`. There the noise
    is white in continuous time, √(2 * tau) * sigma * ξ, and `sigma` means the same for every `dt`.

    The layer acts only when `scan` has a key. It has the parameters and the state of the cell.

    Args:
        layer: an affine cell, such as a `LeakyCell` or a GRU; or layers that keep such a cell
            affine.
        sigma: the standard deviation of the noise on each unit, before the scale.
        input_sigma: the standard deviation of the noise on each input, before the scale.

    Raises:
        TypeError: if `layer` is neither.
        ValueError: if a standard deviation is negative.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.RecurrentNoise(recurrax.LeakyCell(4), 0.05, input_sigma=0.01)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> xs = jax.numpy.ones((2, 7, 3))
        >>> _, ys = recurrax.scan(layer, params, xs, key=jax.random.key(1))
        >>> _, still = recurrax.scan(layer, params, xs)
        >>> ys.shape, bool((ys == still).all())
        ((2, 7, 4), False)

    References:
        Yang et al., Task representations in neural networks trained to perform many cognitive
        tasks, 2019, https://doi.org/10.1038/s41593-018-0310-2

        Jim et al., An analysis of noise in recurrent neural networks: convergence and
        generalization, 1996, https://doi.org/10.1109/72.548170
    """

    layer: AffineCell | CellWrapper
    sigma: float = 0.05
    input_sigma: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # The noise enters z, so the step must be one recurrent product and `pointwise`.
        if self.affine_cell is None or not self.affine_cell.is_affine:
            raise TypeError(
                "`layer` of RecurrentNoise must be an affine cell, such as LeakyCell(128) or "
                f"GRUCell(128); got {self.layer!r}."
            )
        for name in ("sigma", "input_sigma"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"`{name}` of RecurrentNoise must be at least 0; got {getattr(self, name)}."
                )

    @property
    def stochastic(self) -> bool:
        """Whether a standard deviation is positive."""
        return self.sigma > 0 or self.input_sigma > 0 or self.layer.stochastic

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell with noise for every step."""
        if key is None:
            return cell, params, xs
        scale = cell.noise_scale
        # The other noise does not change if one of them is switched off.
        key, input_key = jax.random.split(key)
        if self.input_sigma:
            noise = scale * self.input_sigma * normal(input_key, xs)  # [T, *B, I]
            xs = xs + noise.astype(xs.dtype)
        if not self.sigma:
            return cell, params, xs
        # The noise of a step has the shape of z, [*B, G*H]. It stands behind the inputs: one array
        # serves every implementation.
        zs = jax.eval_shape(cell.project_inputs, params, xs)
        noise = scale * self.sigma * normal(key, xs, zs.shape)  # [T, *B, G*H]
        xs = jnp.concatenate([xs, noise.astype(xs.dtype)], axis=-1)  # [T, *B, I + G*H]
        return _Noisy.of(cell, width=zs.shape[-1]), params, xs


@dataclasses.dataclass(frozen=True, repr=False)
class _Noisy(AffineStandIn):
    """A cell whose inputs end with the noise on z: `width` more features."""

    width: int = dataclasses.field(default=0, kw_only=True)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        # [..., I] and [..., G*H]
        xs, noise = jnp.split(xs, [xs.shape[-1] - self.width], axis=-1)
        z = self.cell.project_inputs(params, xs)
        return z + noise.astype(z.dtype)
