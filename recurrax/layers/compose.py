"""Layers made of layers: depth, two directions, the other direction, residual connections."""

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
        forward: the parameters or the state of the layer that runs from the first step to the last.
        backward: the parameters or the state of the layer that runs from the last step to the
            first.
    """

    forward: Any
    backward: Any


@dataclasses.dataclass(frozen=True, repr=False)
class Stack(Layer):
    """Runs layers one after another: the outputs of each are the inputs of the next.

    Args:
        layers: the layers; the first reads the inputs. Parameters and states are tuples with one
            entry for each layer.
        dropout: the rate of the dropout between one layer and the next, as in PyTorch. No dropout
            follows the last layer.

    Raises:
        TypeError: if `layers` holds an object that is no layer.
        ValueError: if there is no layer, or `dropout` is outside [0, 1).

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Stack((recurrax.LSTMCell(8), recurrax.GRUCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state[0].c.shape, state[1].h.shape
        ((2, 7, 4), (2, 8), (2, 4))

    References:
        Graves et al., Speech recognition with deep recurrent neural networks, 2013,
        https://arxiv.org/abs/1303.5778
    """

    layers: tuple[Layer, ...]
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.layers, Iterable):
            raise TypeError(
                f"`layers` of Stack must be a tuple of layers; got {self.layers!r}. Write "
                "Stack((a, b))."
            )
        # A list has no hash, and a layer must have one.
        object.__setattr__(self, "layers", tuple(self.layers))
        super().__post_init__()
        if not self.layers:
            raise ValueError("`layers` of Stack must hold at least 1 layer; got none.")
        for layer in self.layers:
            check_layer("layers", layer)
        check_rate("dropout", self.dropout)
        # All layers must agree on whether features lie in space.
        for below, above in itertools.pairwise(self.layers):
            check_axes("layers", below, above)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """Returns the layers, and the dropout between them if there are at least two."""
        if len(self.layers) == 1:
            return self.layers
        return (*self.layers, Dropout(self.dropout))

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> tuple[Params, ...]:
        """Draws the parameters of each layer."""
        # The input size of a layer is the output size of the layer below.
        params = []
        for layer, layer_key in zip(
            self.layers, jax.random.split(key, len(self.layers)), strict=True
        ):
            params.append(layer.init(layer_key, input_size, dtype))
            input_size = layer.output_size(input_size)
        return tuple(params)

    def param_shapes(self, input_size: int) -> tuple[Params, ...]:
        """Returns the parameters of each layer as shapes. Equal layers share the work."""
        shapes = []
        for layer in self.layers:
            shapes.append(expected_params(layer, input_size))
            input_size = layer.output_size(input_size)
        return tuple(shapes)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[State, ...]:
        """Returns the initial state of each layer."""
        return tuple(layer.initial_state(batch_shape, dtype) for layer in self.layers)

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[State, ...]:
        """Returns the first state of each layer."""
        states = []
        for layer, layer_params in zip(self.layers, params, strict=True):
            states.append(layer.first_state(layer_params, batch_shape, dtype))
        return tuple(states)

    def output_size(self, input_size: int) -> int:
        """Returns the output size of the last layer."""
        for layer in self.layers:
            input_size = layer.output_size(input_size)
        return input_size

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs each layer over the outputs of the layer below."""
        states, dropout = [], Dropout(self.dropout)
        # Two contexts for each layer: one for the dropout below it, one for the layer.
        contexts = context.split(2 * len(self.layers))
        for depth, layer in enumerate(self.layers):
            if depth and self.dropout:
                _, kept = contexts[2 * depth].scan(dropout, (), (), xs)
                xs = with_features(xs, kept)
            layer_state, ys = contexts[2 * depth + 1].scan(layer, params[depth], state[depth], xs)
            xs = with_features(xs, ys)  # [T, *B, O], with the times of the inputs
            states.append(layer_state)
        return tuple(states), ys


# Each takes the outputs of the forward layer and those of the backward layer.
MERGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "concat": lambda ys, zs: jnp.concatenate([ys, zs], axis=-1),
    "sum": jnp.add,
    "mul": jnp.multiply,
    "ave": lambda ys, zs: (ys + zs) / 2,
}


@dataclasses.dataclass(frozen=True, repr=False)
class Bidirectional(Layer):
    """Runs two layers in opposite directions and merges their outputs at each step.

    Parameters and states are `Directions(forward, backward)`. The layer reads the future, so `step`
    refuses it.

    Args:
        forward: the layer that runs from the first step to the last.
        backward: the layer that runs from the last step to the first; by default a layer equal to
            `forward`, with separate parameters.
        merge: how the two outputs of a step are merged: `concat`, `sum`, `mul` or `ave`, as in
            Keras.

    Raises:
        TypeError: if a direction is not a layer.
        ValueError: if `merge` is not one of the four.

    Example:
        >>> import jax, recurrax
        >>> layer = recurrax.Bidirectional(recurrax.GRUCell(4))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(layer, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.backward.h.shape
        ((2, 7, 8), (2, 4))

    References:
        Schuster and Paliwal, Bidirectional recurrent neural networks, 1997,
        https://doi.org/10.1109/78.650093
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
        """Returns the layers of both directions."""
        return (self.forward, self.backward)

    @property
    def causal(self) -> bool:
        """Returns False: the backward layer reads the future."""
        return False

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Directions:
        """Draws the parameters of both directions."""
        # Checks that the outputs can be merged before anything is drawn.
        self.output_size(input_size)
        forward_key, backward_key = jax.random.split(key)
        return Directions(
            forward=self.forward.init(forward_key, input_size, dtype),
            backward=self.backward.init(backward_key, input_size, dtype),
        )

    def param_shapes(self, input_size: int) -> Directions:
        """Returns the parameters of both directions as shapes. Equal directions share the work."""
        self.output_size(input_size)
        return Directions(
            forward=expected_params(self.forward, input_size),
            backward=expected_params(self.backward, input_size),
        )

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """Returns the initial state of each direction; the backward layer starts at the end."""
        return Directions(
            forward=self.forward.initial_state(batch_shape, dtype),
            backward=self.backward.initial_state(batch_shape, dtype),
        )

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Directions:
        """Returns the first state of each direction."""
        return Directions(
            forward=self.forward.first_state(params.forward, batch_shape, dtype),
            backward=self.backward.first_state(params.backward, batch_shape, dtype),
        )

    def output_size(self, input_size: int) -> int:
        """Returns the sum of both output sizes for `concat`, else the size of both."""
        forward = self.forward.output_size(input_size)
        backward = self.backward.output_size(input_size)
        if self.merge == "concat":
            return forward + backward
        if forward != backward:
            raise ValueError(
                f"`backward` must have the output size of `forward`, {forward}, to be merged by "
                f"{self.merge!r}; "
                f'got {backward}. Only "concat" merges outputs of different sizes.'
            )
        return forward

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs both directions over the inputs and merges their outputs."""
        # `zs` are aligned with `ys`: a reversed scan returns its outputs in the order of the
        # inputs.
        ahead, back = context.split(2)
        forward, ys = ahead.scan(self.forward, params.forward, state.forward, xs)
        backward, zs = back.reversed().scan(self.backward, params.backward, state.backward, xs)
        return Directions(forward, backward), MERGES[self.merge](ys, zs)


@dataclasses.dataclass(frozen=True, repr=False)
class Residual(Wrapper):
    """Adds a layer's inputs to its outputs: ys = xs + layer(xs).

    Args:
        layer: a layer whose output size equals its input size. The parameters and the state belong
            to it.

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
        Wu et al., Google's neural machine translation system (section 3.1), 2016,
        https://arxiv.org/abs/1609.08144
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer("layer", self.layer)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer."""
        self.output_size(input_size)
        return super().init(key, input_size, dtype)

    def output_size(self, input_size: int) -> int:
        """Returns `input_size`, which must be the output size of the layer too."""
        output_size = self.layer.output_size(input_size)
        if output_size != input_size:
            raise ValueError(
                f"`layer` of Residual must put out as many features as it takes in, {input_size}; "
                f"{self.layer} puts out {output_size}. Project the inputs to {output_size} "
                "features first."
            )
        return output_size

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the layer and adds the inputs."""
        state, ys = context.scan(self.layer, params, state, xs)
        # The times of `TimedInputs` are no features.
        return state, features(xs) + ys


@dataclasses.dataclass(frozen=True, repr=False)
class Reverse(Wrapper):
    """Runs a layer in the other direction; its outputs stay aligned with the inputs.

    The layer reads the future, so `step` refuses it. It has the parameters and the state of
    `layer`.

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
        Schuster and Paliwal, Bidirectional recurrent neural networks, 1997,
        https://doi.org/10.1109/78.650093
    """

    def __post_init__(self) -> None:
        check_layer("layer", self.layer)
        super().__post_init__()

    @property
    def causal(self) -> bool:
        """Returns False: the layer reads the future."""
        return False

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the layer in the other direction."""
        return context.reversed().scan(self.layer, params, state, xs)
