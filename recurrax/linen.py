"""Flax Linen modules: they hold the parameters, and the core does the rest. The input size is inferred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike

from recurrax import _torch_layout as torch_layout
from recurrax._affine import AffineCell
from recurrax._flax import mesh_axes, names_of
from recurrax._layer import Initializer, Layer, State, features
from recurrax._scan import scan
from recurrax._scan import step as core_step
from recurrax.cells.elman import ElmanCell
from recurrax.cells.gru import GRUCell
from recurrax.cells.lstm import LSTMCell


class _Module(nn.Module):
    """What all of these modules share: named parameters, dropout, and the call of the core."""

    _: KW_ONLY
    param_dtype: DTypeLike = jnp.float32
    sharding: Mapping[str, tuple] | None = None
    deterministic: bool | None = None

    @nn.compact
    def _run(
        self, driver: Callable, layer: Layer, x: jax.Array, state: State, deterministic: bool | None, **options: Any
    ) -> tuple[jax.Array, State]:
        key = None
        if layer.stochastic and not nn.merge_param("deterministic", self.deterministic, deterministic):
            key = self.make_rng("dropout")
        params = self._params(layer, features(x).shape[-1])
        if driver is core_step:
            state, output = core_step(layer, params, state, x, key=key, **options)
        else:
            state, output = scan(layer, params, x, state, key=key, **options)
        return output, state

    def _params(self, layer: Layer, input_size: int) -> Any:
        """The layer's parameters, kept as nested dictionaries of names, as Linen's users expect."""

        def draw(key: jax.Array) -> Any:
            params = layer.init(key, input_size, self.param_dtype)
            axes = mesh_axes(layer, params, self.sharding)
            boxed = [
                leaf if names is None else nn.Partitioned(leaf, names=names)
                for leaf, names in zip(jax.tree.leaves(params), axes, strict=True)
            ]
            return jax.tree.unflatten(jax.tree.structure(params), boxed)

        if self.is_initializing():
            drawn = draw(self.make_rng("params"))
        else:  # Linen compares shapes with those of the stored parameters.
            shapes = jax.eval_shape(draw, jax.random.key(0))
            drawn = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        leaves, structure = jax.tree_util.tree_flatten_with_path(drawn, is_leaf=lambda n: isinstance(n, nn.Partitioned))
        nested = unflatten_dict({names_of(path): leaf for path, leaf in leaves})
        kept = flatten_dict({name: self.param(name, lambda _, value=value: value) for name, value in nested.items()})
        return jax.tree.unflatten(structure, [kept[names_of(path)] for path, _ in leaves])


class Recurrent(_Module):
    """Any layer of the core, with its parameters.

    Args:
        layer: the layer.
        param_dtype: the dtype of the parameters.
        sharding: the mesh axes of parameters that are to be sharded, such as `{"kernel": (None, "model")}`; they become
            `nn.Partitioned`.
        deterministic: whether dropout is off; here or at the call. Dropout draws from the rng `dropout`.

    Raises:
        ValueError: as `recurrax.scan`, at the call.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax import linen as rnn
        >>> model = rnn.Recurrent(recurrax.Bidirectional(recurrax.LSTMCell(4), recurrax.GRUCell(4)))
        >>> x = jnp.ones((2, 7, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> output, state = model.apply(variables, x)
        >>> output.shape, state.forward.c.shape, variables["params"]["backward"]["kernel"].shape
        ((2, 7, 8), (2, 4), (3, 12))

    References:
        Flax Linen, 2020, https://flax-linen.readthedocs.io
    """

    layer: Layer

    def __call__(
        self,
        x: jax.Array,
        state: State | None = None,
        *,
        lengths: jax.Array | None = None,
        mask: jax.Array | None = None,
        reset: jax.Array | None = None,
        deterministic: bool | None = None,
        **options: Any,
    ) -> tuple[jax.Array, State]:
        """Runs the layer over a sequence.

        Args:
            x: `[*B, T, I]`, or `[T, *B, I]` if `time_major`.
            state: the state before the first step; None for the initial state.
            lengths: `int[*B]`, as in `recurrax.scan`.
            mask: `bool[*B, T]`, as in `recurrax.scan`.
            reset: `bool[*B, T]`, as in `recurrax.scan`.
            deterministic: whether dropout is off.
            **options: `reverse`, `time_major`, `unroll` and `implementation` of `recurrax.scan`.

        Returns:
            The outputs and the final state, in the core's structure.
        """
        options |= {"lengths": lengths, "mask": mask, "reset": reset}
        return self._run(scan, self.layer, x, state, deterministic, **options)

    def step(
        self, x: jax.Array, state: State | None = None, *, deterministic: bool | None = None, **options: Any
    ) -> tuple[jax.Array, State]:
        """Runs the layer over one step, `[*B, I]`; returns the output `[*B, O]` and the new state.

        The options are the `mask`, `reset` and `implementation` of `recurrax.step`.
        """
        return self._run(core_step, self.layer, x, state, deterministic, **options)

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, for a batch of shape `batch_shape`.

        It needs neither rng nor parameters, and so knows nothing of a state that is learned: for that, pass None.
        """
        return self.layer.initial_state(batch_shape, dtype)


class _TorchLayer(_Module):
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
