"""The linear recurrent unit: a complex diagonal recurrence that is always stable."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax._dtype import widened
from recurrax.cells._complex import ComplexDiagonalCell
from recurrax.cells.linear import Coefficients


class LRUParams(NamedTuple):
    """Parameters of an `LRUCell`, all of a floating dtype.

    Attributes:
        log_decay: log ν, `[N]`.
        log_phase: log θ, `[N]`.
        log_scale: log γ, `[N]`.
        kernel: B, `[I, 2*N]`, its real part before its imaginary part.
        output_kernel: C, `[2*N, H]`, its real part above its imaginary part.
        skip: D, `[H]`, or `[I, H]` if the inputs do not have H features.
    """

    log_decay: jax.Array
    log_phase: jax.Array
    log_scale: jax.Array
    kernel: jax.Array
    output_kernel: jax.Array
    skip: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class LRUCell(ComplexDiagonalCell):
    """The linear recurrent unit: a complex diagonal recurrence with a decay below 1.

    h' = λ * h + γ * (x @ B),  λ = exp(-ν + iθ)
    y = Re(h' @ C) + D x,

    with ν, θ and γ the exponentials of the parameters. `init` draws λ evenly from a part of a ring:
    the modulus is between `min_radius` and `max_radius`, the phase is below `max_phase`. `init`
    sets γ = √(1 - abs(λ)²). So on white noise every part of the state has the same variance. The
    state is complex.

    Args:
        hidden_size: the number of features H of the output.
        state_size: the number N of complex numbers in the state; 0 for H.
        min_radius: the least modulus of λ at first, the paper's r_min.
        max_radius: the greatest modulus of λ at first, r_max. Nearer 1 for longer memories.
        max_phase: the greatest phase of λ at first. Smaller for longer memories.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is out of range, not 0 <= min_radius <= max_radius <= 1, `max_radius`
            is 0, or `max_phase` is not in (0, 2π].

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LRUCell(4, state_size=6, min_radius=0.9, max_radius=0.999)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jax.numpy.ones((2, 7, 3))
        >>> state, ys = recurrax.scan(cell, params, xs, implementation="associative")
        >>> ys.shape, state.h.shape, state.h.dtype.name
        ((2, 7, 4), (2, 6), 'complex64')

    References:
        Orvieto et al., Resurrecting recurrent neural networks for long sequences, 2023,
        https://arxiv.org/abs/2303.06349
    """

    min_radius: float = 0.0
    max_radius: float = 1.0
    max_phase: float = 2 * math.pi

    exact: ClassVar[tuple[str, ...]] = ("log_decay", "log_phase", "log_scale")

    def __post_init__(self) -> None:
        super().__post_init__()
        # A modulus of 0 has no logarithm. All may be 1: then nothing decays.
        if not 0 <= self.min_radius <= self.max_radius <= 1 or not self.max_radius > 0:
            raise ValueError(
                "`min_radius` and `max_radius` must be 0 <= min_radius <= max_radius <= 1, "
                f"and max_radius above 0; got {self.min_radius} and {self.max_radius}."
            )
        if not 0 < self.max_phase <= 2 * math.pi:
            raise ValueError(f"`max_phase` must be above 0 and at most 2π; got {self.max_phase}.")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LRUParams:
        """Draws λ from the ring, B and C with the variances of the paper."""
        keys, modes = jax.random.split(key, 5), self.modes
        # No draw is 0 or 1: a modulus of 0 or 1 and a phase of 0 have no logarithm here.
        u = jax.random.uniform(keys[0], (modes,), minval=1e-6, maxval=1 - 1e-6)
        v = jax.random.uniform(keys[1], (modes,), minval=1e-6, maxval=1 - 1e-6)
        # The unit is the greatest modulus, because its square may be 0 in floating point.
        low, greatest = (self.min_radius / self.max_radius) ** 2, math.log(self.max_radius)
        # The square of the modulus is uniform, so that λ is even over the area of the ring.
        decay = jnp.maximum(-greatest - 0.5 * jnp.log(low + (1 - low) * u), 1e-7)
        kernel = jax.random.normal(keys[2], (input_size, 2 * modes)) * (2 * input_size) ** -0.5
        output_kernel = jax.random.normal(keys[3], (2 * modes, self.hidden_size)) * modes**-0.5
        params = LRUParams(
            log_decay=jnp.log(decay),
            log_phase=jnp.log(self.max_phase * v),
            # γ² = 1 - abs(λ)², with abs(λ) = exp(-decay).
            log_scale=0.5 * jnp.log(-jnp.expm1(-2 * decay)),
            kernel=kernel,
            output_kernel=output_kernel,
            skip=self.draw_skip(keys[4], input_size),
        )
        return jax.tree.map(lambda p: p.astype(dtype), params)

    def project_inputs(self, params: LRUParams, xs: jax.Array) -> Coefficients:
        """λ for every step, and γ * (x @ B); `rest` is D x."""
        decay = jnp.exp(widened(params.log_decay))
        phase = jnp.exp(widened(params.log_phase))
        scale = jnp.exp(widened(params.log_scale))
        return self.coefficients(params, xs, lax.complex(-decay, phase), scale)
