"""The layer that makes a mask."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from recurrax.keras._layer import Layer, Shape


@dataclasses.dataclass(eq=False, repr=False)
class Masking(Layer):
    """Sets the steps that hold only `mask_value` to zero: `keras.layers.Masking`.

    JAX's arrays carry no mask: hand `compute_mask(inputs)` to the layers above.

    Args:
        mask_value: the value of every feature at a masked step.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import LSTM, Masking
        >>> x, masking = jnp.ones((2, 7, 3)).at[1, 5:].set(-1.0), Masking(-1.0)
        >>> LSTM(4)(masking(x), mask=masking.compute_mask(x)).shape
        (2, 4)

    References:
        Keras 3, `keras.layers.Masking`, 2024, https://keras.io/api/layers/core_layers/masking/
    """

    mask_value: float = 0.0

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The inputs `[B, T, I]`, zero at the masked steps. Integers keep their dtype."""
        inputs = self._cast(inputs)
        return jnp.where(self.compute_mask(inputs)[..., None], inputs, jnp.zeros_like(inputs))

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> jax.Array:
        """The mask, `bool[B, T]`: False at steps that hold nothing but `mask_value`."""
        inputs = self._cast(inputs)
        if not jnp.issubdtype(inputs.dtype, jnp.inexact):  # an integer is never 0.5
            inputs = inputs.astype(jnp.float32)
        return (inputs != jnp.asarray(self.mask_value, inputs.dtype)).any(axis=-1)

    def compute_output_shape(self, inputs_shape: Shape) -> tuple:
        """The shape of the inputs."""
        return tuple(inputs_shape)

    def _cast(self, inputs: jax.Array) -> jax.Array:
        inputs = jnp.asarray(inputs)
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            return inputs
        return inputs.astype(self._compute_dtype)
