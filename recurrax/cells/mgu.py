"""Recurrent networks with a single gate: the minimal gated unit and the update-gate network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Gate
from recurrax.cells._activation import keeps_output, mixture
from recurrax.cells.affine import AffineCell, Gates, Update, affine, gate_of, unchanged
from recurrax.cells.gru import GRUState


class MGUParams(NamedTuple):
    """Parameters of an `MGUCell`.

    Attributes:
        kernel: `[I, 2*H]`, the gate f before the candidate n.
        recurrent_kernel: `[H, 2*H]`.
        bias: `[2*H]`, or None.
        recurrent_bias: `[2*H]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None


class UGRNNParams(NamedTuple):
    """Parameters of a `UGRNNCell`.

    Attributes:
        kernel: `[I, 2*H]`, the gate g before the candidate n.
        recurrent_kernel: `[H, 2*H]`.
        bias: `[2*H]`, or None.
        recurrent_bias: `[2*H]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class _OneGateCell(AffineCell):
    """A cell with one gate and one candidate; at first the gate tends to keep the state."""

    forget_bias: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jax.nn.sigmoid, kw_only=True
    )

    gates: ClassVar[int] = 2
    state_type: ClassVar[type] = GRUState
    output_part: ClassVar[str] = "h"

    @property
    def _open_keeps(self) -> bool:
        """Whether an open gate keeps the state. Otherwise it takes the candidate."""
        return True

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> MGUParams | UGRNNParams:
        """Draws the parameters; `forget_bias` moves the gate's bias towards keeping the state."""
        shift = self.forget_bias
        if not self._open_keeps:
            shift = -shift
        # The gate comes first, so it is gate 0.
        return self.shifted(super().init(key, input_size, dtype), 0, shift)

    def _mix(
        self, gate: jax.Array, n: jax.Array, state: GRUState, update: Update
    ) -> tuple[GRUState, jax.Array]:
        n = update(keeps_output(self.activation)(n))
        opened, closed = n, state.h
        if self._open_keeps:
            opened, closed = closed, opened
        h = mixture(gate, opened, closed)
        return GRUState(h), h


@dataclasses.dataclass(frozen=True, repr=False)
class MGUCell(_OneGateCell):
    """The minimal gated unit: a GRU with one gate, in Flax's form and in the authors' form.

    f = σ(z_f + u_f)

    With `reset_after`, Flax's form:

    n = tanh(z_n + f * u_n)
    h' = (1 - f) * n + f * h

    Without `reset_after`, the paper's form:

    n = tanh(z_n + (f * h) @ recurrent_kernel_n + recurrent_bias_n)
    h' = (1 - f) * h + f * n,

    where z_* = x @ kernel + bias and u_* = h @ recurrent_kernel + recurrent_bias. The forms differ
    in more than the place of the product. An open gate keeps the state in Flax's form and takes the
    candidate in the paper's form. No choice of parameters turns one form into the other.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: how far `init` moves the gate's part of `bias` towards keeping the state.
        reset_after: whether the gate acts after the recurrent product (Flax) or before it (Zhou et
            al.).
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gate f.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias. `None` means yes with
            `bias` and `reset_after`: then neither bias makes the other redundant.
        kernel_init: draws gate and candidate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws gate and candidate of `recurrent_kernel`; orthogonal by
            default.
        bias_init: draws gate and candidate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.MGUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Zhou et al., Minimal gated unit for recurrent neural networks, 2016,
        https://arxiv.org/abs/1603.09420

        Flax, `flax.linen.MGUCell`, 2024,
        https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html
    """

    reset_after: bool = dataclasses.field(default=True, kw_only=True)
    recurrent_bias: bool | None = dataclasses.field(  # type: ignore[assignment]
        default=None, kw_only=True
    )

    params_type: ClassVar[type] = MGUParams

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the parameters hold a `recurrent_bias`."""
        if self.recurrent_bias is not None:
            return self.recurrent_bias
        # Before the product a second bias would only add to the first.
        return self.bias and self.reset_after

    @property
    def is_affine(self) -> bool:  # type: ignore[override]
        """Whether the gate acts after the recurrent product."""
        return self.reset_after

    @property
    def _open_keeps(self) -> bool:
        """Whether an open gate keeps the state, as in Flax's form."""
        return self.reset_after

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """The gate's pre-activation, then both terms of the candidate; the gate acts between."""
        return z[0] + u[0], z[1], u[1]

    def pointwise(
        self, params: MGUParams, a: Gates, state: GRUState, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        """Computes the gate, the candidate and their mixture, with the gate after the product."""
        f, n, u_n = a
        f = keeps_output(self.gate_activation)(f)
        return self._mix(f, n + f * u_n, state, update)

    def pointwise_gates(
        self, params: MGUParams, a: Gates, state: GRUState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gate f and the candidate n, with the gate after the product."""
        f, n, u_n = a
        forget = gate_of(self.gate_activation, f)
        return {"forget": forget, "new": gate_of(self.activation, n + forget.value * u_n)}

    def gate_values(self, params: MGUParams, state: GRUState, xs: jax.Array) -> dict[str, Gate]:
        """The gate f and the candidate n of every step at once."""
        if self.reset_after:
            return super().gate_values(params, state, xs)
        forget, n = self._gate_first(params, state.h, self.project_inputs(params, xs))
        return {"forget": forget, "new": gate_of(self.activation, n)}

    def step(
        self, params: MGUParams, state: GRUState, z: jax.Array, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        """One recurrent product, then `pointwise`; without `reset_after` two products."""
        if self.reset_after:
            return super().step(params, state, z)
        forget, n = self._gate_first(params, state.h, z)
        return self._mix(forget.value, n, state, update)

    def _gate_first(self, params: MGUParams, h: jax.Array, z: jax.Array) -> tuple[Gate, jax.Array]:
        """The gate, and the pre-activation of the candidate, with the gate before the product."""
        kernel_f, kernel_n = self.split(params.recurrent_kernel)
        bias_f = bias_n = None
        if params.recurrent_bias is not None:
            bias_f, bias_n = self.split(params.recurrent_bias)
        u_f = affine(h, kernel_f, bias_f)
        z_f, z_n = self.split(z.astype(u_f.dtype))
        forget = gate_of(self.gate_activation, z_f + u_f)
        # The second product waits for f.
        u_n = affine(forget.value * h, kernel_n, bias_n)
        return forget, z_n + u_n


@dataclasses.dataclass(frozen=True, repr=False)
class UGRNNCell(_OneGateCell):
    """The update-gate recurrent network: Elman's network with a gate that may keep the state.

    g = σ(z_g + u_g),  n = tanh(z_n + u_n)
    h' = g * h + (1 - g) * n,

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias. Flax has this cell as
    `MGUCell(reset_gate=False)`.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: the number that `init` adds to the gate's part of `bias`.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gate g.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws gate and candidate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws gate and candidate of `recurrent_kernel`; orthogonal by
            default.
        bias_init: draws gate and candidate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.UGRNNCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Collins et al., Capacity and trainability in recurrent neural networks, 2016,
        https://arxiv.org/abs/1611.09913
    """

    params_type: ClassVar[type] = UGRNNParams

    def pointwise(
        self, params: UGRNNParams, a: Gates, state: GRUState, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        """The gate, the candidate and their mixture."""
        g, n = a
        return self._mix(keeps_output(self.gate_activation)(g), n, state, update)

    def pointwise_gates(
        self, params: UGRNNParams, a: Gates, state: GRUState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gate g and the candidate n."""
        g, n = a
        return {"update": gate_of(self.gate_activation, g), "new": gate_of(self.activation, n)}
