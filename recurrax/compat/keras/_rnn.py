"""A cell along a sequence, with Keras' arguments: `recurrax.scan`, and what Keras makes of its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from recurrax._check import describe
from recurrax._scan import scan
from recurrax.compat.keras._cell import AnyCell, Named
from recurrax.compat.keras._cells import StackedRNNCells
from recurrax.compat.keras._custom import cell_of
from recurrax.compat.keras._layer import ActivityLoss, Layer, RNNState, Shape, build_for


class Recurrent(Layer):
    """What every recurrent layer does; each has the arguments among its fields, in its own order."""

    cell: Any
    activity_regularizer: Named
    return_sequences: bool
    return_state: bool
    go_backwards: bool
    stateful: bool
    unroll: bool
    zero_output_for_mask: bool
    time_major: bool
    use_cudnn: bool | str = "auto"
    states: Any

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        super().__post_init__(rngs)
        self.deterministic = True
        self.states = nnx.data(None)
        if self.activity_regularizer is not None:
            self.activity_loss = ActivityLoss(jnp.zeros(()))

    @property
    def sublayers(self) -> tuple:
        """The cell."""
        return (self.cell,)

    @property
    def built(self) -> bool:
        """Whether the weights, and the state of a stateful layer, are there."""
        return self.cell.built and (self.states is not None or not self.stateful)

    def build(self, input_shape: Shape) -> None:
        """Draws the weights, and makes the state of a stateful layer.

        Args:
            input_shape: `(B, T, I)`, laid out as the inputs; B and T may be None, but B not for a stateful layer.
        """
        batch, time, *rest = input_shape
        batch = time if self.time_major else batch
        if not self.cell.built:
            self.cell.build((batch, *rest))
        if self.stateful:
            if batch is None:
                raise ValueError(
                    f"`input_shape` must begin with the batch size where `stateful` is True; got {tuple(input_shape)}."
                )
            self.states = nnx.data([RNNState(leaf) for leaf in jax.tree.leaves(self.get_initial_state(batch))])

    def get_initial_state(self, batch_size: int) -> list:
        """Zeros, each part of the state `[B, H]`."""
        return self.cell.get_initial_state(batch_size)

    def reset_state(self) -> None:
        """Sets the state that a stateful layer keeps to zeros."""
        for state in self.states or ():
            state[...] = jnp.zeros_like(state[...])

    def __call__(
        self, sequences: jax.Array, initial_state: Any = None, mask: Any = None, training: bool | None = None
    ) -> Any:
        """Runs the layer over a batch of sequences.

        Args:
            sequences: `[B, T, I]`, or `[T, B, I]` if `time_major`.
            initial_state: a list with each part of the state, `[B, H]`; None for zeros, or the state that a stateful
                layer kept.
            mask: `[B, T]`, laid out as `sequences`: True, or any number but 0, at the real steps.
            training: whether dropout acts; None for no, but after `train()`.

        Returns:
            The last output, `[B, H]`, or all outputs, `[B, T, H]`, if `return_sequences`; with `return_state` a tuple
            of these and each part of the final state.

        Raises:
            ValueError: if an argument has the wrong shape, or the layer is not built and the call is under jit or grad.
        """
        sequences = jnp.asarray(sequences)
        self._check_rank(sequences)
        build_for(self, sequences.shape)
        xs, time = self.cell.inward(sequences.astype(self._compute_dtype)), 0 if self.time_major else 1
        mask = None if mask is None else jnp.asarray(mask).astype(bool)
        state = self.cell.pack(self._initial_state(initial_state, xs.shape[1 - time]))
        final, ys = scan(
            self.cell.core,
            self.cell.params(),
            xs,
            state,
            mask=mask,
            reverse=self.go_backwards,
            time_major=self.time_major,
            unroll=xs.shape[time] if self.unroll else 1,
            implementation="cudnn" if self.use_cudnn is True else None,
            key=self.cell.next_key() if (not self.deterministic if training is None else training) else None,
        )
        if self.go_backwards:  # Keras puts out what it met first, first.
            ys, mask = jnp.flip(ys, time), None if mask is None else jnp.flip(mask, time)
        if mask is not None and not self.zero_output_for_mask:
            before = self.cell.output_of(state)
            ys = _repeated(ys, mask, jnp.zeros_like(before) if self.unroll else before, time)
        for kept, new in zip(self.states or (), jax.tree.leaves(final), strict=self.stateful):
            kept[...] = new
        output = ys if self.return_sequences else lax.index_in_dim(ys, -1, time, keepdims=False)
        outputs = [self.cell.outward(output), *self.cell.unpack(final)]
        outputs = outputs if self.return_state else outputs[:1]
        if self.activity_regularizer is not None:
            penalty, batch = self._meaning("activity_regularizer"), xs.shape[1 - time]
            self.activity_loss[...] = sum(penalty(leaf) for leaf in jax.tree.leaves(outputs)) / batch
        return tuple(outputs) if self.return_state else outputs[0]

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of all outputs: that of the inputs, as in Keras even where `go_backwards` turns them round."""
        return mask if self.return_sequences else None

    def _check_rank(self, sequences: jax.Array) -> None:
        if sequences.ndim != 3 + self.cell.rank:
            layout = f"[{'T, B' if self.time_major else 'B, T'}, {'space, ' * self.cell.rank}I]"
            raise ValueError(f"`sequences` must be {layout}; got {describe(sequences)}.")

    def _initial_state(self, initial_state: Any, batch_size: int) -> Any:
        kept = [state[...] for state in self.states or ()]
        if kept and kept[0].shape[0] != batch_size:
            raise ValueError(
                f"`sequences` must hold {kept[0].shape[0]} sequences, as those that the state was kept of; "
                f"got {batch_size}. Call `build` with another batch size to begin anew."
            )
        if initial_state is not None:
            return initial_state
        return kept or self.get_initial_state(batch_size)

    def _activity_losses(self) -> Iterator[jax.Array]:
        if self.activity_regularizer is not None:
            yield self.activity_loss[...]


def _repeated(ys: jax.Array, mask: jax.Array, before: jax.Array, time: int) -> jax.Array:
    """At each masked step the last real output before it."""
    steps = jnp.expand_dims(jnp.arange(mask.shape[time]), 1 - time)
    last = lax.cummax(jnp.where(mask, steps, -1), axis=time)
    last = jnp.expand_dims(last, tuple(range(2, ys.ndim)))
    held = jnp.take_along_axis(ys, jnp.maximum(last, 0), axis=time)
    return jnp.where(last < 0, jnp.expand_dims(before, time).astype(ys.dtype), held)


@dataclasses.dataclass(eq=False, repr=False)
class RNN(Recurrent):
    """Any cell along a sequence: `keras.layers.RNN`.

    Args:
        cell: a `SimpleRNNCell`, an `LSTMCell`, a `GRUCell` or a `StackedRNNCells`; a list of cells to be stacked; or a
            cell of your own, an `nnx.Module` with a `state_size`, an int or a tuple, that is called with an input
            `[B, I]` and a list of states `[B, H]`, and returns an output and a list of new states. It must draw no
            random numbers.
        return_sequences: as in `LSTM`, and so are all other arguments.

    Raises:
        TypeError: if `cell` is not a cell.
        ValueError: as `LSTM`.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.compat.keras import RNN, GRUCell, LSTMCell
        >>> layer = RNN([LSTMCell(8), GRUCell(4)], return_sequences=True)
        >>> layer(jnp.ones((2, 7, 3))).shape, layer.count_params()
        ((2, 7, 4), 552)

        A leaky integrator, written as Keras has it but for the base class:

        >>> import jax
        >>> from flax import nnx
        >>> class LeakyCell(nnx.Module):
        ...     def __init__(self, units, input_size, rngs):
        ...         self.state_size = units
        ...         self.kernel = nnx.Param(jax.random.normal(rngs.params(), (input_size, units)))
        ...     def __call__(self, inputs, states):
        ...         h = 0.9 * states[0] + 0.1 * inputs @ self.kernel[...]
        ...         return h, [h]
        >>> RNN(LeakyCell(4, 3, nnx.Rngs(0)))(jnp.ones((2, 7, 3))).shape
        (2, 4)

    References:
        Keras 3, `keras.layers.RNN`, 2024, https://keras.io/api/layers/recurrent_layers/rnn/
    """

    cell: Any = nnx.data()  # noqa: RUF009
    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    stateful: bool = False
    unroll: bool = False
    zero_output_for_mask: bool = False
    _: dataclasses.KW_ONLY
    activity_regularizer: Named = None
    time_major: bool = False

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        if isinstance(self.cell, (list, tuple)):
            self.cell = StackedRNNCells(self.cell, dtype=self.dtype)
        self.cell = cell_of(self.cell)
        if not isinstance(self.cell, AnyCell):
            raise TypeError(f"`cell` must be a cell, such as LSTMCell(128), or a list of cells; got {self.cell!r}.")
        super().__post_init__(rngs)
