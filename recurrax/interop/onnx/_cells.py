"""ONNX's LSTM where no cell of the core computes the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._layer import INITIALIZER, Initializer
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import AffineCell, Gates, Update, broadcast_to_rank, unchanged
from recurrax.cells.lstm import LSTMState


class OnnxLSTMParams(NamedTuple):
    """Parameters of an `OnnxLSTMCell`; G is 4, or 3 with `input_forget`.

    Attributes:
        kernel: `[I, G*H]`, gates in the order i, f, g, o, or i, g, o.
        recurrent_kernel: `[H, G*H]`.
        bias: `[G*H]`, or None.
        recurrent_bias: `[G*H]`, or None.
        peephole: `[G-1, H]`, for the gates i, f and o, or i and o; or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    peephole: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class OnnxLSTMCell(AffineCell):
    """ONNX's LSTM in full: three nonlinearities, peepholes or none, a forget gate or none.

    i = γ(z_i + u_i + p_i * c),  f = γ(z_f + u_f + p_f * c), or 1 - i with `input_forget`
    g = φ(z_g + u_g),  c' = f * c + i * g
    o = γ(z_o + u_o + p_o * c'),  h' = o * ψ(c'),

    where γ, φ and ψ are `gate_activation`, `activation` and `output_activation`, in ONNX's words
    f, g and h.

    Args:
        hidden_size: the number of features H of the state.
        input_forget: whether the forget gate is 1 minus the input gate.
        peepholes: whether the gates see the cell state.
        gate_activation: the nonlinearity of the gates i, f and o.
        activation: the nonlinearity of g.
        output_activation: the nonlinearity of c'.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a bias.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        peephole_init: draws `peephole`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> from recurrax.interop import OnnxLSTMCell
        >>> cell = OnnxLSTMCell(4, peepholes=True, output_activation=jax.nn.softplus)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, params.peephole.shape
        ((2, 7, 4), (3, 4))

    References:
        ONNX, `LSTM`, 2025, https://onnx.ai/onnx/operators/onnx__LSTM.html
    """

    input_forget: bool = False
    peepholes: bool = False
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jax.nn.sigmoid, kw_only=True
    )
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    output_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jnp.tanh, kw_only=True
    )
    peephole_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    params_type: ClassVar[type] = OnnxLSTMParams
    state_type: ClassVar[type] = LSTMState
    output_part: ClassVar[str] = "h"

    @property
    def gates(self) -> int:  # type: ignore[override]
        """3 where the input gate gives the forget gate, else 4."""
        if self.input_forget:
            return 3
        return 4

    def init(
        self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32
    ) -> OnnxLSTMParams:
        """Draws the parameters."""
        key, peephole_key = jax.random.split(key)
        params = super().init(key, input_size, dtype)
        if self.peepholes:
            peephole = self.peephole_init(
                peephole_key, (self.gates - 1, self.hidden_size), jnp.float32
            )
            params = params._replace(peephole=peephole.astype(dtype))
        return params

    def pointwise(
        self, params: OnnxLSTMParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        gate = keeps_output(self.gate_activation)
        *before, g, o = a  # i and f, or i alone
        if params.peephole is not None:
            # i and f see the cell state before the step, o sees the state after the step.
            *peepholes, p_o = (broadcast_to_rank(p, o) for p in params.peephole)
            before = [x + p * state.c for x, p in zip(before, peepholes, strict=True)]
        i, *forget = map(gate, before)
        f = forget[0] if forget else 1 - i
        c = f * state.c + i * update(keeps_output(self.activation)(g))
        if params.peephole is not None:
            o = o + p_o * c
        h = gate(o) * keeps_output(self.output_activation)(c)
        return LSTMState(h, c), h
