"""The multiplicative LSTM: its recurrent weights depend on the input."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._layer import Params
from recurrax.cells.affine import Gates, Update, affine, unchanged
from recurrax.cells.lstm import LSTMCell, LSTMState


class MultiplicativeLSTMParams(NamedTuple):
    """Parameters of a `MultiplicativeLSTMCell`; P is `proj_size`, or H without a projection.

    Attributes:
        kernel: `[I, 4*H]`, gates in the order i, f, g, o.
        recurrent_kernel: `[P, 4*H]`, from the intermediate state m.
        bias: `[4*H]`, or None.
        recurrent_bias: `[4*H]`, or None.
        projection_kernel: `[H, P]`, or None.
        factor_kernel: `[I, P]`, the input's factor of m.
        recurrent_factor_kernel: `[P, P]`, the state's factor of m.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    projection_kernel: jax.Array | None = None
    factor_kernel: jax.Array | None = None
    recurrent_factor_kernel: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class MultiplicativeLSTMCell(LSTMCell):
    """Long short-term memory whose recurrent weights depend on the input.

    m = (x @ factor_kernel) * (h @ recurrent_factor_kernel)
    z = x @ kernel + bias,  u = m @ recurrent_kernel + recurrent_bias
    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'), and h' @ projection_kernel if `proj_size` is positive.

    Args:
        hidden_size: the number of features H of the cell state.
        proj_size: the number of features P of the output and of m, below H; 0 for no projection.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`, `factor_kernel` and `projection_kernel`; Glorot
            uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, and `recurrent_factor_kernel`;
            orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if `hidden_size` is not positive, or `proj_size` is negative or not below
            `hidden_size`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.MultiplicativeLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.c.shape
        ((2, 7, 4), (2, 4))

    References:
        Krause et al., Multiplicative LSTM for sequence modelling, 2016,
        https://arxiv.org/abs/1609.07959
    """

    params_type: ClassVar[type] = MultiplicativeLSTMParams
    # The recurrent product reads m, not h.
    is_affine: ClassVar[bool] = False
    # The gates read `step_preactivations`, as the step does.
    tells_gates: ClassVar[bool] = True

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, factor_key, recurrent_factor_key = jax.random.split(key, 3)
        params: Params = super().init(key, input_size, dtype)
        # m has the P features of h.
        size = self.output_size(input_size)
        factor = self.kernel_init(factor_key, (input_size, size), jnp.float32)
        recurrent_factor = self.recurrent_kernel_init(
            recurrent_factor_key, (size, size), jnp.float32
        )
        return params._replace(
            factor_kernel=factor.astype(dtype),
            recurrent_factor_kernel=recurrent_factor.astype(dtype),
        )

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """The pre-activations z `[..., 4*H]`, then the input's factor of m `[..., P]`."""
        zs = super().project_inputs(params, xs)
        return jnp.concatenate([zs, affine(xs, params.factor_kernel)], axis=-1)

    def step(
        self, params: Params, state: LSTMState, z: jax.Array, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """Computes m, takes m in place of h, then `pointwise`."""
        a = self.step_preactivations(params, state, z)
        return self.pointwise(self.other_params(params), a, state, update)

    def step_preactivations(self, params: Params, state: LSTMState, z: jax.Array) -> Gates:
        """The pre-activations i, f, g and o, from m in place of h."""
        m = affine(state.h, params.recurrent_factor_kernel)
        z, factor = jnp.split(z.astype(m.dtype), [self.gates * self.hidden_size], axis=-1)
        # `recurrent_kernel` multiplies m, not h.
        u = self.project_state(params, factor * m)
        return self.preactivations(self.split(z), self.split(u))
