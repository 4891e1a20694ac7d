"""The `ScannedRNN` of PureJaxRL, JaxMARL and Mava, with any layer in it."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._check import check_layer
from recurrax._flax import Sharding, as_state, pair_of, teaches
from recurrax._layer import Layer, State, features
from recurrax.cells import GRUCell
from recurrax.linen._recurrent import Recurrent, reduced


@teaches
class ScannedRNN(nn.Module):
    """A layer over time, for reinforcement learning: state first, time first, resets beside `xs`.

    state, y[t] = step(where(resets[t], initial state, state), xs[t])

    It takes the place of the class of this name in PureJaxRL, JaxMARL and Mava. Its parameters have
    the names that `Recurrent` gives them.

    Args:
        layer: the layer; by default a `GRUCell` with as many units as `xs` has features.
        param_dtype: the dtype of the parameters.
        sharding: as in `Recurrent`.
        deterministic: whether dropout is off; here or at the call.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: as `recurrax.scan`, at the call.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> from recurrax.linen import ScannedRNN
        >>> rnn = ScannedRNN(recurrax.LSTMCell(4))
        >>> inputs = (jnp.ones((7, 2, 3)), jnp.zeros((7, 2), bool))  # xs and resets
        >>> state = rnn.initial_state((2,))
        >>> variables = rnn.init(jax.random.key(0), state, inputs)
        >>> state, ys = rnn.apply(variables, state, inputs)
        >>> state.c.shape, ys.shape
        ((2, 4), (7, 2, 4))

        The state of a GRU may be one array. It returns as one array:

        >>> carry = ScannedRNN.initialize_carry(2, 3)
        >>> variables = ScannedRNN().init(jax.random.key(0), carry, inputs)
        >>> ScannedRNN().apply(variables, carry, inputs)[0].shape
        (2, 3)

    References:
        C. Lu et al., "Discovered Policy Optimisation" (PureJaxRL), 2022,
            https://github.com/luchris429/purejaxrl
    """

    layer: Layer | None = None
    _: KW_ONLY
    param_dtype: DTypeLike = jnp.float32
    sharding: Sharding | None = None
    deterministic: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            check_layer("layer", self.layer)

    def __reduce__(self) -> tuple:
        """A module is pickled as a layer is, without its parent."""
        return reduced(self)

    @nn.compact
    def __call__(
        self,
        state: State | None,
        inputs: tuple[jax.Array, jax.Array],
        *,
        deterministic: bool | None = None,
    ) -> tuple[State, jax.Array]:
        """Runs the layer over a sequence, or over one step if T is 1.

        Args:
            state: the state before the first step; None for the initial state. If it is one array,
                it may be that array.
            inputs: `xs` `[T, *B, I]` and `resets` `[T, *B]`: True at the first step of an episode.
                Before that step the state returns to the initial state. The flag belongs to the
                observation of its step: the `done` that came with it.
            deterministic: whether dropout is off.

        Returns:
            The state after the last step, as it was given, and the outputs `[T, *B, O]`.
        """
        xs, resets = pair_of(inputs)
        layer = self.layer
        if layer is None:
            layer = GRUCell(features(xs).shape[-1])
        recurrent = Recurrent(
            layer,
            param_dtype=self.param_dtype,
            sharding=self.sharding,
            deterministic=self.deterministic,
        )
        # The parameters lie where this module is, not one level below.
        nn.share_scope(self, recurrent)
        state, bare = as_state(layer, state)
        options: dict[str, Any] = {"time_major": True, "deterministic": deterministic}
        ys, state = recurrent(xs, state, reset=resets, **options)
        if bare:
            [state] = jax.tree.leaves(state)
        return state, ys

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """The state before the first step, for a batch of shape `batch_shape`.

        It needs `layer`. A learned state is not in it: pass None for a learned state.
        """
        if self.layer is None:
            raise ValueError(
                "`layer` must be given, such as ScannedRNN(recurrax.GRUCell(128)), for an initial "
                "state; got None. Or use `ScannedRNN.initialize_carry(batch_size, hidden_size)`."
            )
        return self.layer.initial_state(batch_shape, dtype)

    @staticmethod
    def initialize_carry(batch_size: int | tuple[int, ...], hidden_size: int) -> jax.Array:
        """The initial state of the default layer as one array, by the name that it has elsewhere.

        Args:
            batch_size: B, or the shape of the batch.
            hidden_size: the number of units, which is the number of features of `xs`.

        Returns:
            Zeros, `[*B, hidden_size]`.
        """
        if isinstance(batch_size, int):
            batch_size = (batch_size,)
        return jnp.zeros((*batch_size, hidden_size))
