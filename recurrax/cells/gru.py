"""The gated recurrent unit, in both forms of its reset gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from recurrax._layer import Gate
from recurrax.cells._activation import keeps_output, mixture
from recurrax.cells.affine import AffineCell, Gates, Update, affine, gate_of, unchanged


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
    def is_affine(self) -> bool:  # type: ignore[override]
        """Whether the reset gate acts after the recurrent product."""
        return self.reset_after

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """The pre-activations of r and z, and both terms of the candidate, between which r acts."""
        return z[0] + u[0], z[1] + u[1], z[2], u[2]

    def pointwise(
        self, params: GRUParams, a: Gates, state: GRUState, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        """Computes the gates, the candidate and their mixture, with r after the product."""
        r, z, n, u_n = a
        n = n + keeps_output(self.gate_activation)(r) * u_n
        return self._mix(z, n, state, update)

    def pointwise_gates(
        self, params: GRUParams, a: Gates, state: GRUState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates r and z, and the candidate n, with r after the product."""
        r, z, n, u_n = a
        reset = gate_of(self.gate_activation, r)
        return self._named(reset, z, n + reset.value * u_n)

    def gate_values(self, params: GRUParams, state: GRUState, xs: jax.Array) -> dict[str, Gate]:
        """The gates r and z, and the candidate n, of every step at once."""
        if self.reset_after:
            return super().gate_values(params, state, xs)
        z = self.project_inputs(params, xs)
        z_r, z_z, z_n = self.split(z.astype(state.h.dtype))
        (u_r, u_z), project_candidate = self._products(params, state.h)
        reset = gate_of(self.gate_activation, z_r + u_r)
        return self._named(reset, z_z + u_z, z_n + project_candidate(reset.value))

    def _named(self, reset: Gate, z: jax.Array, n: jax.Array) -> dict[str, Gate]:
        return {
            "reset": reset,
            "update": gate_of(self.gate_activation, z),
            "new": gate_of(self.activation, n),
        }

    def step(
        self, params: GRUParams, state: GRUState, z: jax.Array, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        """One recurrent product, then `pointwise`; without `reset_after` two products."""
        if self.reset_after:
            return super().step(params, state, z)
        u, project_candidate = self._products(params, state.h)
        gates = self.split(z.astype(state.h.dtype))
        return self.reset_first(gates, u, project_candidate, state, update)

    def reset_first(
        self,
        z: Gates,
        u: Gates,
        project_candidate: Callable[[jax.Array], jax.Array],
        state: GRUState,
        update: Update = unchanged,
    ) -> tuple[GRUState, jax.Array]:
        """The equations with the reset gate before the product.

        Args:
            z: the projected input of r, z and n.
            u: the recurrent pre-activation of r and z.
            project_candidate: the recurrent product of n, which waits for r: from r to u_n.
            state: the state before the step.
            update: as in `pointwise`.
        """
        (z_r, z_z, z_n), (u_r, u_z) = z, u
        r = keeps_output(self.gate_activation)(z_r + u_r)
        return self._mix(z_z + u_z, z_n + project_candidate(r), state, update)

    def _products(self, params: GRUParams, h: jax.Array) -> tuple[Gates, Callable]:
        """The recurrent pre-activations of r and z, and the function from r to u_n."""
        # The gates come first, [:2*H], then the candidate, [2*H:].
        gates = 2 * self.hidden_size
        kernel, bias = params.recurrent_kernel, params.recurrent_bias
        gate_bias = candidate_bias = None
        if bias is not None:
            gate_bias, candidate_bias = bias[:gates], bias[gates:]
        u = affine(h, kernel[:, :gates], gate_bias)  # [*B, 2*H]

        def project_candidate(r: jax.Array) -> jax.Array:
            return affine(r * h, kernel[:, gates:], candidate_bias)  # [*B, H]

        return tuple(jnp.split(u, 2, axis=-1)), project_candidate

    def _mix(
        self, z: jax.Array, n: jax.Array, state: GRUState, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        n = update(keeps_output(self.activation)(n))
        h = mixture(keeps_output(self.gate_activation)(z), state.h, n)
        return GRUState(h), h
