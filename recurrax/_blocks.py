"""What stands around recurrent layers: layers that take each step by itself, and the product of two branches."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._affine import affine, along
from recurrax._check import check_axes, check_layer, check_number
from recurrax._dtype import cast, compute_dtype, widened
from recurrax._layer import INITIALIZER, Initializer, Layer, Params, State, Walk


@dataclasses.dataclass(frozen=True, repr=False)
class _Stateless(Layer):
    """A layer that takes each step by itself."""

    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    @abc.abstractmethod
    def _of(self, params: Params, xs: jax.Array) -> jax.Array:
        """The outputs for inputs `[..., I]`, in the dtype of the products."""

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """No parameters."""
        return ()

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[()]:
        """No state."""
        return ()

    def output_size(self, input_size: int) -> int:
        """That of the input."""
        return input_size

    def apply(self, walk: Walk, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        """All steps at once."""
        compute = compute_dtype(self, params, xs)
        return state, self._of(cast(params, compute), cast(xs, compute)).astype(xs.dtype)


@dataclasses.dataclass(frozen=True, repr=False)
class Activation(_Stateless):
    """A function of each feature.

    y = function(x)

    Args:
        function: the function, such as `jax.nn.gelu`. Layers compare by it, so name a lambda before you use it twice.

    Example:
        >>> import jax, recurrax
        >>> recurrax.scan(recurrax.Activation(jax.nn.relu), (), jax.numpy.array([[-1.0, 2.0]]))[1].tolist()
        [[0.0, 2.0]]
    """

    function: Callable[[jax.Array], jax.Array]

    def _of(self, params: Params, xs: jax.Array) -> jax.Array:
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
class Dense(_Stateless):
    """An affine map of each step, and a nonlinearity.

    y = activation(x @ kernel + bias)

    Args:
        features: the number of features O of the output.
        activation: the nonlinearity; None, the default, for the identity.
        bias: whether there is a bias.
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
    kernel_init: Initializer = dataclasses.field(default=initializers.lecun_normal, kw_only=True, metadata=INITIALIZER)
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True, metadata=INITIALIZER)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("features", self.features)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> DenseParams:
        """Draws `kernel` `[I, O]` and `bias` `[O]`."""
        kernel_key, bias_key = jax.random.split(key)
        return DenseParams(
            kernel=self.kernel_init(kernel_key, (input_size, self.features), jnp.float32).astype(dtype),
            bias=self.bias_init(bias_key, (self.features,), jnp.float32).astype(dtype) if self.bias else None,
        )

    def output_size(self, input_size: int) -> int:
        """`features`."""
        return self.features

    def _of(self, params: DenseParams, xs: jax.Array) -> jax.Array:
        ys = affine(xs, params.kernel, params.bias)
        return ys if self.activation is None else self.activation(ys)


class NormParams(NamedTuple):
    """Parameters of a normalising layer.

    Attributes:
        scale: `[I]`.
        bias: `[I]`, or None where the layer has none.
    """

    scale: jax.Array
    bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class RMSNorm(_Stateless):
    """Divides each step by the root of the mean square of its features.

    y = x / √(mean(x²) + epsilon) * scale

    Args:
        epsilon: what is added to the mean square.
        dtype: the dtype of the outputs before they take that of the inputs; statistics are of at least float32.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Residual(recurrax.Stack((recurrax.RMSNorm(), recurrax.GRUCell(3))))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 3)

    References:
        Zhang and Sennrich, Root mean square layer normalization, 2019, https://arxiv.org/abs/1910.07467
    """

    epsilon: float = 1e-6

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> NormParams:
        """A scale of one."""
        return NormParams(jnp.ones(input_size, dtype))

    def _of(self, params: NormParams, xs: jax.Array) -> jax.Array:
        return _scaled(params, widened(xs), self.epsilon)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNorm(_Stateless):
    """Gives the features of each step mean 0 and variance 1, then a learned scale and bias.

    y = (x - mean(x)) / √(var(x) + epsilon) * scale + bias

    Args:
        epsilon: what is added to the variance.
        dtype: the dtype of the outputs before they take that of the inputs; statistics are of at least float32.

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
        """A scale of one and a bias of zero."""
        return NormParams(jnp.ones(input_size, dtype), jnp.zeros(input_size, dtype))

    def _of(self, params: NormParams, xs: jax.Array) -> jax.Array:
        xs = widened(xs)
        return _scaled(params, xs - jnp.mean(xs, axis=-1, keepdims=True), self.epsilon)


def _scaled(params: NormParams, xs: jax.Array, epsilon: float) -> jax.Array:
    ys = xs * lax.rsqrt(jnp.mean(xs * xs, axis=-1, keepdims=True) + epsilon) * along(params.scale, xs)
    return ys if params.bias is None else ys + along(params.bias, ys)


class Branches(NamedTuple):
    """Parameters or states of a `Gated` layer.

    Attributes:
        layer: those of the layer.
        gate: those of the gate.
    """

    layer: Any
    gate: Any


@dataclasses.dataclass(frozen=True, repr=False)
class Gated(Layer):
    """The product of two branches, both of which read the inputs.

    ys = layer(xs) * gate(xs)

    Parameters and states are `Branches(layer, gate)`.

    Args:
        layer: one branch.
        gate: the other, with as many features in its output.

    Raises:
        TypeError: if a branch is not a layer.
        ValueError: at `init`, if the branches put out different numbers of features.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Gated(recurrax.MinGRUCell(4), recurrax.Dense(4, jax.nn.sigmoid))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 4)

    References:
        Dauphin et al., Language modeling with gated convolutional networks, 2017, https://arxiv.org/abs/1612.08083
    """

    layer: Layer
    gate: Layer

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)
        check_layer("gate", self.gate)
        check_axes("gate", self.layer, self.gate)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Both branches."""
        return (self.layer, self.gate)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Branches:
        """Draws the parameters of both branches."""
        self.output_size(input_size)
        keys = jax.random.split(key)
        return Branches(*(part.init(k, input_size, dtype) for part, k in zip(self.parts, keys, strict=True)))

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Branches:
        """The initial state of each branch."""
        return Branches(*(part.initial_state(batch_shape, dtype) for part in self.parts))

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Branches:
        """The first state of each branch."""
        pairs = zip(self.parts, params, strict=True)
        return Branches(*(part.first_state(own, batch_shape, dtype) for part, own in pairs))

    def output_size(self, input_size: int) -> int:
        """The one that both branches share."""
        size, other = (part.output_size(input_size) for part in self.parts)
        if size != other:
            raise ValueError(
                f"`gate` of Gated must put out as many features as `layer`, {size}; got {other} from {self.gate}."
            )
        return size

    def apply(self, walk: Walk, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs both branches over the inputs and multiplies what they say of each step."""
        states, outputs = [], []
        for part_walk, part, part_params, part_state in zip(walk.split(2), self.parts, params, state, strict=True):
            part_state, ys = part_walk(part, part_params, part_state, xs)
            states.append(part_state)
            outputs.append(ys)
        return Branches(*states), outputs[0] * outputs[1]
