"""The common part of all recurrent layers: Keras' weights, `recurrax.scan`, Keras' outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from recurrax._arguments import check_number
from recurrax._check import check_rate, describe
from recurrax._layer import Layer as CoreLayer
from recurrax._layer import Params
from recurrax._scan import scan
from recurrax.keras._gate_dropout import GateDropout
from recurrax.keras._layer import ActivityLoss, Layer, RNNState, Shape, build_for, source_of
from recurrax.keras._names import Named

Sizes = int | tuple[int, ...]


@dataclasses.dataclass(eq=False, repr=False)
class Arguments(Layer):
    """Keras' arguments in Keras' order.

    A layer that takes an argument with `init=False` declares it again.
    """

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


# The weights in Keras' order, and their names in the arguments.
_ARGUMENTS = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}


@dataclasses.dataclass(eq=False, repr=False)
class Recurrent(Arguments):
    """A recurrent layer. A subclass declares its cell of the core, and how the weights go there."""

    gates: ClassVar[int]
    parts: ClassVar[int] = 1  # of the state
    size_name: ClassVar[str] = "units"
    rank: ClassVar[int] = 0  # the number of spatial axes

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        check_number(self.size_name, self.size)
        check_rate("dropout", self.dropout)
        check_rate("recurrent_dropout", self.recurrent_dropout)
        if getattr(self, "use_cudnn", "auto") not in ("auto", True, False):
            raise ValueError(f'`use_cudnn` must be "auto", True or False; got {self.use_cudnn!r}.')
        self.source: Any = source_of(rngs, self.seed)
        self.deterministic = True
        self.states: Any = nnx.data(None)
        if self.activity_regularizer is not None:
            self.activity_loss = ActivityLoss(jnp.zeros(()))

    def params(self) -> Params:
        """The weights as parameters of the core."""
        raise NotImplementedError

    def _core_cell(self) -> Any:
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        options = {
            "bias": self.use_bias,
            "activation": self._meaning("activation"),
            "dtype": self._compute_dtype,
        }
        if hasattr(self, "recurrent_activation"):
            options["gate_activation"] = self._meaning("recurrent_activation")
        return options

    @property
    def core(self) -> CoreLayer:
        """The layer of the core: the cell, wrapped in dropout if a rate is above 0."""
        layer = GateDropout(self._core_cell(), self.dropout, self.recurrent_dropout, self._masks)
        if layer.stochastic:
            return layer
        return layer.layer

    @property
    def _masks(self) -> int:
        # Keras draws one for each gate where it multiplies by each gate's kernel apart.
        # Keras draws a mask for each gate if it multiplies by the kernel of each gate.
        if self.recurrent_dropout or getattr(self, "implementation", 2) == 1:
            return self.gates
        return 1

    @property
    def size(self) -> int:
        """The number of features, or of channels, of one part of the state."""
        return getattr(self, self.size_name)

    @property
    def state_size(self) -> list[int]:
        """A list with the number of features of each part of the state."""
        return [self.size] * self.parts

    @property
    def built(self) -> bool:
        """Whether the weights, and the state of a stateful layer, are there."""
        return hasattr(self, "kernel") and (self.states is not None or not self.stateful)

    def build(self, input_shape: Shape) -> None:
        """Draws the weights, and makes the state of a stateful layer.

        Args:
            input_shape: `(B, T, I)`, laid out as the inputs; B and T may be None, but B not for a
                stateful layer.
        """
        batch: Any = input_shape[1 if self.time_major else 0]
        if self.stateful and batch is None:
            must = "must begin with the batch size where `stateful` is True"
            raise ValueError(f"`input_shape` {must}; got {tuple(input_shape)}.")
        if not hasattr(self, "kernel"):
            self._draw((), input_shape[-1])
        if self.stateful:
            self.states = nnx.data([RNNState(part) for part in self.get_initial_state(batch)])

    def _draw(self, window: tuple[int, ...], input_size: int | None) -> None:
        width = self.gates * self.size
        self.kernel = self._drawn("kernel_initializer", (*window, input_size, width))
        self.recurrent_kernel = self._drawn("recurrent_initializer", (*window, self.size, width))
        if self.use_bias:
            self.bias = self._drawn("bias_initializer", self._bias_shape)
        if self.use_bias and getattr(self, "unit_forget_bias", False):
            self.bias[...] = self.bias[...].at[self.size : 2 * self.size].set(1)
        if not self.core.stochastic:
            self.source = nnx.data(None)

    @property
    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.size,)

    def _drawn(self, argument: str, shape: tuple[int | None, ...]) -> nnx.Variable:
        # Drawn in float32 at least: some distributions cannot be drawn in half precision.
        # Some distributions cannot be drawn in half precision, so float32 is the least.
        dtype = max(self._variable_dtype, jnp.dtype(jnp.float32), key=lambda dtype: dtype.itemsize)
        drawn = self._meaning(argument)(self.source.params(), shape, dtype)
        variable = nnx.Param if self.trainable else nnx.Variable
        return variable(jnp.asarray(drawn).astype(self._variable_dtype))

    def _arrays(self) -> tuple[Any, ...]:
        # None for a missing bias.
        variables = [getattr(self, name, None) for name in _ARGUMENTS]
        return tuple(None if variable is None else variable[...] for variable in variables)

    def _named_weights(self) -> dict[str, nnx.Variable]:
        weights = {}
        for name, argument in _ARGUMENTS.items():
            if hasattr(self, name):
                weights[argument] = getattr(self, name)
        return weights

    @property
    def weights(self) -> list[nnx.Variable]:
        """`kernel`, `recurrent_kernel` and, if there is one, `bias`."""
        return list(self._named_weights().values())

    def apply_constraints(self) -> None:
        """Applies the constraints to the weights: call it after each update of the optimizer."""
        for argument, variable in self._named_weights().items():
            constraint = self._meaning(f"{argument}_constraint")
            if constraint is not None:
                variable[...] = constraint(variable[...])

    def _weight_losses(self) -> Iterator[jax.Array]:
        for argument, variable in self._named_weights().items():
            regularizer = self._meaning(f"{argument}_regularizer")
            if regularizer is not None and self.trainable:
                yield regularizer(variable[...])

    def _activity_losses(self) -> Iterator[jax.Array]:
        if self.activity_regularizer is not None:
            yield self.activity_loss[...]

    def to_core(self, x: jax.Array) -> jax.Array:
        """An array of Keras in the core's layout."""
        return x

    def from_core(self, x: jax.Array) -> jax.Array:
        """An array of the core in Keras' layout."""
        return x

    def _pack(self, states: Any) -> Any:
        """A state of Keras as a state of the core."""
        arrays = [jnp.asarray(leaf).astype(self._compute_dtype) for leaf in jax.tree.leaves(states)]
        leaves = list(map(self.to_core, arrays))
        if len(leaves) != self.parts:
            got = f"{len(leaves)}: {', '.join(map(describe, leaves))}"
            raise ValueError(f"`initial_state` must hold {self.parts} arrays; got {got}.")
        structure = jax.tree.structure(jax.eval_shape(self.core.initial_state))
        return jax.tree.unflatten(structure, leaves)

    def get_initial_state(self, batch_size: int) -> list:
        """Zeros, each part of the state `[B, H]`."""
        return list(
            map(self.from_core, self.core.initial_state((batch_size,), self._compute_dtype))
        )

    def reset_state(self) -> None:
        """Sets the state that a stateful layer keeps to zeros."""
        for state in self.states or ():
            state[...] = jnp.zeros_like(state[...])

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
            initial_state: a list with each part of the state, `[B, H]`; None for zeros, or the
                state that a stateful layer kept.
            mask: `[B, T]`, laid out as `sequences`: False or 0 at the masked steps.
            training: whether dropout acts; None for no, but after `train()`.

        Returns:
            The last output, `[B, H]`, or all outputs, `[B, T, H]`, if `return_sequences`; with
            `return_state` a tuple of these and each part of the final state.

        Raises:
            ValueError: if an argument has the wrong shape, or the layer is not built and the call
                is under jit or grad.
        """
        if training is None:
            training = not self.deterministic
        sequences = jnp.asarray(sequences)
        self._check_rank(sequences)
        build_for(self, sequences.shape)
        xs, time = self.to_core(sequences.astype(self._compute_dtype)), 0 if self.time_major else 1
        if mask is not None:
            mask = jnp.asarray(mask).astype(bool)
        state = self._pack(self._initial_state(initial_state, xs.shape[1 - time]))
        key = None
        if training and self.source is not None:
            key = self.source.dropout()
        final, ys = scan(
            self.core,
            self.params(),
            xs,
            state,
            mask=mask,
            reverse=self.go_backwards,
            time_major=self.time_major,
            unroll=xs.shape[time] if self.unroll else 1,
            implementation="cudnn" if getattr(self, "use_cudnn", "auto") is True else None,
            key=key,
        )
        # Keras puts out the steps in the order in which they ran.
        if self.go_backwards:
            ys = jnp.flip(ys, time)
            mask = None if mask is None else jnp.flip(mask, time)
        # Before the first unmasked step, an unrolled layer of Keras puts out zeros, not the state.
        if mask is not None and not self.zero_output_for_mask:
            before = jnp.zeros_like(state.h) if self.unroll else state.h
            ys = _repeated(ys, mask, before, time)
        for kept, new in zip(self.states or (), jax.tree.leaves(final), strict=self.stateful):
            kept[...] = new
        if not self.return_sequences:
            ys = lax.index_in_dim(ys, -1, time, keepdims=False)
        outputs = [self.from_core(ys)]
        if self.return_state:
            outputs += map(self.from_core, final)
        if self.activity_regularizer is not None:
            # Keras divides by the batch size.
            penalty, batch = self._meaning("activity_regularizer"), xs.shape[1 - time]
            self.activity_loss[...] = sum(map(penalty, outputs)) / batch
        return tuple(outputs) if self.return_state else outputs[0]

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of the inputs if the layer returns sequences, even with `go_backwards`."""
        if self.return_sequences:
            return mask
        return None

    def compute_output_shape(
        self, sequences_shape: Shape, initial_state_shape: Any = None
    ) -> tuple:
        """The shape of a call's result, from a shape of inputs. Batch and time may be None."""
        first, second, *rest = sequences_shape
        batch = second if self.time_major else first
        features = self._feature_shape(rest)
        output: tuple = (batch, *features)
        if self.return_sequences:
            output = (first, second, *features)
        if not self.return_state:
            return output
        return (output, *[(batch, *features)] * self.parts)

    def _feature_shape(self, input_shape: Shape) -> tuple[int, ...]:
        """The shape of one output, without batch and time, for the shape of one input."""
        return (self.size,)

    def _check_rank(self, sequences: jax.Array) -> None:
        if sequences.ndim != 3 + self.rank:
            layout = f"[{'T, B' if self.time_major else 'B, T'}, {'space, ' * self.rank}I]"
            raise ValueError(f"`sequences` must be {layout}; got {describe(sequences)}.")

    def _initial_state(self, initial_state: Any, batch_size: int) -> Any:
        kept = [state[...] for state in self.states or ()]
        if kept and kept[0].shape[0] != batch_size:
            raise ValueError(
                f"`sequences` must hold {kept[0].shape[0]} sequences, "
                "as those that the state was kept of; "
                f"got {batch_size}. Call `build` with another batch size to begin anew."
            )
        if initial_state is not None:
            return initial_state
        return kept or self.get_initial_state(batch_size)


def _repeated(ys: jax.Array, mask: jax.Array, before: jax.Array, time: int) -> jax.Array:
    """The outputs, with the last unmasked output repeated at each masked step.

    `before` `[B, H]` stands before the first unmasked step.
    """
    steps = jnp.expand_dims(jnp.arange(mask.shape[time]), 1 - time)
    # The last unmasked step up to each step, or -1.
    last = lax.cummax(jnp.where(mask, steps, -1), axis=time)
    last = jnp.expand_dims(last, tuple(range(2, ys.ndim)))
    held = jnp.take_along_axis(ys, jnp.maximum(last, 0), axis=time)
    return jnp.where(last < 0, jnp.expand_dims(before, time).astype(ys.dtype), held)
