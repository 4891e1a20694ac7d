"""Keras' cells: their arguments, and what their weights are called in the core."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax._check import check_number
from recurrax._compose import Stack
from recurrax.cells import elman, gru, lstm
from recurrax.compat.keras._cell import AnyCell, Cell, Named, unit_forget
from recurrax.compat.keras._custom import cell_of
from recurrax.compat.keras._layer import Shape


class _UnitsCell(Cell):
    """A cell whose size is called `units`."""

    units: int

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        check_number("units", self.units)
        _ = self.core  # Its checks are made now, not at the first call.

    @property
    def size(self) -> int:
        return self.units

    def _options(self) -> dict[str, Any]:
        return {"bias": self.use_bias, "activation": self._meaning("activation"), "dtype": self._compute_dtype}


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNCell(_UnitsCell):
    """One step of a `SimpleRNN`: `keras.layers.SimpleRNNCell`.

    Called by itself it takes one step: `output, states = cell(inputs, states)`.

    Args:
        units: the number of features H of the state.
        activation: as in `LSTM`, and so are all other arguments.

    Raises:
        TypeError: as `LSTM`.
        ValueError: as `LSTM`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import RNN, SimpleRNNCell
        >>> RNN(SimpleRNNCell(4))(jnp.ones((2, 7, 3))).shape
        (2, 4)

    References:
        Keras 3, `keras.layers.SimpleRNNCell`, 2024, https://keras.io/api/layers/recurrent_layers/simple_rnn_cell/
    """

    units: int
    activation: Named = "tanh"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    seed: int | None = None

    gates: ClassVar[int] = 1

    @property
    def _masks(self) -> int:
        return 1

    def _core_cell(self) -> elman.ElmanCell:
        return elman.ElmanCell(self.units, **self._options())

    def params(self) -> elman.ElmanParams:
        """The weights as parameters of the core."""
        return elman.ElmanParams(*self._arrays())


@dataclasses.dataclass(eq=False, repr=False)
class LSTMCell(_UnitsCell):
    """One step of an `LSTM`: `keras.layers.LSTMCell`.

    Called by itself it takes one step: `output, [h, c] = cell(inputs, [h, c])`.

    Args:
        units: the number of features H of the state.
        activation: as in `LSTM`, and so are all other arguments.

    Raises:
        TypeError: as `LSTM`.
        ValueError: as `LSTM`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import LSTMCell
        >>> cell = LSTMCell(4)
        >>> output, [h, c] = cell(jnp.ones((2, 3)), cell.get_initial_state(2))
        >>> output.shape, c.shape
        ((2, 4), (2, 4))

    References:
        Keras 3, `keras.layers.LSTMCell`, 2024, https://keras.io/api/layers/recurrent_layers/lstm_cell/
    """

    units: int
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
    implementation: int = 2

    gates: ClassVar[int] = 4
    parts: ClassVar[int] = 2

    def _core_cell(self) -> lstm.LSTMCell:
        gate_activation = self._meaning("recurrent_activation")
        return lstm.LSTMCell(self.units, gate_activation=gate_activation, **self._options())

    def params(self) -> lstm.LSTMParams:
        """The weights as parameters of the core."""
        return lstm.LSTMParams(*self._arrays())

    def _draw_bias(self, initializer: Callable, dtype: Any) -> jax.Array:
        bias = super()._draw_bias(initializer, dtype)
        return unit_forget(bias) if self.unit_forget_bias else bias


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(_UnitsCell):
    """One step of a `GRU`: `keras.layers.GRUCell`.

    Called by itself it takes one step: `output, [h] = cell(inputs, [h])`.

    Args:
        units: the number of features H of the state.
        activation: as in `GRU`, and so are all other arguments.

    Raises:
        TypeError: as `LSTM`.
        ValueError: as `LSTM`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import RNN, GRUCell
        >>> RNN([GRUCell(8), GRUCell(4)])(jnp.ones((2, 7, 3))).shape
        (2, 4)

    References:
        Keras 3, `keras.layers.GRUCell`, 2024, https://keras.io/api/layers/recurrent_layers/gru_cell/
    """

    units: int
    activation: Named = "tanh"
    recurrent_activation: Named = "sigmoid"
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    kernel_regularizer: Named = None
    recurrent_regularizer: Named = None
    bias_regularizer: Named = None
    kernel_constraint: Named = None
    recurrent_constraint: Named = None
    bias_constraint: Named = None
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    reset_after: bool = True
    seed: int | None = None
    _: dataclasses.KW_ONLY
    implementation: int = 2

    gates: ClassVar[int] = 3

    def _core_cell(self) -> gru.GRUCell:
        gate_activation = self._meaning("recurrent_activation")
        return gru.GRUCell(self.units, self.reset_after, gate_activation=gate_activation, **self._options())

    def params(self) -> gru.GRUParams:
        """The weights as parameters of the core, whose gates come in the order r, z, n and not z, r, n."""

        def reordered(array: jax.Array) -> jax.Array:
            z, r, n = jnp.split(array, 3, axis=-1)
            return jnp.concatenate([r, z, n], axis=-1)

        kernel, recurrent_kernel, bias = jax.tree.map(reordered, self._arrays())
        biases = (bias,) if bias is None or not self.reset_after else tuple(bias)
        return gru.GRUParams(kernel, recurrent_kernel, *biases)

    def _draw_bias(self, initializer: Callable, dtype: Any) -> jax.Array:
        shape = (2, 3 * self.units) if self.reset_after else (3 * self.units,)
        return initializer(self.source.params(), shape, dtype)


@dataclasses.dataclass(eq=False, repr=False)
class StackedRNNCells(AnyCell):
    """Cells one upon another as one cell: `keras.layers.StackedRNNCells`.

    The state is a list with the state of each cell, which is itself a list.

    Args:
        cells: cells as `RNN` takes them, the one that reads the inputs first.

    Raises:
        TypeError: if `cells` holds anything but cells.
        ValueError: if there is no cell.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import RNN, GRUCell, LSTMCell, StackedRNNCells
        >>> layer = RNN(StackedRNNCells([LSTMCell(8), GRUCell(4)]), return_state=True)
        >>> output, lower, upper = layer(jnp.ones((2, 7, 3)))
        >>> output.shape, [part.shape for part in lower], [part.shape for part in upper]
        ((2, 4), [(2, 8), (2, 8)], [(2, 4)])

    References:
        Keras 3, `keras.layers.StackedRNNCells`, 2024, https://keras.io/api/layers/recurrent_layers/stacked_rnn_cell/
    """

    cells: Any = nnx.data()  # noqa: RUF009

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        self.cells = [cell_of(cell) for cell in self.cells]
        if not self.cells:
            raise ValueError("`cells` must hold at least 1 cell; got none.")
        for cell in self.cells:
            if not isinstance(cell, AnyCell):
                raise TypeError(f"`cells` must hold cells, such as LSTMCell(128); got {cell!r}.")

    @property
    def sublayers(self) -> tuple:
        """The cells."""
        return tuple(self.cells)

    @property
    def core(self) -> Stack:  # type: ignore[override]
        """The layers of the core, one upon another."""
        return Stack(tuple(cell.core for cell in self.cells))

    @property
    def state_size(self) -> list:
        """The state size of each cell."""
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self) -> int:
        """That of the last cell."""
        return self.cells[-1].output_size

    def params(self) -> tuple:
        """The weights as parameters of the core."""
        return tuple(cell.params() for cell in self.cells)

    def next_key(self) -> jax.Array | None:
        """Randomness for one call, or None where there is no dropout."""
        return next((cell.next_key() for cell in self.cells if cell.core.stochastic), None)

    def output_of(self, state: Any) -> jax.Array:
        """The last output of the last cell."""
        return self.cells[-1].output_of(state[-1])

    def unpack(self, state: Any) -> list:
        """A state of the core as one of Keras."""
        return [cell.unpack(part) for cell, part in zip(self.cells, state, strict=True)]

    def build(self, input_shape: Shape) -> None:
        """Draws the weights of each cell for the outputs of the one below."""
        for cell in self.cells:
            if not cell.built:
                cell.build(input_shape)
            input_shape = (input_shape[0], cell.output_size)
