"""PyTorch's stacked layers as Flax Linen modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._flax import teaches
from recurrax._layer import Initializer
from recurrax._scan import scan
from recurrax._scan import step as core_step
from recurrax.analysis._trace import Trace, trace
from recurrax.cells.affine import AffineCell
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell
from recurrax.implementations._registry import Implementation
from recurrax.layers import _torch_layout as torch_layout
from recurrax.layers.compose import Stack
from recurrax.linen._recurrent import Module


class _TorchLayer(Module):
    """A stack of equal cells in PyTorch's layout."""

    _: KW_ONLY
    recurrent_bias: bool | None = None
    kernel_init: Initializer = AffineCell.kernel_init
    recurrent_kernel_init: Initializer = AffineCell.recurrent_kernel_init
    bias_init: Initializer = AffineCell.bias_init
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        torch_layout.check_flag("batch_first", self.batch_first)
        torch_layout.warn_of_dropout(self.layer)

    def __call__(
        self,
        x: jax.Array,
        state: Any = None,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        reverse: bool = False,
        unroll: int = 1,
        remat: int | None = None,
        implementation: str | Implementation | tuple | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Runs the layer over a sequence, in PyTorch's layout.

        Args:
            x: `[T, *B, I]`, or `[*B, T, I]` if `batch_first`; `[T, I]` for one sequence.
            state: `[num_layers*D, *B, H]`, for an `LSTM` a pair (h, c) of these; None for zeros.
            lengths: `int[*B]`, the number of unmasked steps of each sequence.
            mask: `bool[T, *B]`, or `bool[*B, T]` if `batch_first`: False at masked
                steps, in any pattern.
            reset: `bool`, laid out as `mask`: True at the first step of a new segment.
            reverse: as in `recurrax.scan`, and so are the next three.
            unroll: how many steps one iteration of the compiled loop takes.
            remat: for how many steps at a time derivatives keep what happens within a step.
            implementation: how to compute it.
            deterministic: whether dropout is off.

        Returns:
            The outputs `[T, *B, D*H]`, laid out as `x`, and the final state, laid out as `state`;
            the outputs alone without `return_state`.
        """
        x, state = self._in_core_layout(x, state, lengths)
        options: dict[str, Any] = {
            "lengths": lengths,
            "mask": mask,
            "reset": reset,
            "reverse": reverse,
        }
        options |= {"time_major": not self.batch_first, "unroll": unroll, "remat": remat}
        output, state = self._run(
            scan, self.layer, x, state, deterministic, implementation=implementation, **options
        )
        if not self.return_state:
            return output
        return output, torch_layout.join_state(state)

    def trace(
        self,
        x: jax.Array,
        state: Any = None,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        reverse: bool = False,
        unroll: int = 1,
        remat: int | None = None,
        implementation: str | Implementation | tuple | None = None,
        deterministic: bool | None = None,
    ) -> Trace:
        """Runs the layer over a sequence and returns the states and gates of every step.

        The arguments are the arguments of the call. Sequences are laid out as `x`.

        Returns:
            The result of `recurrax.trace`, with states in the core's structure: the path of the
            first layer is `"0"`, or `"0.forward"` and `"0.backward"` with two directions.
        """
        x, state = self._in_core_layout(x, state, lengths)
        options: dict[str, Any] = {
            "lengths": lengths,
            "mask": mask,
            "reset": reset,
            "reverse": reverse,
        }
        options |= {"time_major": not self.batch_first, "unroll": unroll, "remat": remat}
        options["implementation"] = implementation
        return self._run(trace, self.layer, x, state, deterministic, **options)

    def step(
        self,
        x: jax.Array,
        state: Any = None,
        *,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        implementation: str | Implementation | tuple | None = None,
        deterministic: bool | None = None,
    ) -> tuple[jax.Array, Any]:
        """Runs the layer over one step; the state has PyTorch's layout.

        `x` is `[*B, I]`, and the output is `[*B, H]`. `mask` `bool[*B]` is False where the step is
        masked. `reset` `bool[*B]` is True where a new segment begins.
        """
        x = jnp.asarray(x)
        state = torch_layout.split_state(self.layer, state, x, x.shape[:-1])
        options: dict[str, Any] = {"mask": mask, "reset": reset, "implementation": implementation}
        y, state = self._run(core_step, self.layer, x, state, deterministic, **options)
        return y, torch_layout.join_state(state)

    @nn.nowrap
    def _in_core_layout(self, x: Any, state: Any, lengths: Any) -> tuple[jax.Array, Any]:
        """Checks the layout; returns the inputs, and the state in the core's structure."""
        # PyTorch's state is one array for all layers and directions. The core has a tree.
        x = jnp.asarray(x)
        torch_layout.check_lengths(lengths, x, self.batch_first)
        batch_shape = x.shape[:-2] if self.batch_first else x.shape[1:-1]
        return x, torch_layout.split_state(self.layer, state, x, batch_shape)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Any:
        """Zeros `[num_layers*D, *B, H]`; for an `LSTM` an `LSTMState` of zeros."""
        return torch_layout.initial_state(self.layer, batch_shape, dtype)

    @nn.nowrap
    def _stack(self, cell_type: type[AffineCell], **options: Any) -> Stack:
        for name in (
            "recurrent_bias",
            "kernel_init",
            "recurrent_kernel_init",
            "bias_init",
            "dtype",
        ):
            options[name] = getattr(self, name)
        sizes = self.hidden_size, self.num_layers, self.bias, self.dropout, self.bidirectional
        return torch_layout.stack(cell_type, *sizes, **options)


@teaches
class RNN(_TorchLayer):
    """Stacked Elman layers: `torch.nn.RNN` in Linen's idiom.

    It has the arguments of `recurrax.nnx.RNN`, by keyword. There is no `input_size`: it is
    inferred.

    h' = tanh(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias)

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

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
    _: KW_ONLY
    num_layers: int = 1
    nonlinearity: str | Callable = "tanh"
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False

    @property
    def layer(self) -> Stack:
        """The layer of the core, for `params_of` and `recurrax.interop`."""
        return self._stack(ElmanCell, activation=torch_layout.activation_of(self.nonlinearity))


@teaches
class LSTM(_TorchLayer):
    """Stacked LSTM layers: `torch.nn.LSTM` in Linen's idiom.

    It has the arguments of `recurrax.nnx.LSTM`, by keyword. There is no `input_size`: it is
    inferred.

    The equations stand in `recurrax.LSTMCell`. The state is an `LSTMState(h, c)`; PyTorch's
    pair is taken as well.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

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
    _: KW_ONLY
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    proj_size: int = 0
    forget_bias: float = LSTMCell.forget_bias
    activation: Callable = jnp.tanh
    gate_activation: Callable = jax.nn.sigmoid

    @property
    def layer(self) -> Stack:
        """The layer of the core, for `params_of` and `recurrax.interop`."""
        return self._stack(
            LSTMCell,
            proj_size=self.proj_size,
            forget_bias=self.forget_bias,
            activation=self.activation,
            gate_activation=self.gate_activation,
        )


@teaches
class GRU(_TorchLayer):
    """Stacked GRU layers: `torch.nn.GRU` in Linen's idiom.

    It has the arguments of `recurrax.nnx.GRU`, by keyword. There is no `input_size`: it is
    inferred.

    The equations stand in `recurrax.GRUCell`. The state is the array h.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

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
    _: KW_ONLY
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    bidirectional: bool = False
    reset_after: bool = GRUCell.reset_after
    activation: Callable = jnp.tanh
    gate_activation: Callable = jax.nn.sigmoid

    @property
    def layer(self) -> Stack:
        """The layer of the core, for `params_of` and `recurrax.interop`."""
        return self._stack(
            GRUCell,
            reset_after=self.reset_after,
            activation=self.activation,
            gate_activation=self.gate_activation,
        )
