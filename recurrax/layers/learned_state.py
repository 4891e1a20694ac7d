"""A learned initial state."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_kinds
from recurrax._dtype import default_state_dtype
from recurrax._layer import Cell, Layer, Params, ScanContext, State, batch_shape_of
from recurrax.layers._wrapper import Wrapper


class LearnedInitialStateParams(NamedTuple):
    """Parameters of a `LearnedInitialState`.

    Attributes:
        layer: the parameters of the layer.
        state: the state before the first step, in the structure of `layer.initial_state()`, without
            batch axes.
    """

    layer: Any
    state: Any


@dataclasses.dataclass(frozen=True, repr=False)
class LearnedInitialState(Wrapper):
    """Makes the initial state of a cell a parameter. All sequences share it.

    state_0 = params.state

    `scan` begins with this state if no state is given, and returns to it at every `reset`.
    Gradients flow to it from both places. `init` sets it to the initial state of the cell, zeros.
    `first_state(params)` returns it. `initial_state()` sees no parameters, so it returns the
    initial state of the cell. The layer has the state of the cell.

    Args:
        layer: a cell, or layers that keep the state of a cell, such as `Zoneout(LSTMCell(128))`. In
            a `Stack` or a `Bidirectional`, wrap each cell.

    Raises:
        TypeError: if `layer` is neither.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.LearnedInitialState(recurrax.GRUCell(4))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> params = params._replace(state=recurrax.cells.GRUState(jnp.arange(4.0)))
        >>> state, _ = recurrax.scan(layer, params, jnp.ones((2, 7, 3)), lengths=jnp.array([7, 0]))
        >>> state.h[1].tolist()  # no unmasked step
        [0.0, 1.0, 2.0, 3.0]

    References:
        Forcada and Carrasco, Learning the initial state of a second-order recurrent neural network
        during regular-language inference, 1995, https://doi.org/10.1162/neco.1995.7.5.923
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # A second learned state in the same layer would have no effect, so it is an error too.
        cell: Layer = self.layer
        while isinstance(cell, Wrapper) and not isinstance(cell, LearnedInitialState):
            cell = cell.layer
        if not isinstance(cell, Cell):
            raise TypeError(
                "`layer` of LearnedInitialState must be a cell, such as LSTMCell(128), or one "
                f"within layers that keep its state; got {self.layer!r}. In a Stack or a "
                "Bidirectional wrap each cell."
            )

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> LearnedInitialStateParams:
        """Draws the parameters of the layer; the state begins as the initial state of the layer."""
        params = self.layer.init(key, input_size, dtype)
        return LearnedInitialStateParams(params, self.layer.initial_state((), dtype))

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the learned state for every sequence of the batch."""
        like = self.layer.initial_state(batch_shape, dtype)
        check_kinds("params.state", params.state, like, self.layer)

        def over_batch(learned: jax.Array, like: jax.Array) -> jax.Array:
            return jnp.broadcast_to(learned.astype(like.dtype), like.shape)  # [*B, H]

        return jax.tree.map(over_batch, params.state, like)

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the layer with the learned state at every reset."""
        batch_shape = batch_shape_of(self.layer, xs)
        initial = self.first_state(params, batch_shape, default_state_dtype(params, xs))
        return context.scan(self.layer, params.layer, state, xs, initial)
