"""A layer in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax.keras._layer import Layer, Shape, build_for, source_of
from recurrax.keras._recurrent import Recurrent
from recurrax.layers.compose import MERGES


class Bidirectional(Layer):
    """A layer in both directions, the outputs merged: `keras.layers.Bidirectional`.

    As in Keras both layers are new layers with the arguments of `layer`. Their outputs at masked
    steps are zero if they return sequences. A `backward_layer` is not copied. A call has the
    arguments of `layer`. `initial_state` and the final state hold the forward layer's parts first.

    Args:
        layer: a recurrent layer of this module.
        merge_mode: how two outputs become one: `"concat"`, `"sum"`, `"mul"`, `"ave"`, or None for a
            pair.
        weights: the first weights of both layers, the forward layer's before the backward layer's.
        backward_layer: the layer for the other direction; by default like `layer`.

    Raises:
        TypeError: if a layer is not recurrent.
        ValueError: if `merge_mode` is unknown, both layers have the same direction, or they return
            different things.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import LSTM, Bidirectional
        >>> layer = Bidirectional(LSTM(4, return_sequences=True))
        >>> layer(jnp.ones((2, 7, 3))).shape, layer.count_params()
        ((2, 7, 8), 256)
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
        _check_recurrent("layer", layer)
        if backward_layer is not None:
            _check_recurrent("backward_layer", backward_layer)
        if merge_mode not in (*MERGES, None):
            names = ", ".join(MERGES)
            raise ValueError(f"`merge_mode` must be one of {names} or None; got {merge_mode!r}.")
        if rngs is None:
            rngs = layer.source
        # As in Keras, both layers are new, and their masked outputs are zero in a sequence.
        config = layer.get_config()
        config["zero_output_for_mask"] = layer.return_sequences
        config["rngs"] = source_of(rngs, None)
        self.forward_layer = type(layer)(**config)
        if backward_layer is None:
            config["go_backwards"] = not layer.go_backwards
            backward_layer = type(layer)(**config)
        backward_layer.zero_output_for_mask = layer.return_sequences
        self.backward_layer = backward_layer
        self.merge_mode = merge_mode
        self.initial_weights = nnx.data(weights)
        super().__init__(**options)
        # The directions must differ. All else must agree.
        self._check("go_backwards", not layer.go_backwards)
        for argument in ("return_sequences", "return_state", "stateful"):
            self._check(argument, getattr(layer, argument))

    def _check(self, argument: str, must: bool) -> None:
        ahead = getattr(self.forward_layer, argument)
        back = getattr(self.backward_layer, argument)
        if back != must:
            raise ValueError(
                f"`backward_layer` must have `{argument}` {must}, as `layer` has {ahead}; "
                f"it has {back}."
            )

    @property
    def recurrent_layers(self) -> tuple[Any, ...]:
        """The forward layer and the backward layer."""
        return self.forward_layer, self.backward_layer

    def build(self, input_shape: Shape) -> None:
        """Draws the weights of both layers, or sets the constructor's `weights`."""
        for layer in self.recurrent_layers:
            if not layer.built:
                layer.build(input_shape)
        if self.initial_weights is not None:
            self.set_weights(self.initial_weights)
            self.initial_weights = nnx.data(None)

    def __call__(
        self,
        sequences: jax.Array,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Runs both layers; returns the merged outputs, or two if `merge_mode` is None.

        With `return_state` the parts of both final states come after the outputs.
        """
        ahead, back = self.recurrent_layers
        build_for(self, jnp.shape(sequences))
        # The parts of the forward layer's state come first.
        states: tuple[Any, Any] = (None, None)
        if initial_state is not None:
            leaves = jax.tree.leaves(initial_state)
            half = len(leaves) // 2
            states = leaves[:half], leaves[half:]
        ys: Any = ahead(sequences, states[0], mask, training)
        zs: Any = back(sequences, states[1], mask, training)
        final: tuple = ()
        if ahead.return_state:
            final = (*ys[1:], *zs[1:])
            ys, zs = ys[0], zs[0]
        # The backward layer puts out the last step first.
        if ahead.return_sequences:
            zs = jnp.flip(zs, ahead._time)
        if self.merge_mode is None:
            return ys, zs, *final
        merged = MERGES[self.merge_mode](ys, zs)
        if final:
            return merged, *final
        return merged

    def compute_output_shape(self, sequences_shape: Shape, initial_state_shape: Any = None) -> Any:
        """The shape of a call's result. Concatenation adds the features of both layers."""
        shape = self.forward_layer.compute_output_shape(sequences_shape)
        back = self.backward_layer.compute_output_shape(sequences_shape)
        final: tuple = ()
        if self.forward_layer.return_state:
            final = (*shape[1:], *back[1:])
            shape, back = shape[0], back[0]
        if self.merge_mode is None:
            return (shape, back, *final)
        if self.merge_mode == "concat":
            shape = (*shape[:-1], shape[-1] + back[-1])
        if final:
            return (shape, *final)
        return shape

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of the inputs, if the layers return sequences; two if `merge_mode` is None."""
        mask = self.forward_layer.compute_mask(inputs, mask)
        if self.merge_mode is None:
            return mask, mask
        return mask

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        layers = {"layer": self.forward_layer, "backward_layer": self.backward_layer}
        return super().get_config() | layers | {"merge_mode": self.merge_mode}


def _check_recurrent(argument: str, layer: Any) -> None:
    if not isinstance(layer, Recurrent):
        must = "must be a recurrent layer, such as LSTM(128)"
        raise TypeError(f"`{argument}` {must}; got {layer!r}.")
