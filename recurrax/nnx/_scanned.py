"""The `ScannedRNN` of programs for reinforcement learning, with any layer in it, in NNX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from recurrax._flax import Sharding, as_state, pair_of, teaches
from recurrax._layer import Layer, Params, State
from recurrax.nnx._recurrent import Randomness, Recurrent


@teaches
class ScannedRNN(nnx.Module):
    """A layer over time, for reinforcement learning: state first, time first, resets beside `xs`.

    state, y[t] = step(where(resets[t], initial state, state), xs[t])

    It takes and returns what the class of this name does in PureJaxRL, JaxMARL and Mava.

    Args:
        layer: the layer.
        input_size: the number of features I of one input.
        params: the parameters to begin with; None to draw them.
        param_dtype: the dtype of the parameters that are drawn.
        sharding: as in `Recurrent`.
        deterministic: whether dropout is off.
        rngs: the source of the initial parameters and of dropout. It may be None where `params` are
            given.

    Attributes:
        recurrent: the `Recurrent` that holds the parameters.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if `params` do not fit the layer; at the call as `recurrax.scan`.

    Example:
        >>> import jax.numpy as jnp, recurrax
        >>> from flax import nnx
        >>> rnn = recurrax.nnx.ScannedRNN(recurrax.LSTMCell(4), 3, rngs=nnx.Rngs(0))
        >>> inputs = (jnp.ones((7, 2, 3)), jnp.zeros((7, 2), bool))  # xs and resets
        >>> state, ys = rnn(rnn.initial_state((2,)), inputs)
        >>> state.c.shape, ys.shape
        ((2, 4), (7, 2, 4))

    References:
        C. Lu et al., "Discovered Policy Optimisation" (PureJaxRL), 2022,
            https://github.com/luchris429/purejaxrl
    """

    def __init__(
        self,
        layer: Layer,
        input_size: int,
        *,
        params: Params | None = None,
        param_dtype: DTypeLike = jnp.float32,
        sharding: Sharding | None = None,
        deterministic: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.recurrent = Recurrent(
            layer,
            input_size,
            params=params,
            param_dtype=param_dtype,
            sharding=sharding,
            deterministic=deterministic,
            rngs=rngs,
        )

    def __call__(
        self,
        state: State | None,
        inputs: tuple[jax.Array, jax.Array],
        *,
        deterministic: bool | None = None,
        rngs: Randomness = None,
    ) -> tuple[State, jax.Array]:
        """Runs the layer over a sequence, or over one step if T is 1.

        Args:
            state: the state before the first step; None for the initial state. If it is one array,
                it may be that array.
            inputs: `xs` `[T, *B, I]` and `resets` `[T, *B]`: True at the first step of an episode.
                Before that step the state returns to the initial state. The flag belongs to the
                observation of its step: the `done` that came with it.
            deterministic: as in `Recurrent`.
            rngs: as in `Recurrent`.

        Returns:
            The state after the last step, as it was given, and the outputs `[T, *B, O]`.
        """
        xs, resets = pair_of(inputs)
        state, bare = as_state(self.recurrent.layer, state)
        ys, state = self.recurrent(
            xs, state, reset=resets, time_major=True, deterministic=deterministic, rngs=rngs
        )
        if bare:
            [state] = jax.tree.leaves(state)
        return state, ys

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """The state before the first step, for a batch of shape `batch_shape`."""
        return self.recurrent.initial_state(batch_shape, dtype)

    def initialize_carry(self, batch_size: int | tuple[int, ...]) -> State:
        """The initial state by the name that it has elsewhere; `batch_size` is B or a shape."""
        if isinstance(batch_size, int):
            batch_size = (batch_size,)
        return self.initial_state(batch_size)
