"""A layer in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax.keras._layer import Layer, Shape, build_for, renewed, source_of, source_within
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
        weights: the weights that both are built with, the forward layer's before the backward
            one's.
        backward_layer: the layer for the other direction; by default one like `layer`.

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

    References:
        Keras 3, `keras.layers.Bidirectional`, 2024,
        https://keras.io/api/layers/recurrent_layers/bidirectional/
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
                raise TypeError(
                    f"`{argument}` must be a recurrent layer, such as LSTM(128); got {value!r}."
                )
        if merge_mode not in (*MERGES, None):
            raise ValueError(
                f"`merge_mode` must be one of {', '.join(MERGES)} or None; got {merge_mode!r}."
            )
        # As in Keras, both layers are copies, and their masked outputs are zero in a sequence.
        source = source_of(rngs or source_within(layer), None)
        zero = {"zero_output_for_mask": layer.return_sequences}
        self.forward_layer = renewed(layer, source, **zero)
        self.backward_layer = backward_layer or renewed(
            layer, source, go_backwards=not layer.go_backwards, **zero
        )
        self.backward_layer.zero_output_for_mask = layer.return_sequences
        self.merge_mode = merge_mode
        self.initial_weights = nnx.data(weights)
        super().__init__(**options)
        self._check_directions()

    def _check_directions(self) -> None:
        for argument in ("go_backwards", "return_sequences", "return_state", "stateful"):
            ahead, back = (
                getattr(self.forward_layer, argument),
                getattr(self.backward_layer, argument),
            )
            # Directions must differ. All else must agree.
            must = not ahead if argument == "go_backwards" else ahead
            if back != must:
                raise ValueError(
                    f"`backward_layer` must have `{argument}` {must}, as `layer` has {ahead}; "
                    f"it has {back}."
                )

    @property
    def sublayers(self) -> tuple:
        """The forward layer and the backward one."""
        return self.forward_layer, self.backward_layer

    def build(self, input_shape: Shape) -> None:
        """Draws the weights of both layers, or sets the constructor's `weights`."""
        for part in self.sublayers:
            if not part.built:
                part.build(input_shape)
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
        """Runs both layers and merges their outputs.

        Args:
            sequences: as in the layer.
            initial_state: a list with the parts of the forward layer's state and then of the
                backward layer's.
            mask: as in the layer.
            training: as in the layer.

        Returns:
            The merged outputs, or two if `merge_mode` is None; with `return_state` a tuple of these
            and each part of the forward layer's final state and then of the backward layer's.
        """
        ahead, back = self.sublayers
        build_for(self, jnp.shape(sequences))
        # The parts of the forward layer's state come first.
        states: tuple[Any, Any] = (None, None)
        if initial_state is not None:
            leaves = jax.tree.leaves(initial_state)
            states = leaves[: len(leaves) // 2], leaves[len(leaves) // 2 :]
        ys, final = ahead(sequences, states[0], mask, training), ()
        zs, final_back = back(sequences, states[1], mask, training), ()
        if ahead.return_state:
            (ys, *final), (zs, *final_back) = ys, zs
        # The backward layer puts out the last step first.
        if ahead.return_sequences:
            zs = jnp.flip(zs, 0 if ahead.time_major else 1)
        outputs: tuple[Any, ...]
        if self.merge_mode is None:
            outputs = ys, zs, *final, *final_back
        else:
            outputs = MERGES[self.merge_mode](ys, zs), *final, *final_back
        return outputs if len(outputs) > 1 else outputs[0]

    def compute_output_shape(self, sequences_shape: Shape, initial_state_shape: Any = None) -> Any:
        """The shape of a call's result. Concatenation adds the features of both layers."""
        shape = self.forward_layer.compute_output_shape(sequences_shape)
        back = self.backward_layer.compute_output_shape(sequences_shape)
        final: tuple = ()
        if self.forward_layer.return_state:
            final = (*shape[1:], *back[1:])
            shape, back = shape[0], back[0]
        if self.merge_mode == "concat":
            shape = (*shape[:-1], shape[-1] + back[-1])
        if self.merge_mode is None:
            return (shape, back, *final)
        return (shape, *final) if final else shape

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
