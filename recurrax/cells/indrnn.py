"""The independently recurrent network: each unit sees of the state only itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._affine import along
from recurrax._layer import Initializer
from recurrax.cells.elman import ElmanCell

_uniform = jax.nn.initializers.uniform(1.0)


class IndRNNParams(NamedTuple):
    """Parameters of an `IndRNNCell`.

    Attributes:
        kernel: `[I, H]`.
        recurrent_kernel: `[H]`.
        bias: `[H]`, or None.
        recurrent_bias: `[H]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class IndRNNCell(ElmanCell):
    """The independently recurrent network: Elman's, with a diagonal for its recurrent kernel.

    h' = activation(x @ kernel + bias + h * recurrent_kernel + recurrent_bias)

    Units meet in the kernel of the next layer, so it is made for stacks. Over T steps a unit's gradient grows at most
    as `abs(recurrent_kernel)` to the power of T; to bound that by γ, 2 for example, clip `recurrent_kernel` to
    ±γ^(1/T) after each update.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity; ReLU by default.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent term has a bias of its own.
        kernel_init: draws `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `recurrent_kernel` `[H]`; uniform in [0, 1) by default.
        bias_init: draws each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.IndRNNCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 4), (4,))

    References:
        Li et al., Independently recurrent neural network (IndRNN): building a longer and deeper RNN, 2018,
        https://arxiv.org/abs/1803.04831
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    recurrent_kernel_init: Initializer = dataclasses.field(default=_uniform, kw_only=True)

    params_type: ClassVar[type] = IndRNNParams

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> IndRNNParams:
        """Draws `kernel` `[I, H]`, and `recurrent_kernel` and the biases `[H]`."""
        keys, size = jax.random.split(key, 4), self.hidden_size

        def draw(initializer: Initializer, key: jax.Array, *shape: int) -> jax.Array:
            return initializer(key, shape, jnp.float32).astype(dtype)

        return IndRNNParams(
            kernel=draw(self.kernel_init, keys[0], input_size, size),
            recurrent_kernel=draw(self.recurrent_kernel_init, keys[1], size),
            bias=draw(self.bias_init, keys[2], size) if self.bias else None,
            recurrent_bias=draw(self.bias_init, keys[3], size) if self.recurrent_bias else None,
        )

    def project_state(self, params: IndRNNParams, h: jax.Array) -> jax.Array:
        """`u = h * recurrent_kernel + recurrent_bias`."""
        u = h * along(params.recurrent_kernel, h)
        return u if params.recurrent_bias is None else u + along(params.recurrent_bias, h)
