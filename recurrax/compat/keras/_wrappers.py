"""Layers around others: both directions, and every step by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax._check import describe
from recurrax._compose import MERGES
from recurrax.compat.keras._layer import Layer, Shape, build_for, call, renewed, source_of, source_within
from recurrax.compat.keras._rnn import Recurrent


class Bidirectional(Layer):
    """A layer in both directions, the outputs merged: `keras.layers.Bidirectional`.

    As in Keras both layers are new ones with the arguments of `layer`, and put out zero at masked steps if they return
    sequences; a `backward_layer` is taken as it is. Called as `layer` is; `initial_state` and the final state hold the
    forward layer's parts before the backward one's.

    Args:
        layer: a recurrent layer of this module.
        merge_mode: how two outputs become one: `"concat"`, `"sum"`, `"mul"`, `"ave"`, or None for a pair.
        weights: the weights that both are built with, the forward layer's before the backward one's.
        backward_layer: the layer for the other direction; by default one like `layer`.

    Raises:
        TypeError: if a layer is not recurrent.
        ValueError: if `merge_mode` is unknown, both walk in the same direction, or they return different things.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import LSTM, Bidirectional
        >>> layer = Bidirectional(LSTM(4, return_sequences=True))
        >>> layer(jnp.ones((2, 7, 3))).shape, layer.count_params()
        ((2, 7, 8), 256)

    References:
        Keras 3, `keras.layers.Bidirectional`, 2024, https://keras.io/api/layers/recurrent_layers/bidirectional/
    """

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Sequence[Any] | None = None,
        backward_layer: Any = None,
        *,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ) -> None:
        for argument, value in {"layer": layer, "backward_layer": backward_layer or layer}.items():
            if not isinstance(value, Recurrent):
                raise TypeError(f"`{argument}` must be a recurrent layer, such as LSTM(128); got {value!r}.")
        if merge_mode not in (*MERGES, None):
            raise ValueError(f"`merge_mode` must be one of {', '.join(MERGES)} or None; got {merge_mode!r}.")
        source, zero = source_of(rngs or source_within(layer), None), {"zero_output_for_mask": layer.return_sequences}
        self.forward_layer = renewed(layer, source, **zero)
        self.backward_layer = backward_layer or renewed(layer, source, go_backwards=not layer.go_backwards, **zero)
        self.backward_layer.zero_output_for_mask = layer.return_sequences
        self.merge_mode = merge_mode
        self.initial_weights = nnx.data(weights)
        super().__init__(**options)
        self._check_directions()

    def _check_directions(self) -> None:
        for argument in ("go_backwards", "return_sequences", "return_state", "stateful"):
            ahead, back = getattr(self.forward_layer, argument), getattr(self.backward_layer, argument)
            if (ahead == back) is (argument == "go_backwards"):
                must = f"{not ahead if argument == 'go_backwards' else ahead}"
                raise ValueError(
                    f"`backward_layer` must have `{argument}` {must}, as `layer` has {ahead}; it has {back}."
                )

    @property
    def sublayers(self) -> tuple:
        """The forward layer and the backward one."""
        return self.forward_layer, self.backward_layer

    def build(self, input_shape: Shape) -> None:
        """Draws the weights of both layers, or sets those that the constructor was given.

        Args:
            input_shape: as that of the layer.
        """
        for part in self.sublayers:
            if not part.built:
                part.build(input_shape)
        if self.initial_weights is not None:
            self.set_weights(self.initial_weights)
            self.initial_weights = nnx.data(None)

    def __call__(
        self, sequences: jax.Array, initial_state: Any = None, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Runs both layers and merges what they say.

        Args:
            sequences: as in the layer, and so are `mask` and `training`.
            initial_state: a list with the parts of the forward layer's state and then of the backward one's.
            mask: as in the layer.
            training: as in the layer.

        Returns:
            The merged outputs, or two if `merge_mode` is None; with `return_state` a tuple of these and each part of
            the forward layer's final state and then of the backward one's.

        Raises:
            ValueError: as the layer.
        """
        ahead, back = self.sublayers
        build_for(self, jnp.shape(sequences))
        states: tuple[Any, Any] = (None, None)
        if initial_state is not None:
            leaves = jax.tree.leaves(initial_state)
            states = leaves[: len(leaves) // 2], leaves[len(leaves) // 2 :]
        forward = ahead(sequences, states[0], mask, training)
        backward = back(sequences, states[1], mask, training)
        (ys, *final), (zs, *final_back) = (forward, backward) if ahead.return_state else ((forward,), (backward,))
        if ahead.return_sequences:
            zs = jnp.flip(zs, 0 if ahead.time_major else 1)
        outputs = (ys, zs) if self.merge_mode is None else (MERGES[self.merge_mode](ys, zs),)
        outputs = (*outputs, *final, *final_back)
        return outputs if len(outputs) > 1 else outputs[0]

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of the outputs: that of the inputs if the layers return sequences; two if `merge_mode` is None."""
        mask = self.forward_layer.compute_mask(inputs, mask)
        return (mask, mask) if self.merge_mode is None else mask

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        layers = {"layer": self.forward_layer, "backward_layer": self.backward_layer}
        return super().get_config() | layers | {"merge_mode": self.merge_mode}


@dataclasses.dataclass(eq=False, repr=False)
class TimeDistributed(Layer):
    """Any module or function at each step: `keras.layers.TimeDistributed`.

    All steps are one batch to it, so a batch normalisation within sees them together.

    Args:
        layer: an `nnx.Module`, a layer of this module or a function, of `[B, ...]`.

    Raises:
        TypeError: if `layer` cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from recurrax.compat.keras import LSTM, TimeDistributed
        >>> TimeDistributed(nnx.Linear(3, 4, rngs=nnx.Rngs(0)))(jnp.ones((2, 7, 3))).shape
        (2, 7, 4)
        >>> TimeDistributed(LSTM(4))(jnp.ones((2, 7, 5, 3))).shape  # sentences of words
        (2, 7, 4)

    References:
        Keras 3, `keras.layers.TimeDistributed`, 2024,
        https://keras.io/api/layers/recurrent_layers/time_distributed/
    """

    layer: Any = nnx.data()  # noqa: RUF009

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        if not callable(self.layer):
            raise TypeError(f"`layer` must be a module or a function; got {self.layer!r}.")

    @property
    def sublayers(self) -> tuple:
        """The layer."""
        return (self.layer,)

    def build(self, input_shape: Shape) -> None:
        """Draws the weights of the layer.

        Args:
            input_shape: `(B, T, ...)`.
        """
        if isinstance(self.layer, Layer) and not self.layer.built:
            self.layer.build((input_shape[0], *input_shape[2:]))

    def __call__(self, inputs: jax.Array, training: bool | None = None, mask: Any = None) -> Any:
        """Calls the layer at each step.

        Args:
            inputs: `[B, T, ...]`.
            training: handed to the layer, if it takes it.
            mask: `[B, T, ...]`: handed to the layer, if it takes it and there are axes beyond the first two.

        Returns:
            The outputs, `[B, T, ...]`.

        Raises:
            ValueError: if `inputs` or `mask` has the wrong shape.
        """
        inputs = jnp.asarray(inputs)
        if inputs.ndim < 2:
            raise ValueError(f"`inputs` must be [B, T, ...]; got {describe(inputs)}.")
        steps = inputs.shape[:2]
        if mask is not None and jnp.shape(mask)[:2] != steps:
            raise ValueError(f"`mask` must be [{steps[0]}, {steps[1]}, ...]; got {describe(jnp.asarray(mask))}.")
        build_for(self, inputs.shape)

        def fold(x: jax.Array) -> jax.Array:
            return x.reshape(steps[0] * steps[1], *x.shape[2:])

        within = None if mask is None or jnp.ndim(mask) == 2 else fold(jnp.asarray(mask))
        return jax.tree.map(lambda y: y.reshape(*steps, *y.shape[1:]), call(self.layer, fold(inputs), within, training))
