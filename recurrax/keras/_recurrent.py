"""The common part of all recurrent layers: Keras' weights, `recurrax.scan`, Keras' outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from recurrax._arguments import check_number
from recurrax._check import check_rate, describe
from recurrax._dtype import promote
from recurrax._layer import Params
from recurrax._scan import scan
from recurrax.keras._gate_dropout import GateDropout
from recurrax.keras._layer import Layer, Shape, build_for, source_of
from recurrax.keras._names import Named

Sizes = int | tuple[int, ...]
# The weights in Keras' order, and their names in the arguments.
_ARGUMENTS = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}


class RNNState(nnx.Variable):
    """The state that a stateful layer keeps from call to call."""


class ActivityLoss(nnx.Variable):
    """The penalty on the outputs of the last call."""


@dataclasses.dataclass(eq=False, repr=False)
class Recurrent(Layer):
    """A recurrent layer: Keras' arguments in Keras' order, and a cell of the core.

    A layer that takes an argument with `init=False` declares it again.
    """

    cell_type: ClassVar[Any]
    size_name: ClassVar[str] = "units"
    rank: ClassVar[int] = 0  # the number of spatial axes

    units: int = dataclasses.field(init=False)
    filters: int = dataclasses.field(init=False)
    kernel_size: Sizes = dataclasses.field(init=False)
    strides: Sizes = dataclasses.field(init=False)
    padding: str = dataclasses.field(init=False)
    data_format: str | None = dataclasses.field(init=False)
    dilation_rate: Sizes = dataclasses.field(init=False)
    activation: Named = "tanh"
    recurrent_activation: Named = dataclasses.field(init=False)
    use_bias: bool = True
    kernel_initializer: Named = "glorot_uniform"
    recurrent_initializer: Named = "orthogonal"
    bias_initializer: Named = "zeros"
    unit_forget_bias: bool = dataclasses.field(init=False)
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
    unroll: bool = False
    reset_after: bool = dataclasses.field(init=False)
    use_cudnn: bool | str = dataclasses.field(init=False)
    _: dataclasses.KW_ONLY
    zero_output_for_mask: bool = False
    time_major: bool = False

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        check_number(self.size_name, self.size)
        check_rate("dropout", self.dropout)
        check_rate("recurrent_dropout", self.recurrent_dropout)
        if self._cudnn not in ("auto", True, False):
            raise ValueError(f'`use_cudnn` must be "auto", True or False; got {self._cudnn!r}.')
        self.source: Any = source_of(rngs, self.seed)
        self.deterministic = True
        self.states: Any = nnx.data(None)
        if self.activity_regularizer is not None:
            self.activity_loss = ActivityLoss(jnp.zeros(()))

    @property
    def recurrent_layers(self) -> tuple[Any, ...]:
        """This layer."""
        return (self,)

    @property
    def gates(self) -> int:
        """The number of gates."""
        return self.cell_type.gates

    @property
    def size(self) -> int:
        """The number of features, or of channels, of one part of the state."""
        return getattr(self, self.size_name)

    @property
    def state_size(self) -> list[int]:
        """A list with the number of features of each part of the state."""
        return [self.size] * len(self.cell_type.state_type._fields)

    @property
    def core(self) -> Any:
        """The layer of the core: the cell, wrapped in dropout if a rate is above 0."""
        layer = GateDropout(self._cell(), self.dropout, self.recurrent_dropout, self._masks)
        if layer.stochastic:
            return layer
        return layer.layer

    def params(self) -> Params:
        """The weights as parameters of the core."""
        return self.cell_type.params_type(*self._arrays())

    def _cell(self) -> Any:
        return self.cell_type(self.size, **self._options())

    def _options(self) -> dict[str, Any]:
        # The options that all cells have.
        _, dtype = self._dtypes
        options = {"bias": self.use_bias, "activation": self._meaning("activation"), "dtype": dtype}
        if hasattr(self, "recurrent_activation"):
            options["gate_activation"] = self._meaning("recurrent_activation")
        return options

    @property
    def _masks(self) -> int:
        # Keras draws a mask for each gate if it multiplies by the kernel of each gate.
        if self.recurrent_dropout or getattr(self, "implementation", 2) == 1:
            return self.gates
        return 1

    @property
    def _cudnn(self) -> Any:
        return getattr(self, "use_cudnn", "auto")

    @property
    def built(self) -> bool:
        """Whether the weights, and the state of a stateful layer, are there."""
        has_state = self.states is not None or not self.stateful
        return hasattr(self, "kernel") and has_state

    def build(self, input_shape: Shape) -> None:
        """Draws the weights, and makes the state of a stateful layer, whose B must be given."""
        batch: Any = input_shape[1 - self._time]
        if self.stateful and batch is None:
            must = "must begin with the batch size where `stateful` is True"
            raise ValueError(f"`input_shape` {must}; got {tuple(input_shape)}.")
        if not hasattr(self, "kernel"):
            self._draw((), input_shape[-1])
        if self.stateful:
            parts = map(RNNState, self.get_initial_state(batch))
            self.states = nnx.data(list(parts))

    def _draw(self, window: tuple[int, ...], input_size: int | None) -> None:
        width = self.gates * self.size
        self.kernel = self._drawn("kernel_initializer", (*window, input_size, width))
        self.recurrent_kernel = self._drawn("recurrent_initializer", (*window, self.size, width))
        if self.use_bias:
            self.bias = self._drawn("bias_initializer", self._bias_shape)
        if self.use_bias and getattr(self, "unit_forget_bias", False):
            forget = slice(self.size, 2 * self.size)
            self.bias[...] = self.bias[...].at[forget].set(1)
        if not self.core.stochastic:
            self.source = nnx.data(None)

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.size,)

    def _drawn(self, argument: str, shape: tuple[int | None, ...]) -> nnx.Variable:
        dtype, _ = self._dtypes
        # Some distributions cannot be drawn in half precision, so float32 is the least.
        wide = promote(dtype, jnp.float32)
        drawn = self._meaning(argument)(self.source.params(), shape, wide)
        drawn = jnp.asarray(drawn).astype(dtype)
        if self.trainable:
            return nnx.Param(drawn)
        return nnx.Variable(drawn)

    def named_weights(self) -> dict[str, nnx.Variable]:
        """The weights by their names in the arguments: `kernel`, `recurrent` and `bias`."""
        weights = {}
        for name, argument in _ARGUMENTS.items():
            # There may be no bias.
            if hasattr(self, name):
                weights[argument] = getattr(self, name)
        return weights

    def weights_with(self, kind: str) -> Iterator[tuple[Callable, nnx.Variable]]:
        """The weights that have a function of this kind, such as "constraint", with it."""
        for argument, weight in self.named_weights().items():
            function = self._meaning(f"{argument}_{kind}")
            if function is not None:
                yield function, weight

    def _arrays(self) -> list[Any]:
        # The core has None for a missing bias.
        arrays: list[Any] = [weight[...] for weight in self.weights]
        if not self.use_bias:
            arrays.append(None)
        return arrays

    @property
    def _channels(self) -> int:
        # The axis of channels. The core has it last.
        return -1

    def to_core(self, x: jax.Array) -> jax.Array:
        """An array of Keras in the core's layout."""
        return jnp.moveaxis(x, self._channels, -1)

    def from_core(self, x: jax.Array) -> jax.Array:
        """An array of the core in Keras' layout."""
        return jnp.moveaxis(x, -1, self._channels)

    def get_initial_state(self, batch_size: int) -> list:
        """Zeros, each part of the state `[B, H]`."""
        _, dtype = self._dtypes
        state = self.core.initial_state((batch_size,), dtype)
        return list(map(self.from_core, state))

    def __call__(
        self,
        sequences: jax.Array,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        """Runs the layer over a batch of sequences.

        Args:
            sequences: `[B, T, I]`, or `[T, B, I]` if `time_major`.
            initial_state: each part of the state, `[B, H]`; None for zeros or the kept state.
            mask: `[B, T]`, laid out as `sequences`: False or 0 at the masked steps.
            training: whether dropout acts; None for no, but after `train()`.

        Returns:
            The last output, `[B, H]`, or all outputs, `[B, T, H]`, if `return_sequences`; with
            `return_state` a tuple of these and each part of the final state.

        Raises:
            ValueError: if a shape is wrong, or the layer is not built and the call is under jit.
        """
        sequences = jnp.asarray(sequences)
        self._check_rank(sequences)
        build_for(self, sequences.shape)
        time = self._time
        batch_size, steps = sequences.shape[1 - time], sequences.shape[time]
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)
        if training is None:
            training = not self.deterministic
        key = None
        if training and self.source is not None:
            key = self.source.dropout()
        _, dtype = self._dtypes
        xs = self.to_core(sequences.astype(dtype))
        state = self._first_state(initial_state, batch_size)
        final, ys = scan(
            self.core,
            self.params(),
            xs,
            state,
            mask=mask,
            reverse=self.go_backwards,
            time_major=self.time_major,
            unroll=steps if self.unroll else 1,
            implementation="cudnn" if self._cudnn is True else None,
            key=key,
        )
        for kept, new in zip(self.states or (), final, strict=self.stateful):
            kept[...] = new
        # Keras puts out the steps in the order in which they ran.
        if self.go_backwards:
            ys = jnp.flip(ys, time)
            mask = jax.tree.map(lambda flags: jnp.flip(flags, time), mask)
        if mask is not None and not self.zero_output_for_mask:
            before = state.h
            # Before the first unmasked step, an unrolled layer of Keras puts out zeros.
            if self.unroll:
                before = jnp.zeros_like(before)
            ys = _repeated(ys, mask, before, time)
        if not self.return_sequences:
            ys = lax.index_in_dim(ys, -1, time, keepdims=False)
        outputs = [self.from_core(ys)]
        if self.return_state:
            outputs += map(self.from_core, final)
        if self.activity_regularizer is not None:
            penalty = self._meaning("activity_regularizer")
            # Keras divides by the batch size.
            self.activity_loss[...] = sum(map(penalty, outputs)) / batch_size
        if not self.return_state:
            return outputs[0]
        return tuple(outputs)

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of the inputs if the layer returns sequences, even with `go_backwards`."""
        if self.return_sequences:
            return mask
        return None

    def compute_output_shape(
        self, sequences_shape: Shape, initial_state_shape: Any = None
    ) -> tuple:
        """The shape of a call's result, from a shape of inputs. Batch and time may be None."""
        batch = sequences_shape[1 - self._time]
        features = self._feature_shape(sequences_shape[2:])
        last = (batch, *features)
        output: tuple = last
        if self.return_sequences:
            output = (*sequences_shape[:2], *features)
        if not self.return_state:
            return output
        return (output, *[last] * len(self.state_size))

    def _feature_shape(self, input_shape: Shape) -> tuple[int, ...]:
        """The shape of one output, without batch and time, for the shape of one input."""
        return (self.size,)

    @property
    def _time(self) -> int:
        """The axis of time. The batch has the other one of the first two axes."""
        return int(not self.time_major)

    def _check_rank(self, sequences: jax.Array) -> None:
        if sequences.ndim != 3 + self.rank:
            order = "B, T"
            if self.time_major:
                order = "T, B"
            layout = f"[{order}, {'space, ' * self.rank}I]"
            raise ValueError(f"`sequences` must be {layout}; got {describe(sequences)}.")

    def _first_state(self, initial_state: Any, batch_size: int) -> Any:
        """The state of the core before the first step."""
        kept = [state[...] for state in self.states or ()]
        if kept and len(kept[0]) != batch_size:
            raise ValueError(
                f"`sequences` must hold {len(kept[0])} sequences, "
                "as those that the state was kept of; "
                f"got {batch_size}. Call `build` with another batch size to begin anew."
            )
        leaves = jax.tree.leaves(initial_state)
        # A stateful layer goes on from its own state.
        if initial_state is None:
            leaves = kept or self.get_initial_state(batch_size)
        _, dtype = self._dtypes
        parts = [self.to_core(jnp.asarray(leaf).astype(dtype)) for leaf in leaves]
        state_type = self.cell_type.state_type
        expected = len(state_type._fields)
        if len(parts) != expected:
            got = f"{len(parts)}: {', '.join(map(describe, parts))}"
            raise ValueError(f"`initial_state` must hold {expected} arrays; got {got}.")
        return state_type(*parts)


def _repeated(ys: jax.Array, mask: jax.Array, before: jax.Array, time: int) -> jax.Array:
    """The outputs, with the last unmasked output repeated at each masked step.

    `before` `[B, H]` stands before the first unmasked step.
    """
    steps = jnp.expand_dims(jnp.arange(mask.shape[time]), 1 - time)
    # The last unmasked step up to each step, or -1.
    last = lax.cummax(jnp.where(mask, steps, -1), axis=time)
    last = jnp.expand_dims(last, tuple(range(2, ys.ndim)))
    held = jnp.take_along_axis(ys, jnp.maximum(last, 0), axis=time)
    before = jnp.expand_dims(before, time).astype(ys.dtype)
    return jnp.where(last < 0, before, held)
