"""PyTorch's stacked layers as Flax Linen modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import _torch_layout as torch_layout
from recurrax._affine import AffineCell
from recurrax._layer import Initializer, Layer
from recurrax._scan import scan
from recurrax._scan import step as core_step
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.linen._recurrent import Module


class _TorchLayer(Module):
    """A stack of equal cells in PyTorch's layout."""

    _: KW_ONLY
    recurrent_bias: bool | None = None
    kernel_init: Initializer = AffineCell.kernel_init
    recurrent_kernel_init: Initializer = AffineCell.recurrent_kernel_init
    bias_init: Initializer = AffineCell.bias_init
    dtype: DTypeLike | None = None

    def __call__(
        self, x: jax.Array, state: Any = None, *, deterministic: bool | None = None, **options: Any
    ) -> tuple[jax.Array, Any]:
        """Runs the layer over a sequence, in PyTorch's layout.

        Args:
            x: `[T, *B, I]`, or `[*B, T, I]` if `batch_first`; `[T, I]` for one sequence.
            state: `[num_layers*D, *B, H]`, for an `LSTM` a pair of these; None for zeros.
            deterministic: whether dropout is off.
            **options: `lengths` `[*B]`, `mask` and `reset`, laid out as `x`, and the others of `Recurrent`.

        Returns:
            The outputs `[T, *B, D*H]`, laid out as `x`, and the final state, laid out as `state`.
        """
        stack = self._stack()
        state = torch_layout.split_state(stack, state, x, x.shape[:-2] if self.batch_first else x.shape[1:-1])
        output, state = self._run(scan, stack, x, state, deterministic, time_major=not self.batch_first, **options)
        return output, torch_layout.join_state(state)

    def step(
        self, x: jax.Array, state: Any = None, *, deterministic: bool | None = None, **options: Any
    ) -> tuple[jax.Array, Any]:
        """Runs the layer over one step, `[*B, I]`; returns the output `[*B, H]` and the state in PyTorch's layout."""
        stack = self._stack()
        state = torch_layout.split_state(stack, state, x, x.shape[:-1])
        y, state = self._run(core_step, stack, x, state, deterministic, **options)
        return y, torch_layout.join_state(state)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> Any:
        """Zeros `[num_layers*D, *B, H]`, for an `LSTM` an `LSTMState` of these; it needs neither rng nor parameters."""
        return torch_layout.initial_state(self._stack(), batch_shape, dtype)

    def _stack_of(self, cell_type: type[AffineCell], **options: Any) -> Layer:
        for name in ("recurrent_bias", "kernel_init", "recurrent_kernel_init", "bias_init", "dtype"):
            options[name] = getattr(self, name)
        sizes = self.hidden_size, self.num_layers, self.bias, self.dropout, self.bidirectional
        return torch_layout.stack(cell_type, *sizes, **options)


class RNN(_TorchLayer):
    """Stacked Elman layers: `torch.nn.RNN` in Linen's idiom. Its arguments are those of `recurrax.nnx.RNN`.

    h' = tanh(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias)

    Raises:
        ValueError: if an argument is out of range, at `init` or `apply`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax import linen as rnn
        >>> model = rnn.RNN(4, nonlinearity="relu")
        >>> variables = model.init(jax.random.key(0), jnp.ones((7, 2, 3)))
        >>> output, h = model.apply(variables, jnp.ones((7, 2, 3)))
        >>> output.shape, h.shape
        ((7, 2, 4), (1, 2, 4))

    References:
        PyTorch, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.RNN.html
    """

    hidden_size: int
    num_layers: int = 1
    nonlinearity: str | Callable = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False

    def _stack(self) -> Layer:
        return self._stack_of(ElmanCell, activation=torch_layout.activation_of(self.nonlinearity))


class LSTM(_TorchLayer):
    """Stacked LSTM layers: `torch.nn.LSTM` in Linen's idiom. Its arguments are those of `recurrax.nnx.LSTM`.

    The equations are those of `recurrax.LSTMCell`. The state is an `LSTMState(h, c)`; PyTorch's pair is taken as well.

    Raises:
        ValueError: if an argument is out of range, at `init` or `apply`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax import linen as rnn
        >>> model = rnn.LSTM(4, num_layers=2, bidirectional=True)
        >>> variables = model.init(jax.random.key(0), jnp.ones((7, 2, 3)))
        >>> output, (h, c) = model.apply(variables, jnp.ones((7, 2, 3)))
        >>> output.shape, h.shape, variables["params"]["layers_1"]["forward"]["kernel"].shape
        ((7, 2, 8), (4, 2, 4), (8, 16))

    References:
        PyTorch, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html
    """

    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    _: KW_ONLY
    forget_bias: float = LSTMCell.forget_bias
    activation: Callable = jnp.tanh
    gate_activation: Callable = jax.nn.sigmoid

    def _stack(self) -> Layer:
        options = {name: getattr(self, name) for name in ("proj_size", "forget_bias", "activation", "gate_activation")}
        return self._stack_of(LSTMCell, **options)


class GRU(_TorchLayer):
    """Stacked GRU layers: `torch.nn.GRU` in Linen's idiom. Its arguments are those of `recurrax.nnx.GRU`.

    The equations are those of `recurrax.GRUCell`. The state is the array h.

    Raises:
        ValueError: if an argument is out of range, at `init` or `apply`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax import linen as rnn
        >>> model = rnn.GRU(4, batch_first=True)
        >>> variables = model.init(jax.random.key(0), jnp.ones((2, 7, 3)))
        >>> output, h = model.apply(variables, jnp.ones((2, 7, 3)), lengths=jnp.array([7, 5]))
        >>> output.shape, h.shape
        ((2, 7, 4), (1, 2, 4))

    References:
        PyTorch, 2024, https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html
    """

    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    _: KW_ONLY
    reset_after: bool = GRUCell.reset_after
    activation: Callable = jnp.tanh
    gate_activation: Callable = jax.nn.sigmoid

    def _stack(self) -> Layer:
        options = {name: getattr(self, name) for name in ("reset_after", "activation", "gate_activation")}
        return self._stack_of(GRUCell, **options)
