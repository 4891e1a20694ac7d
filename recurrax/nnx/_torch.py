"""PyTorch's stacked layers as Flax NNX modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax._flax import Sharding, teaches
from recurrax._layer import Initializer, Params
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
from recurrax.nnx._recurrent import Randomness, Recurrent
from recurrax.nnx._tabulate import shown, taken


class _TorchLayer(Recurrent):
    """A stack of equal cells in PyTorch's layout."""

    def __init__(self, layer: Stack, input_size: int, batch_first: bool, **options: Any) -> None:
        super().__init__(layer, input_size, **options)
        self.batch_first = torch_layout.check_flag("batch_first", batch_first)
        torch_layout.warn_of_dropout(layer)

    def __call__(  # type: ignore[override]
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
        rngs: Randomness = None,
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
            deterministic: overrides the attribute of that name.
            rngs: overrides the source of dropout.

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
            scan, x, state, deterministic, rngs, implementation=implementation, **options
        )
        if not self.return_state:
            return output
        return output, shown(self, torch_layout.join_state(state))

    def trace(  # type: ignore[override]
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
        rngs: Randomness = None,
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
        return self._run(trace, x, state, deterministic, rngs, **options)

    # No layer of PyTorch reads a `memory`.
    def step(  # type: ignore[override]
        self,
        x: jax.Array,
        state: Any = None,
        *,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        implementation: str | Implementation | tuple | None = None,
        deterministic: bool | None = None,
        rngs: Randomness = None,
    ) -> tuple[jax.Array, Any]:
        """Runs the layer over one step; the state has PyTorch's layout.

        `x` is `[*B, I]`, and the output is `[*B, H]`. `mask` `bool[*B]` is False where the step is
        masked. `reset` `bool[*B]` is True where a new segment begins.
        """
        x = jnp.asarray(x)
        state = torch_layout.split_state(self.layer, taken(state), x, x.shape[:-1])
        options: dict[str, Any] = {"mask": mask, "reset": reset, "implementation": implementation}
        y, state = self._run(core_step, x, state, deterministic, rngs, **options)
        return y, shown(self, torch_layout.join_state(state))

    def _in_core_layout(self, x: Any, state: Any, lengths: Any) -> tuple[jax.Array, Any]:
        """Checks the layout; returns the inputs, and the state in the core's structure."""
        # PyTorch's state is one array for all layers and directions. The core has a tree.
        x = jnp.asarray(x)
        torch_layout.check_lengths(lengths, x, self.batch_first)
        batch_shape = x.shape[:-2] if self.batch_first else x.shape[1:-1]
        return x, torch_layout.split_state(self.layer, taken(state), x, batch_shape)

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> Any:
        """Zeros `[num_layers*D, *B, H]`, for an `LSTM` an `LSTMState` of these."""
        return shown(self, torch_layout.initial_state(self.layer, batch_shape, dtype))


@teaches
class RNN(_TorchLayer):
    """Stacked Elman layers: `torch.nn.RNN`, with the same arguments, equations, shapes and layout.

    h' = tanh(x @ kernel + bias + h @ recurrent_kernel + recurrent_bias)

    Args:
        input_size: the number of features I of one input.
        hidden_size: the number of features H of the state.
        num_layers: the number of layers, each reading the outputs of the one below.
        nonlinearity: `"tanh"`, `"relu"`, or a function.
        bias: whether there are biases, two of them.
        batch_first: whether `x` and the output are `[B, T, ...]` rather than `[T, B, ...]`; the
            state is not affected.
        dropout: the rate of the dropout on the outputs of each layer but the last.
        bidirectional: whether each layer runs in both directions, with 2*H output features.
        recurrent_bias: whether the recurrent product has a bias of its own; None for what `bias`
            says.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; None follows the parameters and the inputs.
        params: as in `Recurrent`, and so are all that follow.
        param_dtype: the dtype of the parameters that are drawn.
        sharding: the mesh axes of parameters.
        deterministic: whether dropout is off.
        return_state: whether a call returns the state beside the outputs.
        rngs: the source of the initial parameters and of dropout.

    Raises:
        TypeError: if an argument has the wrong type.
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
        recurrent_bias: bool | None = None,
        kernel_init: Initializer = AffineCell.kernel_init,
        recurrent_kernel_init: Initializer = AffineCell.recurrent_kernel_init,
        bias_init: Initializer = AffineCell.bias_init,
        dtype: DTypeLike | None = None,
        params: Params | None = None,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Sharding | None = None,
        deterministic: bool = False,
        return_state: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        layer = torch_layout.stack(
            ElmanCell,
            hidden_size,
            num_layers,
            bias,
            dropout,
            bidirectional,
            activation=torch_layout.activation_of(nonlinearity),
            recurrent_bias=recurrent_bias,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            dtype=dtype,
        )
        super().__init__(
            layer,
            input_size,
            batch_first,
            params=params,
            param_dtype=param_dtype,
            sharding=sharding,
            deterministic=deterministic,
            return_state=return_state,
            rngs=rngs,
        )


@teaches
class LSTM(_TorchLayer):
    """Stacked LSTM layers: `torch.nn.LSTM`, with the same arguments, equations, shapes and layout.

    The equations stand in `recurrax.LSTMCell`. The state is an `LSTMState(h, c)`; PyTorch's
    pair is taken as well.

    Args:
        input_size: as in `RNN`, and so are all arguments that are not named here.
        proj_size: the number of features P of h and of the output; 0 for no projection.
        forget_bias: added to the forget gate's bias when it is drawn; PyTorch has 0.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates.

    Raises:
        TypeError: if an argument has the wrong type.
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
        forget_bias: float = LSTMCell.forget_bias,
        activation: Callable = jnp.tanh,
        gate_activation: Callable = jax.nn.sigmoid,
        recurrent_bias: bool | None = None,
        kernel_init: Initializer = AffineCell.kernel_init,
        recurrent_kernel_init: Initializer = AffineCell.recurrent_kernel_init,
        bias_init: Initializer = AffineCell.bias_init,
        dtype: DTypeLike | None = None,
        params: Params | None = None,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Sharding | None = None,
        deterministic: bool = False,
        return_state: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        layer = torch_layout.stack(
            LSTMCell,
            hidden_size,
            num_layers,
            bias,
            dropout,
            bidirectional,
            proj_size=proj_size,
            forget_bias=forget_bias,
            activation=activation,
            gate_activation=gate_activation,
            recurrent_bias=recurrent_bias,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            dtype=dtype,
        )
        super().__init__(
            layer,
            input_size,
            batch_first,
            params=params,
            param_dtype=param_dtype,
            sharding=sharding,
            deterministic=deterministic,
            return_state=return_state,
            rngs=rngs,
        )


@teaches
class GRU(_TorchLayer):
    """Stacked GRU layers: `torch.nn.GRU`, with the same arguments, equations, shapes and layout.

    The equations stand in `recurrax.GRUCell`. The state is the array h.

    Args:
        input_size: as in `RNN`, and so are all arguments that are not named here.
        reset_after: whether the reset gate acts after the recurrent product, as in PyTorch, or
            before it.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates.

    Raises:
        TypeError: if an argument has the wrong type.
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
        reset_after: bool = GRUCell.reset_after,
        activation: Callable = jnp.tanh,
        gate_activation: Callable = jax.nn.sigmoid,
        recurrent_bias: bool | None = None,
        kernel_init: Initializer = AffineCell.kernel_init,
        recurrent_kernel_init: Initializer = AffineCell.recurrent_kernel_init,
        bias_init: Initializer = AffineCell.bias_init,
        dtype: DTypeLike | None = None,
        params: Params | None = None,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Sharding | None = None,
        deterministic: bool = False,
        return_state: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        layer = torch_layout.stack(
            GRUCell,
            hidden_size,
            num_layers,
            bias,
            dropout,
            bidirectional,
            reset_after=reset_after,
            activation=activation,
            gate_activation=gate_activation,
            recurrent_bias=recurrent_bias,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            dtype=dtype,
        )
        super().__init__(
            layer,
            input_size,
            batch_first,
            params=params,
            param_dtype=param_dtype,
            sharding=sharding,
            deterministic=deterministic,
            return_state=return_state,
            rngs=rngs,
        )
