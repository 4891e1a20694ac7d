"""The common part of the complex diagonal recurrences: the state and both products."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax._arguments import OPTIONAL_SIZE, describe
from recurrax._dtype import promote, widened
from recurrax._layer import Params
from recurrax.cells.affine import affine, broadcast_to_rank
from recurrax.cells.linear import Coefficients, LinearCell, LinearState


@dataclasses.dataclass(frozen=True, repr=False)
class ComplexDiagonalCell(LinearCell):
    """A linear recurrence whose kernel is a complex diagonal, the same at every step.

    h' = exp(log_a) * h + scale * B x
    y = factor * Re(C h') + D x

    Its parameters have three arrays. `kernel` `[I, 2*N]` holds Re B before Im B. `output_kernel`
    `[2*N, H]` holds Re C above Im C. `skip` is D: `[H]`, or `[I, H]` if the inputs do not have H
    features.
    """

    state_size: int = dataclasses.field(default=0, metadata=OPTIONAL_SIZE)

    factor: ClassVar[float] = 1.0

    @property
    def modes(self) -> int:
        """The number N of complex numbers in the state."""
        return self.state_size or self.hidden_size

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LinearState:
        """Complex zeros `[*B, N]`; a float32 state has dtype complex64."""
        return LinearState(jnp.zeros((*batch_shape, self.modes), promote(dtype, jnp.complex64)))

    def draw_skip(self, key: jax.Array, input_size: int) -> jax.Array:
        """Draws D, so that D x has variance 1 for inputs of variance 1."""
        if input_size == self.hidden_size:
            return jax.random.normal(key, (input_size,))
        # With I != H, D is a matrix. Each output is a sum of I terms.
        return jax.random.normal(key, (input_size, self.hidden_size)) * input_size**-0.5

    def coefficients(
        self, params: Params, xs: jax.Array, log_a: jax.Array, scale: jax.Array
    ) -> Coefficients:
        """The coefficients of every step, from `log_a` and `scale` `[N]`; `rest` is D x."""
        if jnp.iscomplexobj(xs):
            raise TypeError(
                f"`xs` must be of a floating dtype for {self}, whose inputs are real; "
                f"got {describe(xs)}. Give real and imaginary parts as features."
            )
        # b is scale * B x; the kernel holds Re B before Im B.
        b = lax.complex(*jnp.split(widened(affine(xs, params.kernel)), 2, axis=-1))
        b = broadcast_to_rank(scale, b) * b
        a = broadcast_to_rank(jnp.exp(log_a), b)
        # Every step has a row of a. The batch axes keep size 1, which saves products of a.
        if xs.ndim > 1:
            a = jnp.repeat(a, xs.shape[0], axis=0)
        if params.skip.ndim == 1:
            return Coefficients(a, b, xs * broadcast_to_rank(params.skip, xs))
        return Coefficients(a, b, affine(xs, params.skip))

    def outputs(self, params: Params, hs: jax.Array, rest: Any) -> jax.Array:
        """Re(C h) + D x."""
        # Re(C h) = Re C Re h - Im C Im h, as one product.
        y = affine(jnp.concatenate([hs.real, -hs.imag], axis=-1), params.output_kernel)
        return self.factor * y + rest.astype(y.dtype)
