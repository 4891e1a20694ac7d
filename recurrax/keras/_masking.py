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

    An array of JAX has no mask of its own: hand `compute_mask(inputs)` to the next layers.

    Args:
        mask_value: the value of every feature at a masked step.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import LSTM, Masking
        >>> x, masking = jnp.ones((2, 7, 3)).at[1, 5:].set(-1.0), Masking(-1.0)
        >>> LSTM(4)(masking(x), mask=masking.compute_mask(x)).shape
        (2, 4)
    """

    mask_value: float = 0.0

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The inputs `[B, T, I]`, zero at the masked steps. Integers keep their dtype."""
        inputs = self._cast(inputs)
        mask = self.compute_mask(inputs)[..., None]  # [B, T, 1]
        return jnp.where(mask, inputs, jnp.zeros_like(inputs))

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> jax.Array:
        """The mask, `bool[B, T]`: False at steps that hold nothing but `mask_value`."""
        inputs = self._cast(inputs)
        # An integer is never 0.5.
        if not jnp.issubdtype(inputs.dtype, jnp.inexact):
            inputs = inputs.astype(jnp.float32)
        masked = jnp.asarray(self.mask_value, inputs.dtype)
        return (inputs != masked).any(axis=-1)

    def compute_output_shape(self, inputs_shape: Shape) -> tuple:
        """The shape of the inputs."""
        return tuple(inputs_shape)

    def _cast(self, inputs: jax.Array) -> jax.Array:
        inputs = jnp.asarray(inputs)
        if not jnp.issubdtype(inputs.dtype, jnp.floating):
            return inputs
        _, dtype = self._dtypes
        return inputs.astype(dtype)
