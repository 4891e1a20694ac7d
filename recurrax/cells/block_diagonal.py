"""Cells with a block-diagonal recurrent kernel: heads that do not meet in the recurrence."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._layer import Params
from recurrax.cells._heads import check_heads, draw_heads, project_heads
from recurrax.cells.gru import GRUCell, GRUParams
from recurrax.cells.lstm import LSTMCell, LSTMParams


@dataclasses.dataclass(frozen=True, repr=False)
class BlockDiagonalCell:
    """The block-diagonal recurrent kernel `[N, D, G*D]` of N heads with D = H / N features each.

    This class is the first base of a cell; the affine cell with the equations is the second base.
    It is not a cell, as `DiagonalCell` is not.
    """

    num_heads: int = dataclasses.field(default=1, kw_only=True)

    def recurrent_shape(self: Any, state_size: int) -> tuple[int, ...]:
        """The shape of one gate of `recurrent_kernel`, `[N, D, D]`."""
        size = self.hidden_size // self.num_heads
        return (self.num_heads, size, size)

    def without_heads(self: Any) -> Any:
        """The cell that draws zeros as its recurrent kernel; `with_heads` draws the heads."""
        return dataclasses.replace(self, recurrent_kernel_init=initializers.zeros)

    def with_heads(self: Any, params: Params, key: jax.Array) -> Params:
        """The parameters with a recurrent kernel drawn head by head and gate by gate."""
        size, dtype = self.hidden_size // self.num_heads, params.recurrent_kernel.dtype
        draw = self.recurrent_kernel_init
        kernel = draw_heads(draw, key, self.num_heads, self.gates, size, dtype)
        return params._replace(recurrent_kernel=kernel)

    def project_state(self: Any, params: Params, h: jax.Array) -> jax.Array:
        """`u = h @ recurrent_kernel + recurrent_bias` for each head; `[*B, G*H]`, gate by gate."""
        return project_heads(h, params.recurrent_kernel, params.recurrent_bias)


@dataclasses.dataclass(frozen=True, repr=False)
class BlockDiagonalLSTMCell(BlockDiagonalCell, LSTMCell):
    """Long short-term memory in N heads, whose recurrent kernel is block-diagonal.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'),

    where z = x @ kernel + bias, and in head n, u = h_n @ recurrent_kernel[n] + recurrent_bias. A
    head reads its own D = H / N features of h alone. All heads read all inputs, and they meet in
    the kernel of the next layer. The recurrent product has H * 4*D weights, N times fewer than the
    product of an LSTM. With one head it is an LSTM.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        num_heads: the number N of heads.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `[D, D]` for each gate of each head; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive, or `num_heads` does not divide it.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.BlockDiagonalLSTMCell(8, num_heads=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 8), (2, 4, 16))

    References:
        Pöppel et al., FlashRNN: I/O-aware optimization of traditional RNNs on modern hardware,
        2025, https://arxiv.org/abs/2412.07752

        Kuchaiev and Ginsburg, Factorization tricks for LSTM networks (whose groups divide the
        inputs too), 2017, https://arxiv.org/abs/1703.10722
    """

    # A projection would mix the heads.
    proj_size: int = dataclasses.field(default=0, init=False)

    params_type: ClassVar[type] = LSTMParams

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, heads_key = jax.random.split(key)
        params = LSTMCell.init(self.without_heads(), key, input_size, dtype)
        return self.with_heads(params, heads_key)


@dataclasses.dataclass(frozen=True, repr=False)
class BlockDiagonalGRUCell(BlockDiagonalCell, GRUCell):
    """The gated recurrent unit in N heads, whose recurrent kernel is block-diagonal.

    r = σ(z_r + u_r),  z = σ(z_z + u_z),  n = tanh(z_n + r * u_n),  h' = (1 - z) * n + z * h,

    where z_* = x @ kernel + bias, and in head n, u_* = h_n @ recurrent_kernel[n] + recurrent_bias.
    A head reads its own D = H / N features of h alone. All heads read all inputs, and they meet in
    the kernel of the next layer. With one head it is a GRU.

    Args:
        hidden_size: the number of features H of the state.
        num_heads: the number N of heads.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias; `None` for the same as
            `bias`.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `[D, D]` for each gate of each head; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive, or `num_heads` does not divide it.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.BlockDiagonalGRUCell(8, num_heads=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 8), (2, 4, 12))

    References:
        Pöppel et al., FlashRNN: I/O-aware optimization of traditional RNNs on modern hardware,
        2025, https://arxiv.org/abs/2412.07752
    """

    # With the reset gate before the product, the candidate would need a product of its own.
    reset_after: bool = dataclasses.field(default=True, init=False)

    params_type: ClassVar[type] = GRUParams

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Draws the parameters."""
        key, heads_key = jax.random.split(key)
        params = GRUCell.init(self.without_heads(), key, input_size, dtype)
        return self.with_heads(params, heads_key)
