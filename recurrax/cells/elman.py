"""Elman's recurrent network, the plain RNN."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import AffineCell, Gates, Update, unchanged


class ElmanParams(NamedTuple):
    """Parameters of an `ElmanCell`.

    Attributes:
        kernel: `[I, H]`.
        recurrent_kernel: `[H, H]`.
        bias: `[H]`, or None.
        recurrent_bias: `[H]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None


class ElmanState(NamedTuple):
    """State of an `ElmanCell`.

    Attributes:
        h: the output of the last step, `[*B, H]`.
    """

    h: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class ElmanCell(AffineCell):
    """Elman's cell: PyTorch's `RNN`, Keras' `SimpleRNN`.

    h' = activation(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias)

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias, as in PyTorch.
        kernel_init: draws `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `recurrent_kernel`; orthogonal by default.
        bias_init: draws each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.ElmanCell(4, jax.nn.relu)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Elman, Finding structure in time, 1990, https://doi.org/10.1207/s15516709cog1402_1
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh

    gates: ClassVar[int] = 1
    params_type: ClassVar[type] = ElmanParams
    state_type: ClassVar[type] = ElmanState
    output_part: ClassVar[str] = "h"

    def pointwise(
        self, params: ElmanParams, a: Gates, state: ElmanState, update: Update = unchanged
    ) -> tuple[ElmanState, jax.Array]:
        """activation(z + u)."""
        h = update(keeps_output(self.activation)(*a))
        return ElmanState(h), h
