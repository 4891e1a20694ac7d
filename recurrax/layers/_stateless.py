"""The base of layers without a state."""

from __future__ import annotations

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._dtype import cast, compute_dtype
from recurrax._layer import Layer, Params, ScanContext, State


@dataclasses.dataclass(frozen=True, repr=False)
class Stateless(Layer):
    """A layer whose output at a step depends on the input of that step alone."""

    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    @abc.abstractmethod
    def _outputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """Returns the outputs for inputs `[..., I]`, in the dtype of the products."""

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Returns `()`: there are no parameters."""
        return ()

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> tuple[()]:
        """Returns `()`: there is no state."""
        return ()

    def output_size(self, input_size: int) -> int:
        """Returns `input_size`."""
        return input_size

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: jax.Array
    ) -> tuple[State, jax.Array]:
        """Computes the outputs of all steps at once."""
        compute = compute_dtype(self, params, xs)
        ys = self._outputs(cast(params, compute), cast(xs, compute))
        return state, ys.astype(xs.dtype)
