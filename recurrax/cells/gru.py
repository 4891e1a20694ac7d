"""The gated recurrent unit, in both forms of its reset gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from recurrax.cells._activation import frugal, mixture
from recurrax.cells.affine import AffineCell, Gates, affine


class GRUParams(NamedTuple):
    """Parameters of a `GRUCell`.

    Attributes:
        kernel: `[I, 3*H]`, gates in the order r, z, n.
        recurrent_kernel: `[H, 3*H]`.
        bias: `[3*H]`, or None.
        recurrent_bias: `[3*H]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None


class GRUState(NamedTuple):
    """State of a `GRUCell`.

    Attributes:
        h: the output of the last step, `[*B, H]`.
    """

    h: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class GRUCell(AffineCell):
    """The gated recurrent unit: the `GRU` of PyTorch and cuDNN, and both forms in Keras.

    r = σ(z_r + u_r),  z = σ(z_z + u_z)
    n = tanh(z_n + r * u_n)                                              with `reset_after`
    n = tanh(z_n + (r * h) @ recurrent_kernel_n + recurrent_bias_n)      without `reset_after`
    h' = (1 - z) * n + z * h,

    where z_* = x @ kernel + bias and u_* = h @ recurrent_kernel + recurrent_bias.

    There are 3 * H * (I + H + b) parameters with b biases: two by default, as in PyTorch and in
    Keras' `GRU`. The reset gate multiplies u_n, so the second bias of n is not redundant.
    `recurrent_bias=False` or `reset_after=False` leaves one bias, 3 * H fewer numbers. The GRU from
    scratch in "Dive into Deep Learning" is `reset_after=False`.

    Args:
        hidden_size: the number of features H of the state.
        reset_after: whether the reset gate acts after the recurrent product (cuDNN, PyTorch), or
            before it (Cho 2014).
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias. `None` means yes with
            `bias` and `reset_after`: then neither bias makes the other redundant.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.GRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

        The number of parameters, on 5 features:

        >>> recurrax.num_params(recurrax.GRUCell(10), input_size=5)  # PyTorch, Keras
        510
        >>> recurrax.num_params(recurrax.GRUCell(10, reset_after=False), input_size=5)  # Cho 2014
        480

    References:
        Cho et al., Learning phrase representations using RNN encoder-decoder, 2014,
        https://arxiv.org/abs/1406.1078
    """

    reset_after: bool = True
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jax.nn.sigmoid, kw_only=True
    )
    recurrent_bias: bool | None = dataclasses.field(  # type: ignore[assignment]
        default=None, kw_only=True
    )

    gates: ClassVar[int] = 3
    params_type: ClassVar[type] = GRUParams
    state_type: ClassVar[type] = GRUState
    output_part: ClassVar[str] = "h"

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the parameters hold a `recurrent_bias`."""
        if self.recurrent_bias is not None:
            return self.recurrent_bias
        # Before the product a second bias would only add to the first.
        return self.bias and self.reset_after

    @property
    def is_affine(self) -> bool:
        """Whether the reset gate acts after the recurrent product."""
        return self.reset_after

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """The pre-activations of r and z, and both terms of the candidate, between which r acts."""
        return z[0] + u[0], z[1] + u[1], z[2], u[2]

    def pointwise(self, params: GRUParams, a: Gates, state: GRUState) -> tuple[GRUState, jax.Array]:
        """Computes the gates, the candidate and their mixture, with r after the product."""
        r, z, n, u_n = a
        return self._mix(z, n + frugal(self.gate_activation)(r) * u_n, state)

    def step(self, params: GRUParams, state: GRUState, z: jax.Array) -> tuple[GRUState, jax.Array]:
        """One recurrent product, then `pointwise`; without `reset_after` two products."""
        if self.reset_after:
            return super().step(params, state, z)
        # The gates come first, [:2*H], then the candidate, [2*H:].
        gates = 2 * self.hidden_size
        kernel, bias = params.recurrent_kernel, params.recurrent_bias
        gate_bias = candidate_bias = None
        if bias is not None:
            gate_bias, candidate_bias = bias[:gates], bias[gates:]
        u = affine(state.h, kernel[:, :gates], gate_bias)
        z_r, z_z, z_n = self.split(z.astype(u.dtype))
        u_r, u_z = jnp.split(u, 2, axis=-1)
        r = self.gate_activation(z_r + u_r)
        # The second product waits for r.
        u_n = affine(r * state.h, kernel[:, gates:], candidate_bias)
        return self._mix(z_z + u_z, z_n + u_n, state)

    def _mix(self, z: jax.Array, n: jax.Array, state: GRUState) -> tuple[GRUState, jax.Array]:
        n = self.update(frugal(self.activation)(n))
        h = mixture(frugal(self.gate_activation)(z), state.h, n)
        return GRUState(h), h
