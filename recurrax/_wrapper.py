"""What every layer around another has of that one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Layer, Params, State


@dataclasses.dataclass(frozen=True, repr=False)
class Wrapper(Layer):
    """A layer around another, with the parameters and the state of that one."""

    layer: Layer

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layer."""
        return (self.layer,)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters of the layer."""
        return self.layer.init(key, input_size, dtype)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The initial state of the layer."""
        return self.layer.initial_state(batch_shape, dtype)

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The first state of the layer."""
        return self.layer.first_state(params, batch_shape, dtype)

    def output_size(self, input_size: int) -> int:
        """That of the layer."""
        return self.layer.output_size(input_size)
