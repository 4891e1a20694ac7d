"""Keras' convolutional LSTMs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax._check import check_number
from recurrax.cells import convolutional, lstm
from recurrax.compat.keras._cell import Cell, Named, unit_forget
from recurrax.compat.keras._layer import Shape
from recurrax.compat.keras._layers import WithCell

Sizes = int | tuple[int, ...]


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTMCell(Cell):
    """One step of a convolutional LSTM in `rank` dimensions."""

    filters: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Sizes = 1
    activation: Named = "tanh"
    recurrent_activation: Named = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    unit_forget_bias: bool = True
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None
    _: dataclasses.KW_ONLY
    rank: int = 2

    gates: ClassVar[int] = 4
    parts: ClassVar[int] = 2

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        self.space: tuple[Any, ...] = ()  # of one input, known once the layer is built
        check_number("filters", self.filters)
        if self.data_format not in ("channels_last", "channels_first", None):
            raise ValueError(f'`data_format` must be "channels_last" or "channels_first"; got {self.data_format!r}.')

    @property
    def size(self) -> int:
        return self.filters

    @property
    def _masks(self) -> int:
        return self.gates

    @property
    def _window(self) -> tuple[int, ...]:
        return (self.kernel_size,) * self.rank if isinstance(self.kernel_size, int) else tuple(self.kernel_size)

    def _core_cell(self) -> convolutional.ConvLSTMCell:
        return convolutional.ConvLSTMCell(
            self.filters,
            self.space,
            self._window,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation_rate,
            activation=self._meaning("activation"),
            gate_activation=self._meaning("recurrent_activation"),
            bias=self.use_bias,
            dtype=self._compute_dtype,
        )

    def params(self) -> lstm.LSTMParams:
        """The weights as parameters of the core."""
        return lstm.LSTMParams(*self._arrays())

    def build(self, input_shape: Shape) -> None:
        """Draws the weights for inputs of one step, `[B, *space, I]`, or `[B, I, *space]`."""
        _, *sizes = input_shape
        channels = sizes.pop(0 if self.data_format == "channels_first" else -1)
        if None in sizes:
            raise ValueError(f"`input_shape` must give the size of each axis in space; got {tuple(input_shape)}.")
        self.space = tuple(sizes)
        self._draw(self._window, channels)

    def _draw_bias(self, initializer: Callable, dtype: Any) -> jax.Array:
        bias = super()._draw_bias(initializer, dtype)
        return unit_forget(bias) if self.unit_forget_bias else bias

    def inward(self, x: jax.Array) -> jax.Array:
        """Channels last."""
        return jnp.moveaxis(x, -1 - self.rank, -1) if self.data_format == "channels_first" else x

    def outward(self, x: jax.Array) -> jax.Array:
        """Channels where `data_format` says."""
        return jnp.moveaxis(x, -1, -1 - self.rank) if self.data_format == "channels_first" else x


@dataclasses.dataclass(eq=False, repr=False)
class _ConvLSTM(WithCell):
    """What the three share; each says its rank."""

    filters: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    data_format: str | None = None
    dilation_rate: Sizes = 1
    activation: Named = "tanh"
    recurrent_activation: Named = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    unit_forget_bias: bool = True
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    activity_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    _: dataclasses.KW_ONLY
    unroll: bool = False
    zero_output_for_mask: bool = False
    time_major: bool = False

    cell_type: ClassVar[Any] = ConvLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM1D(_ConvLSTM):
    """The convolutional LSTM along a line: `keras.layers.ConvLSTM1D`.

    Args:
        filters: as in `ConvLSTM2D`, and so are all other arguments.

    Raises:
        TypeError: as `ConvLSTM2D`.
        ValueError: as `ConvLSTM2D`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import ConvLSTM1D
        >>> ConvLSTM1D(4, 3, padding="same")(jnp.ones((2, 7, 8, 3))).shape
        (2, 8, 4)

    References:
        Keras 3, `keras.layers.ConvLSTM1D`, 2024, https://keras.io/api/layers/recurrent_layers/conv_lstm1d/
    """

    rank: ClassVar[int] = 1


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM2D(_ConvLSTM):
    """The convolutional LSTM in the plane: `keras.layers.ConvLSTM2D`.

    Inputs are `[B, T, *space, I]`, states `[B, *space', H]`; with `data_format="channels_first"` channels come before
    space. A masked step keeps the state, whatever the batch size.

    Args:
        filters: the number of channels H of the state.
        kernel_size: the spatial shape of both kernels, an int or one for each axis.
        strides: the steps between the windows of the input convolution.
        padding: of the input convolution, `"valid"` or `"same"`.
        data_format: `"channels_last"`, which None means, or `"channels_first"`.
        dilation_rate: the distance between the taps of the input convolution.
        activation: as in `LSTM`, and so are all other arguments.

    Raises:
        TypeError: as `LSTM`.
        ValueError: as `LSTM`, and, as the layer is built, if the kernel does not fit into the input.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import ConvLSTM2D
        >>> layer = ConvLSTM2D(4, (3, 3), return_sequences=True)
        >>> layer(jnp.ones((2, 7, 8, 6, 3))).shape, layer.count_params()
        ((2, 7, 6, 4, 4), 1024)

    References:
        Keras 3, `keras.layers.ConvLSTM2D`, 2024, https://keras.io/api/layers/recurrent_layers/conv_lstm2d/
    """

    rank: ClassVar[int] = 2


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM3D(_ConvLSTM):
    """The convolutional LSTM in space: `keras.layers.ConvLSTM3D`.

    Args:
        filters: as in `ConvLSTM2D`, and so are all other arguments.

    Raises:
        TypeError: as `ConvLSTM2D`.
        ValueError: as `ConvLSTM2D`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import ConvLSTM3D
        >>> ConvLSTM3D(2, 2)(jnp.ones((1, 3, 4, 4, 4, 1))).shape
        (1, 3, 3, 3, 2)

    References:
        Keras 3, `keras.layers.ConvLSTM3D`, 2024, https://keras.io/api/layers/recurrent_layers/conv_lstm3d/
    """

    rank: ClassVar[int] = 3
