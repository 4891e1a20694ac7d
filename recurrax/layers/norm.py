"""Normalization of the features of each step."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._dtype import widened
from recurrax.cells._normalize import layer_norm, rms_norm
from recurrax.layers._stateless import Stateless


class NormParams(NamedTuple):
    """Parameters of a normalization layer.

    Attributes:
        scale: `[I]`.
        bias: `[I]`, or None for a layer without a bias.
    """

    scale: jax.Array
    bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class RMSNorm(Stateless):
    """Divides each step by the root of the mean square of its features.

    y = x / √(mean(x²) + epsilon) * scale

    Args:
        epsilon: a small number that is added to the mean square.
        dtype: the dtype in which the outputs are rounded before they take the dtype of the inputs.
            Statistics are in float32 or wider.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Residual(recurrax.Stack((recurrax.RMSNorm(), recurrax.GRUCell(3))))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 3)

    References:
        Zhang and Sennrich, Root mean square layer normalization, 2019,
        https://arxiv.org/abs/1910.07467
    """

    epsilon: float = 1e-6

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> NormParams:
        """Returns a scale of one."""
        return NormParams(jnp.ones(input_size, dtype))

    def _outputs(self, params: NormParams, xs: jax.Array) -> jax.Array:
        return rms_norm(widened(xs), params.scale, params.bias, self.epsilon)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNorm(Stateless):
    """Gives the features of each step mean 0 and variance 1, then a learned scale and bias.

    y = (x - mean(x)) / √(var(x) + epsilon) * scale + bias

    Args:
        epsilon: a small number that is added to the variance.
        dtype: the dtype in which the outputs are rounded before they take the dtype of the inputs.
            Statistics are in float32 or wider.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Residual(recurrax.Stack((recurrax.LayerNorm(), recurrax.GRUCell(3))))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 3)

    References:
        Ba et al., Layer normalization, 2016, https://arxiv.org/abs/1607.06450
    """

    epsilon: float = 1e-5

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> NormParams:
        """Returns a scale of one and a bias of zero."""
        return NormParams(jnp.ones(input_size, dtype), jnp.zeros(input_size, dtype))

    def _outputs(self, params: NormParams, xs: jax.Array) -> jax.Array:
        return layer_norm(widened(xs), params.scale, params.bias, self.epsilon)
