"""The independently recurrent network: each unit reads only its own state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from recurrax._layer import INITIALIZER, Initializer
from recurrax.cells.diagonal import DiagonalCell
from recurrax.cells.elman import ElmanCell
from recurrax.cells.layer_norm import LayerNormElmanCell


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype)


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
class IndRNNCell(DiagonalCell, ElmanCell):
    """The independently recurrent network: Elman's network with a diagonal recurrent kernel.

    h' = activation(x @ kernel + bias + h * recurrent_kernel + recurrent_bias)

    Units meet in the kernel of the next layer, so the cell is made for stacks. Over T steps a
    unit's gradient grows at most as `abs(recurrent_kernel)` to the power of T. To bound this growth
    by γ, such as 2, clip `recurrent_kernel` to ±γ^(1/T) after each update.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity; ReLU by default.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent term has a separate bias.
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
        Li et al., Independently recurrent neural network (IndRNN): building a longer and deeper
        RNN, 2018, https://arxiv.org/abs/1803.04831
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    recurrent_kernel_init: Initializer = dataclasses.field(
        default=_uniform, kw_only=True, metadata=INITIALIZER
    )

    params_type: ClassVar[type] = IndRNNParams


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormIndRNNCell(DiagonalCell, LayerNormElmanCell):
    """The independently recurrent network with layer normalization of both terms' sum.

    h' = activation(LN(x @ kernel + h * recurrent_kernel) * scale + bias)
    LN(a) = (a - mean(a)) / √(var(a) + epsilon)

    The authors of IndRNN normalize over the batch. This cell normalizes over the features, so units
    meet in the mean and the variance.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity.
        epsilon: a small number that is added to each variance.
        bias: whether there is a bias.
        kernel_init: draws `kernel` `[I, H]`; Glorot uniform by default.
        recurrent_kernel_init: draws `recurrent_kernel` `[H]`; uniform in [0, 1) by default.
        bias_init: draws the bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LayerNormIndRNNCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, params.recurrent_kernel.shape
        ((2, 7, 4), (4,))

    References:
        Li et al., Independently recurrent neural network (IndRNN): building a longer and deeper
        RNN, 2018, https://arxiv.org/abs/1803.04831

        Ba et al., Layer normalization, 2016, https://arxiv.org/abs/1607.06450
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    recurrent_kernel_init: Initializer = dataclasses.field(
        default=_uniform, kw_only=True, metadata=INITIALIZER
    )

    # The mean and the variance join all units.
    independent_units: ClassVar[bool] = False
