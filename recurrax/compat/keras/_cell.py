"""What Keras' cells share: weights in Keras' names, order and layout, and the cell of the core that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from recurrax._check import describe
from recurrax._layer import Layer as CoreLayer
from recurrax._layer import Params
from recurrax._scan import step
from recurrax.compat.keras._dropout import GateDropout
from recurrax.compat.keras._layer import Layer, Shape, build_for, source_of

Named = str | Callable | None  # what stands for a function


class AnyCell(Layer):
    """One step of a recurrence, or several upon one another."""

    core: CoreLayer
    rank: int = 0  # the number of spatial axes

    def params(self) -> Params:
        """The weights as parameters of the core."""
        raise NotImplementedError

    def next_key(self) -> jax.Array | None:
        """Randomness for one call, or None where there is no dropout."""
        raise NotImplementedError

    def get_initial_state(self, batch_size: int) -> list:
        """Zeros, each part of the state `[B, H]`."""
        return self.unpack(self.core.initial_state((batch_size,), self._compute_dtype))

    def inward(self, x: jax.Array) -> jax.Array:
        """An array of Keras', laid out as the core has it."""
        return x

    def outward(self, x: jax.Array) -> jax.Array:
        """An array of the core's, laid out as Keras has it."""
        return x

    def output_of(self, state: Any) -> jax.Array:
        """The part of a state of the core that is the last output."""
        return state.h

    def pack(self, states: Any) -> Any:
        """A state of Keras as one of the core."""
        leaves = [self.inward(jnp.asarray(leaf).astype(self._compute_dtype)) for leaf in jax.tree.leaves(states)]
        like = jax.eval_shape(self.core.initial_state)
        if len(leaves) != (number := len(jax.tree.leaves(like))):
            shapes = ", ".join(map(describe, leaves))
            raise ValueError(f"`initial_state` must hold {number} arrays; got {len(leaves)}: {shapes}.")
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def unpack(self, state: Any) -> list:
        """A state of the core as one of Keras."""
        return [self.outward(leaf) for leaf in state]

    def __call__(self, inputs: jax.Array, states: Any, training: bool = False) -> tuple[jax.Array, list]:
        """Takes one step.

        Args:
            inputs: `[B, I]`.
            states: a list with each part of the state, `[B, H]`.
            training: whether dropout acts.

        Returns:
            The output, `[B, H]`, and a list with the new state.
        """
        inputs = jnp.asarray(inputs).astype(self._compute_dtype)
        build_for(self, inputs.shape)
        key = self.next_key() if training else None
        state, output = step(self.core, self.params(), self.pack(states), self.inward(inputs), key=key)
        return self.outward(output), self.unpack(state)


# The weights, in Keras' order, and what the arguments call them.
_ARGUMENTS = {"kernel": "kernel", "recurrent_kernel": "recurrent", "bias": "bias"}


class Cell(AnyCell):
    """One step of a recurrence, with a kernel, a recurrent kernel and a bias."""

    gates: ClassVar[int]
    parts: ClassVar[int] = 1  # of the state

    use_bias: bool
    dropout: float
    recurrent_dropout: float
    seed: int | None

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        self.source: Any = source_of(rngs, self.seed)

    @property
    def built(self) -> bool:
        """Whether the weights are there."""
        return hasattr(self, "kernel")

    @property
    def size(self) -> int:
        """The number of features, or of channels, of one part of the state."""
        raise NotImplementedError

    @property
    def state_size(self) -> int | list[int]:
        """The number of features of the state, or a list with that of each of its parts."""
        return self.size if self.parts == 1 else [self.size] * self.parts

    @property
    def output_size(self) -> int:
        """The number of features of the output."""
        return self.size

    @property
    def core(self) -> CoreLayer:  # type: ignore[override]
        """The layer of the core: the cell, in its dropout if it has any."""
        layer = GateDropout(self._core_cell(), self.dropout, self.recurrent_dropout, self._masks)
        return layer if layer.stochastic else layer.layer

    def _core_cell(self) -> Any:
        raise NotImplementedError

    @property
    def _masks(self) -> int:
        # Keras draws one for each gate where it multiplies by each gate's kernel apart.
        return self.gates if self.recurrent_dropout or getattr(self, "implementation", 2) == 1 else 1

    def next_key(self) -> jax.Array | None:
        """Randomness for one call, or None where there is no dropout."""
        return None if self.source is None else self.source.dropout()

    def build(self, input_shape: Shape) -> None:
        """Draws the weights for inputs of one step, `[B, I]`."""
        self._draw((), input_shape[-1])

    def _draw(self, window: tuple[int, ...], input_size: int | None) -> None:
        variable, dtype = nnx.Param if self.trainable else nnx.Variable, self._variable_dtype
        widths = {"kernel": input_size, "recurrent_kernel": self.size}
        for name, width in widths.items():
            initializer = self._meaning(f"{_ARGUMENTS[name]}_initializer")
            shape = (*window, width, self.gates * self.size)
            setattr(self, name, variable(initializer(self.source.params(), shape, dtype)))
        if self.use_bias:
            self.bias = variable(self._draw_bias(self._meaning("bias_initializer"), dtype))
        if not self.core.stochastic:
            self.source = nnx.data(None)

    def _draw_bias(self, initializer: Callable, dtype: Any) -> jax.Array:
        return initializer(self.source.params(), (self.gates * self.size,), dtype)

    def _arrays(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name)[...] if hasattr(self, name) else None for name in _ARGUMENTS)

    def _named_weights(self) -> dict[str, nnx.Variable]:
        return {argument: getattr(self, name) for name, argument in _ARGUMENTS.items() if hasattr(self, name)}

    @property
    def weights(self) -> list[nnx.Variable]:
        """`kernel`, `recurrent_kernel` and, if there is one, `bias`."""
        return list(self._named_weights().values())

    def apply_constraints(self) -> None:
        """Projects the weights as `kernel_constraint`, `recurrent_constraint` and `bias_constraint` say."""
        for argument, variable in self._named_weights().items():
            constraint = self._meaning(f"{argument}_constraint")
            if constraint is not None:
                variable[...] = constraint(variable[...])

    def _weight_losses(self) -> Iterator[jax.Array]:
        for argument, variable in self._named_weights().items():
            regularizer = self._meaning(f"{argument}_regularizer")
            if regularizer is not None and self.trainable:
                yield regularizer(variable[...])


def unit_forget(bias: jax.Array) -> jax.Array:
    """The bias of an LSTM, `[4*H]`, with ones for the forget gate."""
    size = bias.size // 4
    return bias.at[size : 2 * size].set(1)
