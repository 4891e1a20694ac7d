"""The common part of the gated linear recurrences: one product of the inputs, split into gates."""

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
from recurrax.cells.affine import Gates, affine, draw_gates
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
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    @property
    @abc.abstractmethod
    def gates(self) -> int:
        """The number G of gates, with the candidates."""

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> InputGatedParams:
        """Draws `kernel` `[I, G*H]` and `bias` `[G*H]`, gate by gate."""
        return self.draw(key, input_size, dtype, self.gates, self.gates)

    def draw(
        self, key: jax.Array, input_size: int, dtype: DTypeLike, gates: int, biases: int
    ) -> InputGatedParams:
        """Draws `gates` gates; the first `biases` of them have a bias."""
        kernel_key, bias_key = jax.random.split(key)
        size = self.hidden_size
        kernel = draw_gates(self.kernel_init, kernel_key, gates, (input_size, size), dtype)
        if not self.bias:
            return InputGatedParams(kernel)
        return InputGatedParams(
            kernel, draw_gates(self.bias_init, bias_key, biases, (size,), dtype)
        )

    def split(self, params: InputGatedParams, xs: jax.Array) -> Gates:
        """The pre-activations of the gates, each `[..., *B, H]`; gates without a bias come last."""
        kernel, bias = params
        # Gates without a bias get zeros, so that all gates are one product.
        if bias is not None:
            bias = jnp.pad(bias, (0, kernel.shape[-1] - bias.shape[-1]))
        # A gate near 1 sets how long a state lasts. bfloat16 has too few digits for it.
        z = widened(affine(xs, kernel, bias))
        return tuple(jnp.split(z, kernel.shape[-1] // self.hidden_size, axis=-1))
