"""PyTorch's stacked layers as Flax NNX modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax import _torch_layout as torch_layout
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.nnx._recurrent import Recurrent

_OF_RECURRENT = ("params", "param_dtype", "sharding", "deterministic")


class _TorchLayer(Recurrent):
    """A stack of equal cells in PyTorch's layout."""

    def __init__(
        self,
        sizes: tuple,
        input_size: int,
        batch_first: bool,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        own = {name: options.pop(name) for name in _OF_RECURRENT if name in options}
        super().__init__(torch_layout.stack(*sizes, **options), input_size, rngs=rngs, **own)
        self.batch_first = batch_first

    def __call__(self, x: jax.Array, state: Any = None, **options: Any) -> tuple[jax.Array, Any]:
        """Runs the layer over a sequence, in PyTorch's layout.

        Args:
            x: `[T, *B, I]`, or `[*B, T, I]` if `batch_first`; `[T, I]` for one sequence.
            state: `[num_layers*D, *B, H]`, for an `LSTM` a pair of these; None for zeros.
            **options: `lengths` `[*B]`, `mask` and `reset`, laid out as `x`, and the others of `Recurrent`.

        Returns:
            The outputs `[T, *B, D*H]`, laid out as `x`, and the final state, laid out as `state`.
        """
        x = jnp.asarray(x)
        state = torch_layout.split_state(self.layer, state, x, x.shape[:-2] if self.batch_first else x.shape[1:-1])
        output, state = super().__call__(x, state, time_major=not self.batch_first, **options)
        return output, torch_layout.join_state(state)

    def step(self, x: jax.Array, state: Any = None, **options: Any) -> tuple[jax.Array, Any]:
        """Runs the layer over one step, `[*B, I]`; returns the output `[*B, H]` and the state in PyTorch's layout."""
        x = jnp.asarray(x)
        y, state = super().step(x, torch_layout.split_state(self.layer, state, x, x.shape[:-1]), **options)
        return y, torch_layout.join_state(state)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        """Zeros `[num_layers*D, *B, H]`, for an `LSTM` an `LSTMState` of these."""
        return torch_layout.initial_state(self.layer, batch_shape, dtype)


class RNN(_TorchLayer):
    """Stacked Elman layers: `torch.nn.RNN`, with the same arguments, equations, shapes and layout.

    h' = tanh(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias)

    Args:
        input_size: the number of features I of one input.
        hidden_size: the number of features H of the state.
        num_layers: the number of layers, each reading the outputs of the one below.
        nonlinearity: `"tanh"`, `"relu"`, or a function.
        bias: whether there are biases, two of them.
        batch_first: whether `x` and the output are `[B, T, ...]` rather than `[T, B, ...]`; the state is not affected.
        dropout: the rate of the dropout on the outputs of each layer but the last.
        bidirectional: whether each layer walks both ways, and puts out 2*H features.
        rngs: the source of the initial parameters and of dropout.
        **options: those of `Recurrent` (`params`, `param_dtype`, `sharding`, `deterministic`), and
            of `recurrax.ElmanCell` (`kernel_init`, `recurrent_kernel_init`, `bias_init`, `recurrent_bias`, `dtype`).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> model = rnn.RNN(3, 4, nonlinearity="relu", rngs=nnx.Rngs(0))
        >>> output, h = model(jnp.ones((7, 2, 3)))
        >>> output.shape, h.shape
        ((7, 2, 4), (1, 2, 4))

    References:
        PyTorch, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.RNN.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str | Callable = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        sizes = ElmanCell, hidden_size, num_layers, bias, dropout, bidirectional
        activation = torch_layout.activation_of(nonlinearity)
        super().__init__(sizes, input_size, batch_first, rngs=rngs, activation=activation, **options)


class LSTM(_TorchLayer):
    """Stacked LSTM layers: `torch.nn.LSTM`, with the same arguments, equations, shapes and layout.

    The equations are those of `recurrax.LSTMCell`. The state is an `LSTMState(h, c)`; PyTorch's pair is taken as well.

    Args:
        input_size: as in `RNN`, and so are all arguments up to `bidirectional`, and `rngs`.
        proj_size: the number of features P of h and of the output; 0 for no projection.
        **options: those of `Recurrent` (`params`, `param_dtype`, `sharding`, `deterministic`), and of
            `recurrax.LSTMCell` (`forget_bias`, `activation`, `gate_activation`, `kernel_init`,
            `recurrent_kernel_init`, `bias_init`, `recurrent_bias`, `dtype`).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> model = rnn.LSTM(3, 4, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
        >>> output, (h, c) = model(jnp.ones((7, 2, 3)))
        >>> output.shape, h.shape, c.shape
        ((7, 2, 8), (4, 2, 4), (4, 2, 4))

    References:
        PyTorch, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        sizes = LSTMCell, hidden_size, num_layers, bias, dropout, bidirectional
        super().__init__(sizes, input_size, batch_first, rngs=rngs, proj_size=proj_size, **options)


class GRU(_TorchLayer):
    """Stacked GRU layers: `torch.nn.GRU`, with the same arguments, equations, shapes and layout.

    The equations are those of `recurrax.GRUCell`. The state is the array h.

    Args:
        input_size: as in `RNN`, and so are all arguments up to `bidirectional`, and `rngs`.
        **options: those of `Recurrent` (`params`, `param_dtype`, `sharding`, `deterministic`), and of
            `recurrax.GRUCell` (`reset_after`, `activation`, `gate_activation`, `kernel_init`,
            `recurrent_kernel_init`, `bias_init`, `recurrent_bias`, `dtype`).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from recurrax import nnx as rnn
        >>> model = rnn.GRU(3, 4, batch_first=True, rngs=nnx.Rngs(0))
        >>> output, h = model(jnp.ones((2, 7, 3)), lengths=jnp.array([7, 5]))
        >>> output.shape, h.shape
        ((2, 7, 4), (1, 2, 4))

    References:
        PyTorch, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        sizes = GRUCell, hidden_size, num_layers, bias, dropout, bidirectional
        super().__init__(sizes, input_size, batch_first, rngs=rngs, **options)
