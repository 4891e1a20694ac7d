"""Keras' convolutional LSTMs."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from flax import nnx

from recurrax.cells import convolutional
from recurrax.keras._layer import Shape
from recurrax.keras._names import Named
from recurrax.keras._recurrent import Recurrent, Sizes


@dataclasses.dataclass(eq=False, repr=False)
class _ConvLSTM(Recurrent):
    """The layer of all ranks. A subclass declares its rank."""

    filters: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Sizes = 1
    recurrent_activation: Named = "sigmoid"
    unit_forget_bias: bool = True
    _: dataclasses.KW_ONLY
    unroll: bool = False

    cell_type: ClassVar[Any] = convolutional.ConvLSTMCell
    size_name: ClassVar[str] = "filters"

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        self.space: tuple[Any, ...] = ()  # of one input, known once the layer is built
        if self.data_format not in ("channels_last", "channels_first", None):
            must = '"channels_last" or "channels_first"'
            raise ValueError(f"`data_format` must be {must}; got {self.data_format!r}.")

    @property
    def _masks(self) -> int:
        return self.gates

    @property
    def _window(self) -> tuple[int, ...]:
        if isinstance(self.kernel_size, int):
            return (self.kernel_size,) * self.rank
        return tuple(self.kernel_size)

    @property
    def _channels(self) -> int:
        if self.data_format == "channels_first":
            return -1 - self.rank
        return -1

    def _cell(self) -> Any:
        return self._cell_for(self.space)

    def _cell_for(self, space: tuple) -> convolutional.ConvLSTMCell:
        return self.cell_type(
            self.filters,
            space,
            self._window,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation_rate,
            **self._options(),
        )

    def build(self, input_shape: Shape) -> None:
        """As in `LSTM`, for `(B, T, *space, I)`, laid out as the inputs; B and T may be None."""
        self.space, channels = self._split(input_shape[2:])
        if not hasattr(self, "kernel"):
            self._draw(self._window, channels)
        super().build(input_shape)

    def _split(self, input_shape: Shape) -> tuple[tuple, int | None]:
        """The spatial shape and the number of channels."""
        space = list(input_shape)
        channels = space.pop(self._channels)
        if None in space:
            must = "must give the size of each axis in space"
            raise ValueError(f"`input_shape` {must}; got {tuple(input_shape)}.")
        return tuple(space), channels

    def _feature_shape(self, input_shape: Shape) -> tuple[int, ...]:
        space, _ = self._split(input_shape)
        shape = list(self._cell_for(space).output_shape)
        shape.insert(1 + self.rank + self._channels, self.filters)
        return tuple(shape)


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM1D(_ConvLSTM):
    """The convolutional LSTM on a line: `keras.layers.ConvLSTM1D`.

    Args:
        filters: as in `ConvLSTM2D`, and so are all other arguments and errors.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import ConvLSTM1D
        >>> ConvLSTM1D(4, 3, padding="same")(jnp.ones((2, 7, 8, 3))).shape
        (2, 8, 4)
    """

    rank: ClassVar[int] = 1


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM2D(_ConvLSTM):
    """The convolutional LSTM in the plane: `keras.layers.ConvLSTM2D`.

    Inputs are `[B, T, *space, I]`, states `[B, *space', H]`; with `data_format="channels_first"`
    channels come before space. A masked step keeps the state, whatever the batch size.

    Args:
        filters: the number of channels H of the state.
        kernel_size: the spatial shape of both kernels, an int or one for each axis.
        strides: of the input convolution, and so are `padding` and `dilation_rate`.
        data_format: `"channels_last"`, which None means, or `"channels_first"`.
        activation: as in `LSTM`, and so are all other arguments and errors.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import ConvLSTM2D
        >>> layer = ConvLSTM2D(4, (3, 3), return_sequences=True)
        >>> layer(jnp.ones((2, 7, 8, 6, 3))).shape, layer.count_params()
        ((2, 7, 6, 4, 4), 1024)
    """

    rank: ClassVar[int] = 2


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM3D(_ConvLSTM):
    """The convolutional LSTM in space: `keras.layers.ConvLSTM3D`.

    Args:
        filters: as in `ConvLSTM2D`, and so are all other arguments and errors.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.keras import ConvLSTM3D
        >>> ConvLSTM3D(2, 2)(jnp.ones((1, 3, 4, 4, 4, 1))).shape
        (1, 3, 3, 3, 2)
    """

    rank: ClassVar[int] = 3
