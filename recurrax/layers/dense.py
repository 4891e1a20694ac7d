"""An affine map of each step, and a function of each feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._arguments import check_number
from recurrax._layer import INITIALIZER, Initializer, Params
from recurrax.cells.affine import affine
from recurrax.layers._stateless import Stateless


@dataclasses.dataclass(frozen=True, repr=False)
class Activation(Stateless):
    """Applies a function to each feature.

    y = function(x)

    Args:
        function: the function, such as `jax.nn.gelu`. Layers with the same function are equal. So
            give a lambda a name before you use it twice.

    Example:
        >>> import jax, recurrax
        >>> xs = jax.numpy.array([[-1.0, 2.0]])
        >>> recurrax.scan(recurrax.Activation(jax.nn.relu), (), xs)[1].tolist()
        [[0.0, 2.0]]
    """

    function: Callable[[jax.Array], jax.Array]

    def _outputs(self, params: Params, xs: jax.Array) -> jax.Array:
        return self.function(xs)


class DenseParams(NamedTuple):
    """Parameters of a `Dense` layer.

    Attributes:
        kernel: `[I, O]`.
        bias: `[O]`, or None.
    """

    kernel: jax.Array
    bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Dense(Stateless):
    """Applies an affine map to each step, then a nonlinearity.

    y = activation(x @ kernel + bias)

    Args:
        features: the number O of output features.
        activation: the nonlinearity; None, the default, means the identity.
        bias: whether the layer has a bias.
        kernel_init: draws `kernel`; LeCun normal by default.
        bias_init: draws `bias`; zeros by default.
        dtype: the dtype of the product; `None` follows the parameters and the inputs.

    Raises:
        ValueError: if `features` is not at least 1.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.Dense(8, jax.nn.gelu), recurrax.LSTMCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 4)
    """

    features: int
    activation: Callable[[jax.Array], jax.Array] | None = None
    bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.lecun_normal, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("features", self.features)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> DenseParams:
        """Draws `kernel` `[I, O]` and `bias` `[O]`."""
        kernel_key, bias_key = jax.random.split(key)
        # An initializer draws in float32, so that the numbers are the same for every `dtype`.
        kernel = self.kernel_init(kernel_key, (input_size, self.features), jnp.float32)
        bias = None
        if self.bias:
            bias = self.bias_init(bias_key, (self.features,), jnp.float32).astype(dtype)
        return DenseParams(kernel.astype(dtype), bias)

    def output_size(self, input_size: int) -> int:
        """Returns `features`."""
        return self.features

    def _outputs(self, params: DenseParams, xs: jax.Array) -> jax.Array:
        ys = affine(xs, params.kernel, params.bias)
        if self.activation is None:
            return ys
        return self.activation(ys)
