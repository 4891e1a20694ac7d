"""What the gated linear recurrences share: one product of the inputs, cut into gates."""

from __future__ import annotations

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._dtype import widened
from recurrax._layer import INITIALIZER, Initializer
from recurrax.cells.affine import Gates, affine
from recurrax.cells.linear import LinearCell


class InputGatedParams(NamedTuple):
    """Parameters of a linear recurrence whose gates see the inputs alone.

    Attributes:
        kernel: `[I, G*H]`, gates in the order that the cell says.
        bias: `[G*H]`, or None.
    """

    kernel: jax.Array
    bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class GatedLinearCell(LinearCell):
    """A linear recurrence with coefficients from gates `x @ kernel + bias`."""

    bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True, metadata=INITIALIZER)

    @property
    @abc.abstractmethod
    def gates(self) -> int:
        """The number G of gates, candidates among them."""

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> InputGatedParams:
        """Draws `kernel` `[I, G*H]` and `bias` `[G*H]`, gate by gate."""
        return self.draw(key, input_size, dtype, self.gates, self.gates)

    def draw(self, key: jax.Array, input_size: int, dtype: DTypeLike, gates: int, biases: int) -> InputGatedParams:
        """Draws so many gates, the first of which have biases."""
        kernel_key, bias_key = jax.random.split(key)

        def gatewise(initializer: Initializer, key: jax.Array, number: int, *shape: int) -> jax.Array:
            drawn = [initializer(k, (*shape, self.hidden_size), jnp.float32) for k in jax.random.split(key, number)]
            return jnp.concatenate(drawn, axis=-1).astype(dtype)

        return InputGatedParams(
            kernel=gatewise(self.kernel_init, kernel_key, gates, input_size),
            bias=gatewise(self.bias_init, bias_key, biases) if self.bias else None,
        )

    def split(self, params: InputGatedParams, xs: jax.Array) -> Gates:
        """The pre-activations of the gates, each `[..., *B, H]`; those without a bias come last."""
        kernel, bias = params
        if bias is not None:
            bias = jnp.pad(bias, (0, kernel.shape[-1] - bias.shape[-1]))
        # A gate near 1 says how long a state lasts, which bfloat16 cannot say.
        z = widened(affine(xs, kernel, bias))
        return tuple(jnp.split(z, kernel.shape[-1] // self.hidden_size, axis=-1))
