"""Cells with a diagonal for their recurrent kernel: each unit sees of the state only itself."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from recurrax._layer import INITIALIZER, Initializer, Params
from recurrax.cells.affine import along
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalCell:
    """What such cells have in common: `recurrent_kernel` is `[G*H]`, and u = h * recurrent_kernel + recurrent_bias.

    It stands before the affine cell with the equations. It is no cell itself: a dataclass takes over the fields that
    its first base inherits. So as an `AffineCell` it would bring back the fields that the other cell has changed.
    """

    recurrent_kernel_init: Initializer = dataclasses.field(default=_uniform, kw_only=True, metadata=INITIALIZER)

    independent_units: ClassVar[bool] = True

    def recurrent_shape(self: Any, state_size: int) -> tuple[int, ...]:
        """`[H]`."""
        return (self.hidden_size,)

    def project_state(self: Any, params: Params, h: jax.Array) -> jax.Array:
        """`u = h * recurrent_kernel + recurrent_bias`, gate by gate."""
        u = jnp.concatenate([h] * self.gates, axis=-1) * along(params.recurrent_kernel, h)
        return u if params.recurrent_bias is None else u + along(params.recurrent_bias, h)


@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalGRUCell(DiagonalCell, GRUCell):
    """The gated recurrent unit with a diagonal recurrent kernel.

    r = σ(z_r + u_r),  z = σ(z_z + u_z),  n = tanh(z_n + r * u_n),  h' = (1 - z) * n + z * h,

    where z_* = x @ kernel + bias and u_* = h * recurrent_kernel + recurrent_bias. Units meet in the kernel of the next
    layer. The Jacobian of a step is diagonal, so `implementation="newton"` takes it exactly at the cost of the step.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent term has a bias of its own; `None` for where `bias` is.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[H]`; uniform in [-1, 1) by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.DiagonalGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)), implementation="newton")
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 4), (12,))

    References:
        Danieli et al., ParaRNN: unlocking parallel training of nonlinear RNNs for large language models, 2025,
        https://arxiv.org/abs/2510.21450
    """

    # With a diagonal the reset gate may as well act before the product.
    reset_after: bool = dataclasses.field(default=True, init=False)


@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalLSTMCell(DiagonalCell, LSTMCell):
    """Long short-term memory with a diagonal recurrent kernel.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'),

    where z = x @ kernel + bias and u = h * recurrent_kernel + recurrent_bias. Units meet in the kernel of the next
    layer. The Jacobian of a step is 2 x 2 for each unit, so `implementation="newton"` takes it exactly at about the
    cost of the step.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: what `init` adds to the forget gate's part of `bias`; without `bias` it has no effect.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent term has a bias of its own.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[H]`; uniform in [-1, 1) by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.DiagonalLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)), implementation="newton")
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 4), (16,))

    References:
        Danieli et al., ParaRNN: unlocking parallel training of nonlinear RNNs for large language models (whose LSTM
        has coupled gates and peepholes too), 2025, https://arxiv.org/abs/2510.21450
    """

    proj_size: int = dataclasses.field(default=0, init=False)
