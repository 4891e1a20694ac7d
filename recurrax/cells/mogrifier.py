"""The Mogrifier LSTM: input and state gate one another before each step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._arguments import OPTIONAL_SIZE, SIZE
from recurrax._layer import Params
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import Gates, Update, affine, unchanged
from recurrax.cells.lstm import LSTMCell, LSTMState


class MogrifierLSTMParams(NamedTuple):
    """Parameters of a `MogrifierLSTMCell`; P is `proj_size`, or H without a projection.

    There are N = ceil(rounds / 2) gates of the input, and M = floor(rounds / 2) gates of the state.

    Attributes:
        kernel: `[I, 4*H]`, gates in the order i, f, g, o.
        recurrent_kernel: `[P, 4*H]`.
        bias: `[4*H]`, or None.
        recurrent_bias: `[4*H]`, or None.
        projection_kernel: `[H, P]`, or None.
        q_kernel: `[N, P, I]`, or `[N, P, K]` with a rank K; None without a gate.
        q_factor: `[N, K, I]`, or None.
        r_kernel: `[M, I, P]`, or `[M, I, K]` with a rank K; None without a gate.
        r_factor: `[M, K, P]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    projection_kernel: jax.Array | None = None
    q_kernel: jax.Array | None = None
    q_factor: jax.Array | None = None
    r_kernel: jax.Array | None = None
    r_factor: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class MogrifierLSTMCell(LSTMCell):
    """Long short-term memory whose input and state gate one another first, in some rounds.

    x ← 2 * σ(h @ q_kernel[k]) * x  in round 2k + 1
    h ← 2 * σ(x @ r_kernel[k]) * h  in round 2k + 2.

    After `rounds` rounds, x and h take the step of an LSTM:

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'), and h' @ projection_kernel if `proj_size` is positive,

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias. With a `rank` K, each
    kernel of a round is a product, `q_kernel[k] @ q_factor[k]`. No step forms the product.

    x depends on h, so the products of the inputs are within the steps.

    Args:
        hidden_size: the number of features H of the cell state.
        proj_size: the number of features P of the output, below H; 0 for no projection.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        rounds: the number of rounds; 0 for an LSTM.
        rank: the rank K of the kernels of the rounds; None for full matrices.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`, `projection_kernel`, and the kernels and factors
            of each round; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if `hidden_size` or `rank` is not positive, `rounds` is negative, or `proj_size`
            is negative or not below `hidden_size`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.MogrifierLSTMCell(4, rounds=3, rank=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, params.q_kernel.shape, params.r_factor.shape
        ((2, 7, 4), (2, 4, 2), (1, 2, 4))

    References:
        Melis et al., Mogrifier LSTM, 2020, https://arxiv.org/abs/1909.01792
    """

    rounds: int = dataclasses.field(default=5, kw_only=True, metadata=OPTIONAL_SIZE)
    rank: int | None = dataclasses.field(default=None, kw_only=True, metadata=SIZE)

    params_type: ClassVar[type] = MogrifierLSTMParams
    # The inputs of the step depend on the state.
    is_affine: ClassVar[bool] = False
    # The gates read `step_preactivations`, as the step does.
    tells_gates: ClassVar[bool] = True

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, q_key, r_key = jax.random.split(key, 3)
        params: Params = super().init(key, input_size, dtype)
        size = self.output_size(input_size)
        # The first round gates the input.
        odd, even = (self.rounds + 1) // 2, self.rounds // 2
        q_kernel, q_factor = self._draw(q_key, odd, size, input_size, dtype)
        r_kernel, r_factor = self._draw(r_key, even, input_size, size, dtype)
        return params._replace(
            q_kernel=q_kernel, q_factor=q_factor, r_kernel=r_kernel, r_factor=r_factor
        )

    def _draw(
        self, key: jax.Array, number: int, inputs: int, outputs: int, dtype: DTypeLike
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Draws the kernels of some rounds, and their second factors with a rank."""
        if not number:
            return None, None

        # Each round by itself, so that an initializer sees one matrix.
        def draw_rounds(key: jax.Array, *shape: int) -> jax.Array:
            drawn = []
            for round_key in jax.random.split(key, number):
                drawn.append(self.kernel_init(round_key, shape, jnp.float32))
            return jnp.stack(drawn).astype(dtype)

        first_key, second_key = jax.random.split(key)
        if self.rank is None:
            return draw_rounds(first_key, inputs, outputs), None
        first = draw_rounds(first_key, inputs, self.rank)
        return first, draw_rounds(second_key, self.rank, outputs)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """The inputs themselves: their product waits for the state."""
        return xs

    def step(
        self, params: Params, state: LSTMState, z: jax.Array, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """Takes the rounds, then the step of an LSTM."""
        a = self.step_preactivations(params, state, z)
        return self.pointwise(self.other_params(params), a, state, update)

    def step_preactivations(self, params: Params, state: LSTMState, z: jax.Array) -> Gates:
        """The pre-activations i, f, g and o, after the rounds."""
        h = state.h  # [*B, P]
        x = z.astype(h.dtype)  # [*B, I]
        for number in range(self.rounds):
            # Rounds take turns: x, h, x, ...
            k, state_gate = divmod(number, 2)
            if state_gate:
                h = _gated(h, x, params.r_kernel, params.r_factor, k)
            else:
                x = _gated(x, h, params.q_kernel, params.q_factor, k)
        projected = affine(x, params.kernel, params.bias)
        u = self.project_state(params, h)
        return self.preactivations(self.split(projected), self.split(u))


def _gated(
    gated: jax.Array, by: jax.Array, kernels: jax.Array, factors: jax.Array | None, k: int
) -> jax.Array:
    """2 * σ(by @ kernel) * gated, with the kernel of gate `k`, or both its factors."""
    # With a rank, `kernels` holds the first factors.
    a = affine(by, kernels[k])
    if factors is not None:
        a = affine(a, factors[k])
    return 2 * keeps_output(jax.nn.sigmoid)(a) * gated
