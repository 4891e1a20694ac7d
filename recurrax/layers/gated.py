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
        layer: the parameters or the state of `layer`.
        gate: the parameters or the state of `gate`.
    """

    layer: Any
    gate: Any


@dataclasses.dataclass(frozen=True, repr=False)
class Gated(Layer):
    """Multiplies the outputs of two branches. Both branches read the inputs.

    ys = layer(xs) * gate(xs)

    Parameters and states are `Branches(layer, gate)`.

    Args:
        layer: one branch.
        gate: the other branch, with the same number of output features.

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
        Dauphin et al., Language modeling with gated convolutional networks, 2017,
        https://arxiv.org/abs/1612.08083
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
        # Checks that the branches fit before anything is drawn.
        self.output_size(input_size)
        layer_key, gate_key = jax.random.split(key)
        return Branches(
            layer=self.layer.init(layer_key, input_size, dtype),
            gate=self.gate.init(gate_key, input_size, dtype),
        )

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Branches:
        """Returns the initial state of each branch."""
        return Branches(
            layer=self.layer.initial_state(batch_shape, dtype),
            gate=self.gate.initial_state(batch_shape, dtype),
        )

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Branches:
        """Returns the first state of each branch."""
        return Branches(
            layer=self.layer.first_state(params.layer, batch_shape, dtype),
            gate=self.gate.first_state(params.gate, batch_shape, dtype),
        )

    def output_size(self, input_size: int) -> int:
        """Returns the output size of both branches."""
        size, other = self.layer.output_size(input_size), self.gate.output_size(input_size)
        if size != other:
            raise ValueError(
                f"`gate` of Gated must put out as many features as `layer`, {size}; got {other} "
                f"from {self.gate}."
            )
        return size

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs both branches over the inputs and multiplies their outputs."""
        # Each branch has randomness for itself.
        layer_context, gate_context = context.split(2)
        layer_state, ys = layer_context.scan(self.layer, params.layer, state.layer, xs)
        gate_state, gates = gate_context.scan(self.gate, params.gate, state.gate, xs)
        return Branches(layer_state, gate_state), ys * gates
