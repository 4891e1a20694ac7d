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
        layer: those of the layer.
        state: the state at the beginning, as `layer.initial_state()` has it: without batch axes.
    """

    layer: Any
    state: Any


@dataclasses.dataclass(frozen=True, repr=False)
class LearnedInitialState(Wrapper):
    """Makes the initial state of a cell a parameter, the same for every sequence.

    state_0 = params.state

    It is the state where `scan` is given none, and at every `reset`; gradients flow to it from both. `init` sets it to
    the cell's own initial state, zeros. `first_state(params)` gives it; `initial_state()`, which sees no parameters,
    remains the cell's. The state is that of the cell.

    Args:
        layer: a cell, or one within layers that keep its state, such as `Zoneout(LSTMCell(128))`. In a `Stack` or a
            `Bidirectional` each cell has one of its own.

    Raises:
        TypeError: if `layer` is not of that kind.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.LearnedInitialState(recurrax.GRUCell(4))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> params = params._replace(state=recurrax.cells.GRUState(jnp.arange(4.0)))
        >>> state, _ = recurrax.scan(layer, params, jnp.ones((2, 7, 3)), lengths=jnp.array([7, 0]))
        >>> state.h[1].tolist()  # no real step
        [0.0, 1.0, 2.0, 3.0]

    References:
        Forcada and Carrasco, Learning the initial state of a second-order recurrent neural network during
        regular-language inference, 1995, https://doi.org/10.1162/neco.1995.7.5.923
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        inner: Layer = self.layer
        while isinstance(inner, Wrapper) and not isinstance(inner, LearnedInitialState):
            inner = inner.layer
        if not isinstance(inner, Cell):
            raise TypeError(
                "`layer` of LearnedInitialState must be a cell, such as LSTMCell(128), or one within layers that keep "
                f"its state; got {self.layer!r}. In a Stack or a Bidirectional wrap each cell."
            )

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LearnedInitialStateParams:
        """Draws the parameters of the layer, and begins with its own initial state."""
        return LearnedInitialStateParams(self.layer.init(key, input_size, dtype), self.layer.initial_state((), dtype))

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The learned state, for every sequence of the batch."""
        like = self.layer.initial_state(batch_shape, dtype)
        check_kinds("params.state", params.state, like, self.layer)
        return jax.tree.map(lambda own, s: jnp.broadcast_to(own.astype(s.dtype), s.shape), params.state, like)

    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the layer with the learned state at every reset."""
        initial = self.first_state(params, batch_shape_of(self.layer, xs), default_state_dtype(params, xs))
        return context.scan(self.layer, params.layer, state, xs, initial)
