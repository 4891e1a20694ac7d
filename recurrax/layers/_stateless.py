"""The base of layers that take each step by itself."""

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
    """A layer that takes each step by itself."""

    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    @abc.abstractmethod
    def _of(self, params: Params, xs: jax.Array) -> jax.Array:
        """The outputs for inputs `[..., I]`, in the dtype of the products."""

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """No parameters."""
        return ()

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> tuple[()]:
        """No state."""
        return ()

    def output_size(self, input_size: int) -> int:
        """That of the input."""
        return input_size

    def apply(self, context: ScanContext, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        """All steps at once."""
        compute = compute_dtype(self, params, xs)
        return state, self._of(cast(params, compute), cast(xs, compute)).astype(xs.dtype)
