"""What the complex diagonal recurrences share: their state, and the products before and behind it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax._arguments import describe
from recurrax._dtype import promote, widened
from recurrax._layer import Params
from recurrax.cells.affine import affine, along
from recurrax.cells.linear import Coefficients, LinearCell, LinearState


@dataclasses.dataclass(frozen=True, repr=False)
class ComplexDiagonalCell(LinearCell):
    """A linear recurrence whose kernel is a complex diagonal, the same at every step.

    h' = exp(log_a) * h + scale * B x
    y = factor * Re(C h') + D x

    Its parameters have `kernel` `[I, 2*N]`, Re B before Im B; `output_kernel` `[2*N, H]`, Re C above Im C; and `skip`,
    D, `[H]`, or `[I, H]` where the inputs do not have H features.
    """

    state_size: int = 0

    factor: ClassVar[float] = 1.0

    @property
    def modes(self) -> int:
        """The number N of complex numbers in the state."""
        return self.state_size or self.hidden_size

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> LinearState:
        """Zeros, complex, `[*B, N]`: of complex64 for float32."""
        return LinearState(jnp.zeros((*batch_shape, self.modes), promote(dtype, jnp.complex64)))

    def draw_skip(self, key: jax.Array, input_size: int) -> jax.Array:
        """D: standard normal where it is a diagonal, else such that its product is."""
        if input_size == self.hidden_size:
            return jax.random.normal(key, (input_size,))
        return jax.random.normal(key, (input_size, self.hidden_size)) * input_size**-0.5

    def coefficients(self, params: Params, xs: jax.Array, log_a: jax.Array, scale: jax.Array) -> Coefficients:
        """Those of every step, from what is the same at all of them, `[N]`; `rest` is D x."""
        if jnp.iscomplexobj(xs):
            raise TypeError(
                f"`xs` must be of a floating dtype for {self}, whose inputs are real; "
                f"got {describe(xs)}. Give real and imaginary parts as features."
            )
        b = lax.complex(*jnp.split(widened(affine(xs, params.kernel)), 2, axis=-1))
        b = along(scale, b) * b
        a = along(jnp.exp(log_a), b)
        if xs.ndim > 1:  # One for every step; that it is the same for the whole batch saves products of them.
            a = jnp.repeat(a, xs.shape[0], axis=0)
        return Coefficients(a, b, xs * along(params.skip, xs) if params.skip.ndim == 1 else affine(xs, params.skip))

    def outputs(self, params: Params, hs: jax.Array, rest: Any) -> jax.Array:
        """Re(C h) + D x; both parts of h in one product."""
        y = affine(jnp.concatenate([hs.real, -hs.imag], axis=-1), params.output_kernel)
        return self.factor * y + rest.astype(y.dtype)
