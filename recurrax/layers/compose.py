"""Layers made of layers: depth, two directions, dropout and residual connections."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_axes, check_layer, check_rate, expected_params
from recurrax._layer import Layer, Params, ScanContext, State, features
from recurrax.cells.timed import with_features
from recurrax.layers._wrapper import Wrapper
from recurrax.layers.dropout import Dropout


class Directions(NamedTuple):
    """Parameters or states of a `Bidirectional` layer.

    Attributes:
        forward: those of the layer that walks from the first step to the last.
        backward: those of the layer that walks from the last step to the first.
    """

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True, repr=False)
class Stack(Layer):
    """Layers one upon another: the outputs of each are the inputs of the next.

    Args:
        layers: the layers, the one that reads the inputs first. Parameters and states are tuples with one entry each.
        dropout: the rate of the dropout between one layer and the next, as PyTorch's; none after the last.

    Raises:
        TypeError: if `layers` holds anything but layers.
        ValueError: if there is no layer, or `dropout` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.LSTMCell(8), recurrax.GRUCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state[0].c.shape, state[1].h.shape
        ((2, 7, 4), (2, 8), (2, 4))

    References:
        Graves et al., Speech recognition with deep recurrent neural networks, 2013, https://arxiv.org/abs/1303.5778
    """

    layers: tuple[Layer, ...]
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Iterable):
            raise TypeError(f"`layers` of Stack must be a tuple of layers; got {self.layers!r}. Write Stack((a, b)).")
        object.__setattr__(self, "layers", tuple(self.layers))
        super().__post_init__()
        if not self.layers:
            raise ValueError("`layers` of Stack must hold at least 1 layer; got none.")
        for layer in self.layers:
            check_layer("layers", layer)
        check_rate("dropout", self.dropout)
        for below, above in itertools.pairwise(self.layers):
            check_axes("layers", below, above)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers and the dropout between them, if there is a between."""
        return (*self.layers, Dropout(self.dropout)) if len(self.layers) > 1 else self.layers

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> tuple[Params, ...]:
        """Draws the parameters of each layer for the output size of the one below."""
        params = []
        for layer, layer_key in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            params.append(layer.init(layer_key, input_size, dtype))
            input_size = layer.output_size(input_size)
        return tuple(params)

    def param_shapes(self, input_size: int) -> tuple[Params, ...]:
        """The parameters of each layer as shapes; equal layers are worked out once."""
        shapes = []
        for layer in self.layers:
            shapes.append(expected_params(layer, input_size))
            input_size = layer.output_size(input_size)
        return tuple(shapes)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[State, ...]:
        """The initial state of each layer."""
        return tuple(layer.initial_state(batch_shape, dtype) for layer in self.layers)

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[State, ...]:
        """The first state of each layer."""
        pairs = zip(self.layers, params, strict=True)
        return tuple(layer.first_state(own, batch_shape, dtype) for layer, own in pairs)

    def output_size(self, input_size: int) -> int:
        """The output size of the last layer."""
        for layer in self.layers:
            input_size = layer.output_size(input_size)
        return input_size

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs each layer over the outputs of the one below."""
        states, between = [], Dropout(self.dropout)
        contexts = context.split(2 * len(self.layers))
        for depth, layer in enumerate(self.layers):
            if depth and self.dropout:
                xs = with_features(xs, contexts[2 * depth].scan(between, (), (), xs)[1])
            layer_state, ys = contexts[2 * depth + 1].scan(layer, params[depth], state[depth], xs)
            xs = with_features(xs, ys)
            states.append(layer_state)
        return tuple(states), ys


MERGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concat": lambda ys, zs: jnp.concatenate([ys, zs], axis=-1),
    "sum": jnp.add,
    "mul": jnp.multiply,
    "ave": lambda ys, zs: (ys + zs) / 2,
}


@dataclasses.dataclass(frozen=True, repr=False)
class Bidirectional(Layer):
    """Two layers that walk the sequence in opposite directions, their outputs merged step by step.

    Parameters and states are `Directions(forward, backward)`. It reads the future, so it cannot be stepped.

    Args:
        forward: the layer that walks from the first step to the last.
        backward: the layer that walks from the last step to the first; by default one like `forward`, with parameters
            of its own.
        merge: how two outputs become one: `concat`, `sum`, `mul` or `ave`, as in Keras.

    Raises:
        TypeError: if a direction is not a layer.
        ValueError: if `merge` is not one of the four.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Bidirectional(recurrax.GRUCell(4))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)), lengths=jax.numpy.array([7, 5]))
        >>> ys.shape, state.backward.h.shape
        ((2, 7, 8), (2, 4))

    References:
        Schuster and Paliwal, Bidirectional recurrent neural networks, 1997, https://doi.org/10.1109/78.650093
    """

    forward: Layer
    backward: Layer = None  # type: ignore[assignment]
    merge: Literal["concat", "sum", "mul", "ave"] = "concat"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backward is None:
            object.__setattr__(self, "backward", self.forward)
        check_layer("forward", self.forward)
        check_layer("backward", self.backward)
        check_axes("backward", self.forward, self.backward)
        if self.merge not in MERGES:
            raise ValueError(f"`merge` must be one of {', '.join(MERGES)}; got {self.merge!r}.")

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Both directions."""
        return (self.forward, self.backward)

    @property
    def causal(self) -> bool:
        """Never: the backward layer reads the future."""
        return False

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Directions:
        """Draws the parameters of both directions."""
        self.output_size(input_size)
        keys = jax.random.split(key)
        return Directions(*(part.init(k, input_size, dtype) for part, k in zip(self.parts, keys, strict=True)))

    def param_shapes(self, input_size: int) -> Directions:
        """The parameters of both directions as shapes; equal directions are worked out once."""
        self.output_size(input_size)
        return Directions(*(expected_params(part, input_size) for part in self.parts))

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Directions:
        """The initial state of each direction, which for the backward one is that after the last step."""
        return Directions(*(part.initial_state(batch_shape, dtype) for part in self.parts))

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """The first state of each direction."""
        pairs = zip(self.parts, params, strict=True)
        return Directions(*(part.first_state(own, batch_shape, dtype) for part, own in pairs))

    def output_size(self, input_size: int) -> int:
        """The sum of both output sizes under `concat`, else the one that they share."""
        forward, backward = (part.output_size(input_size) for part in self.parts)
        if self.merge == "concat":
            return forward + backward
        if forward != backward:
            raise ValueError(
                f"`backward` must have the output size of `forward`, {forward}, to be merged by {self.merge!r}; "
                f'got {backward}. Only "concat" merges outputs of different sizes.'
            )
        return forward

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs both directions over the inputs and merges what they say of each step."""
        ahead, back = context.split(2)
        forward, ys = ahead.scan(self.forward, params.forward, state.forward, xs)
        backward, zs = back.reversed().scan(self.backward, params.backward, state.backward, xs)
        return Directions(forward, backward), MERGES[self.merge](ys, zs)


@dataclasses.dataclass(frozen=True, repr=False)
class Residual(Wrapper):
    """Adds a layer's inputs to its outputs: ys = xs + layer(xs).

    Args:
        layer: a layer whose output size is its input size; parameters and state are its own.

    Raises:
        TypeError: if `layer` is not a layer.
        ValueError: at `init`, if the layer changes the number of features.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.LSTMCell(8), recurrax.Residual(recurrax.LSTMCell(8))))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))[1].shape
        (2, 7, 8)

    References:
        Wu et al., Google's neural machine translation system (section 3.1), 2016, https://arxiv.org/abs/1609.08144
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer."""
        self.output_size(input_size)
        return super().init(key, input_size, dtype)

    def output_size(self, input_size: int) -> int:
        """That of the input, which must be that of the layer's output."""
        output_size = self.layer.output_size(input_size)
        if output_size != input_size:
            raise ValueError(
                f"`layer` of Residual must put out as many features as it takes in, {input_size}; {self.layer} puts "
                f"out {output_size}. Project the inputs to {output_size} features first."
            )
        return output_size

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the layer and adds the inputs."""
        state, ys = context.scan(self.layer, params, state, xs)
        return state, features(xs) + ys


@dataclasses.dataclass(frozen=True, repr=False)
class Reverse(Wrapper):
    """Runs a layer in the other direction; its outputs stay aligned with the inputs.

    It reads the future, so it cannot be stepped. Parameters and state are those of the layer.

    Args:
        layer: any layer.

    Raises:
        TypeError: if `layer` is not a layer.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = jnp.ones((2, 7, 3))
        >>> _, ys = recurrax.scan(recurrax.Reverse(cell), params, xs)
        >>> bool((ys == recurrax.scan(cell, params, xs, reverse=True)[1]).all())
        True

    References:
        Schuster and Paliwal, Bidirectional recurrent neural networks, 1997, https://doi.org/10.1109/78.650093
    """

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        super().__post_init__()

    @property
    def causal(self) -> bool:
        """Never: the layer reads the future."""
        return False

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the layer in the other direction."""
        return context.reversed().scan(self.layer, params, state, xs)
