"""The product of two branches."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_axes, check_layer
from recurrax._layer import Layer, Params, ScanContext, State


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

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs both branches over the inputs and multiplies what they say of each step."""
        states, outputs = [], []
        for part_context, part, part_params, part_state in zip(
            context.split(2), self.parts, params, state, strict=True
        ):
            part_state, ys = part_context.scan(part, part_params, part_state, xs)
            states.append(part_state)
            outputs.append(ys)
        return Branches(*states), outputs[0] * outputs[1]
