"""Masks from layer to layer: where one begins, and the thinnest model that hands it on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax.compat.keras._layer import Layer, Shape, call


@dataclasses.dataclass(eq=False, repr=False)
class Masking(Layer):
    """Finds the steps that hold nothing but `mask_value`, and sets them to zero: `keras.layers.Masking`.

    JAX's arrays carry no mask: hand `compute_mask(inputs)` to the layers above, or let a `Sequential` do it.

    Args:
        mask_value: what every feature of a masked step is.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import LSTM, Masking
        >>> x, masking = jnp.ones((2, 7, 3)).at[1, 5:].set(-1.0), Masking(-1.0)
        >>> LSTM(4)(masking(x), mask=masking.compute_mask(x)).shape
        (2, 4)

    References:
        Keras 3, `keras.layers.Masking`, 2024, https://keras.io/api/layers/core_layers/masking/
    """

    mask_value: float = 0.0

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Sets the masked steps to zero.

        Args:
            inputs: `[B, T, I]`.

        Returns:
            The inputs, `[B, T, I]`, zero at the masked steps.
        """
        inputs = jnp.asarray(inputs)
        return jnp.where(self.compute_mask(inputs)[..., None], inputs, jnp.zeros_like(inputs))

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> jax.Array:
        """The mask, `bool[B, T]`: False at steps that hold nothing but `mask_value`."""
        inputs = jnp.asarray(inputs)
        return (inputs != jnp.asarray(self.mask_value, inputs.dtype)).any(axis=-1)


@dataclasses.dataclass(eq=False, repr=False)
class Sequential(Layer):
    """Layers one upon another, the mask handed on from each to the next: what `keras.Sequential` does at a call.

    A layer is handed the mask and `training` if it takes them, and `deterministic` and `use_running_average` too, as
    Flax's modules call it. The mask ends where a layer returns its last output alone.

    Args:
        layers: layers of this module, any other `nnx.Module`, and functions of an array.

    Raises:
        TypeError: if a layer cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from recurrax.compat.keras import LSTM, Bidirectional, Masking, Sequential
        >>> model = Sequential([
        ...     Masking(mask_value=0.0),
        ...     Bidirectional(LSTM(8, return_sequences=True)),
        ...     LSTM(4),
        ...     nnx.Linear(4, 1, rngs=nnx.Rngs(0)),
        ... ])
        >>> model.build((None, None, 3))
        >>> model(jnp.ones((2, 7, 3)).at[1, 5:].set(0.0)).shape, model.count_params()
        ((2, 1), 1109)

    References:
        Keras 3, `keras.Sequential`, 2024, https://keras.io/api/models/sequential/
    """

    layers: Any = nnx.data(default=())  # noqa: RUF009

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        nested = (part.layers if isinstance(part, Sequential) else [part] for part in self.layers)
        self.layers = [layer for layers in nested for layer in layers]
        for layer in self.layers:
            if not callable(layer):
                raise TypeError(f"`layers` must hold modules and functions; got {layer!r}.")

    @property
    def sublayers(self) -> tuple:
        """The layers."""
        return tuple(self.layers)

    def build(self, input_shape: Shape, dtype: DTypeLike = jnp.float32) -> None:
        """Draws the weights of each layer for the outputs of the one below.

        Args:
            input_shape: `(B, T, I)`; B and T may be None, as in the layers.
            dtype: that of the inputs.
        """
        x = jax.ShapeDtypeStruct(tuple(size or 1 for size in input_shape), dtype)
        for layer in self.layers:
            if isinstance(layer, Layer) and not layer.built:
                layer.build((input_shape[0], *x.shape[1:]))
            x = nnx.eval_shape(lambda x, layer=layer: call(nnx.clone(layer), x, None, None), x)

    def __call__(self, inputs: jax.Array, training: bool | None = None, mask: Any = None) -> Any:
        """Calls each layer with the output of the one below, and the mask.

        Args:
            inputs: what the first layer takes.
            training: handed to each layer that takes it.
            mask: `[B, T]`, for inputs that are masked already.

        Returns:
            What the last layer returns.
        """
        for layer in self.layers:
            outputs = call(layer, inputs, mask, training)
            mask = layer.compute_mask(inputs, mask) if isinstance(layer, Layer) else mask
            inputs = outputs
        return inputs
