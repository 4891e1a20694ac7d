"""A recurrent kernel of low rank."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._arguments import SIZE
from recurrax._layer import Params, State
from recurrax.cells.affine import AffineCell, affine, draw_gates
from recurrax.layers._wrapper import AffineStandIn, CellWrapper


class LowRankParams(NamedTuple):
    """Parameters of a `LowRank` of rank R.

    Attributes:
        layer: the parameters of the cell, with None as `recurrent_kernel`.
        left: `[O, R]`: how the units are read.
        right: `[R, G*H]`: how the gates are driven.
    """

    layer: Any
    left: jax.Array
    right: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class LowRank(CellWrapper):
    """A cell whose recurrent kernel is a product of two thin matrices.

    u = (h @ left) @ right + recurrent_bias

    The recurrence passes through R numbers. `left` holds the vectors n of the paper, which select,
    and `right` holds its vectors m, without the factor 1 / H. The gates of an LSTM or a GRU share
    `left`.

    No step and no gradient forms the full kernel, H * G*H numbers. A step has R * (O + G*H)
    multiplications. The layer has the state of the cell.

    Args:
        layer: an affine cell whose recurrent kernel is one matrix, such as a `LeakyCell`, an LSTM
            or a GRU.
        rank: the number R.

    Raises:
        TypeError: if `layer` is no such cell.
        ValueError: if `rank` is not positive, or above the number of features of h.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.LowRank(recurrax.LeakyCell(100), 2)
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 100)
        >>> params.left.shape, params.right.shape, params.layer.recurrent_kernel
        ((100, 2), (2, 100), None)

    References:
        Mastrogiuseppe and Ostojic, Linking connectivity, dynamics, and computations in low-rank
        recurrent neural networks, 2018, https://arxiv.org/abs/1711.09672

        Kuchaiev and Ginsburg, Factorization tricks for LSTM networks, 2017,
        https://arxiv.org/abs/1703.10722
    """

    layer: AffineCell
    rank: int = dataclasses.field(default=1, metadata=SIZE)

    def __post_init__(self) -> None:
        super().__post_init__()
        cell = self.layer
        # A cell with another recurrent product, such as `SLSTMCell`, has no one kernel to replace.
        plain = isinstance(cell, AffineCell) and cell.is_affine and cell.plain_state
        if not plain or cell.feature_ndim != 1:
            raise TypeError(
                "`layer` of LowRank must be an affine cell with one `recurrent_kernel` [H, G*H], "
                f"such as LeakyCell(128) or GRUCell(128); got {cell!r}."
            )
        size = self._state_size
        if self.rank > size:
            raise ValueError(
                f"`rank` of LowRank must be at most {size}, as h has; got {self.rank}."
            )

    @property
    def _state_size(self) -> int:
        """The number O of features of h."""
        return jax.eval_shape(self.layer.initial_state).h.shape[-1]

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> LowRankParams:
        """Draws the cell, `left`, and each gate of `right` by the cell's `recurrent_kernel_init`.

        With orthogonal matrices, each gate of the product has R singular values of 1.
        """
        key, left_key, right_key = jax.random.split(key, 3)
        cell, draw = self.layer, self.layer.recurrent_kernel_init
        # The full kernel is not drawn.
        light = dataclasses.replace(cell, recurrent_kernel_init=initializers.zeros)
        params = light.init(key, input_size, dtype)._replace(recurrent_kernel=None)
        # The columns of `left` and the rows of `right` are orthonormal by default.
        left = draw(left_key, (self._state_size, self.rank), jnp.float32)
        shape = (self.rank, cell.hidden_size)
        right = draw_gates(draw, right_key, cell.gates, shape, dtype)
        return LowRankParams(params, left.astype(dtype), right)

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the first state of the cell."""
        return self.layer.first_state(params.layer, batch_shape, dtype)

    def replacement(
        self, cell: AffineCell, key: jax.Array | None, params: Params, state: State, xs: Any
    ) -> tuple:
        """Returns the cell with two thin products."""
        return _LowRank.of(cell), params, xs


@dataclasses.dataclass(frozen=True, repr=False)
class _LowRank(AffineStandIn):
    """A cell with `LowRankParams`."""

    def cell_params(self, params: LowRankParams) -> Params:
        return params.layer

    def project_state(self, params: LowRankParams, h: jax.Array) -> jax.Array:
        read = affine(h, params.left)  # [*B, R]
        return affine(read, params.right, params.layer.recurrent_bias)  # [*B, G*H]
