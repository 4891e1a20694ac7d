"""Cells with a diagonal recurrent kernel: each unit reads only its own state."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from recurrax._layer import INITIALIZER, Initializer, Params
from recurrax.cells.affine import broadcast_to_rank
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0)


@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalCell:
    """The diagonal recurrent kernel `[G*H]`: u = h * recurrent_kernel + recurrent_bias.

    This class is the first base of a cell; the affine cell with the equations is the second base.
    It is not a cell: a dataclass takes all fields of its first base. As an `AffineCell` it would
    restore the fields that the second base has changed.
    """

    recurrent_kernel_init: Initializer = dataclasses.field(
        default=_uniform, kw_only=True, metadata=INITIALIZER
    )

    independent_units: ClassVar[bool] = True

    def recurrent_shape(self: Any, state_size: int) -> tuple[int, ...]:
        """The shape of one gate of `recurrent_kernel`, `[H]`."""
        return (self.hidden_size,)

    def project_state(self: Any, params: Params, h: jax.Array) -> jax.Array:
        """`u = h * recurrent_kernel + recurrent_bias`, gate by gate."""
        # h stands once for each gate, beside `recurrent_kernel` [G*H].
        u = jnp.concatenate([h] * self.gates, axis=-1)
        u = u * broadcast_to_rank(params.recurrent_kernel, h)
        if params.recurrent_bias is None:
            return u
        return u + broadcast_to_rank(params.recurrent_bias, h)


@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalGRUCell(DiagonalCell, GRUCell):
    """The gated recurrent unit with a diagonal recurrent kernel.

    r = σ(z_r + u_r),  z = σ(z_z + u_z),  n = tanh(z_n + r * u_n),  h' = (1 - z) * n + z * h,

    where z_* = x @ kernel + bias and u_* = h * recurrent_kernel + recurrent_bias. Units meet in the
    kernel of the next layer. The Jacobian of a step is diagonal. So `recurrax.experimental.Newton`
    uses the exact Jacobian, at the cost of the step.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent term has a separate bias; `None` for the same as
            `bias`.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[H]`; uniform in [-1, 1) by
            default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.DiagonalGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs, newton = jax.numpy.ones((2, 7, 3)), recurrax.experimental.Newton()
        >>> state, ys = recurrax.scan(cell, params, xs, implementation=newton)
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 4), (12,))

    References:
        Danieli et al., ParaRNN: unlocking parallel training of nonlinear RNNs for large language
        models, 2025, https://arxiv.org/abs/2510.21450
    """

    # The product is elementwise, so both places of the reset gate are one cell up to the bias.
    reset_after: bool = dataclasses.field(default=True, init=False)


@dataclasses.dataclass(frozen=True, repr=False)
class DiagonalLSTMCell(DiagonalCell, LSTMCell):
    """Long short-term memory with a diagonal recurrent kernel.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'),

    where z = x @ kernel + bias and u = h * recurrent_kernel + recurrent_bias. Units meet in the
    kernel of the next layer. The Jacobian of a step is 2 x 2 for each unit. So
    `recurrax.experimental.Newton` uses the exact Jacobian, at about the cost of the step.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`; without `bias`
            it has no effect.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent term has a separate bias.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[H]`; uniform in [-1, 1) by
            default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.DiagonalLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs, newton = jax.numpy.ones((2, 7, 3)), recurrax.experimental.Newton()
        >>> state, ys = recurrax.scan(cell, params, xs, implementation=newton)
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 4), (16,))

    References:
        Danieli et al., ParaRNN: unlocking parallel training of nonlinear RNNs for large language
        models (whose LSTM has coupled gates and peepholes too), 2025,
        https://arxiv.org/abs/2510.21450
    """

    proj_size: int = dataclasses.field(default=0, init=False)
