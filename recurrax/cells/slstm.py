"""The scalar LSTM of xLSTM: exponential gates, a normalizer, and a recurrence in heads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._dtype import widened
from recurrax._layer import Gate, mixed
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import (
    AffineCell,
    Gates,
    Update,
    affine,
    broadcast_to_rank,
    draw_gates,
    gate_of,
    unchanged,
)
from recurrax.cells.mlstm import bounded_exp, mixed_memory, weights


class SLSTMParams(NamedTuple):
    """Parameters of an `SLSTMCell`, with N heads of D = H / N features each.

    Attributes:
        kernel: `[I, 4*H]`, gates in the order i, f, z, o.
        recurrent_kernel: `[N, D, 4*D]`: for each head, from its features to its part of each gate.
        bias: `[4*H]`, or None.
        recurrent_bias: `[4*H]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None


class SLSTMState(NamedTuple):
    """State of an `SLSTMCell`.

    The paper's cell state is c * exp(m). The paper's normalizer is n * exp(m).

    Attributes:
        h: the output of the last step, `[*B, H]`.
        c: the cell state, `[*B, H]`.
        n: the normalizer, `[*B, H]`: 0 before the first step, and at least 1 after the first step.
        m: the stabilizer, `[*B, H]`: the largest logarithm of a weight in c and n. Where n is 0, m
            has no meaning.
    """

    h: jax.Array
    c: jax.Array
    n: jax.Array
    m: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class SLSTMCell(AffineCell):
    """The scalar LSTM of xLSTM: a mean of the past with exponential weights, in log space.

    log i = z_i + u_i,  log f = log σ(z_f + u_f), or z_f + u_f if `forget_gate` is "exp"
    z = tanh(z_z + u_z),  o = σ(z_o + u_o)
    m' = max(log f + m, log i),  i = exp(log i - m'),  f = exp(log f + m - m')
    c' = f * c + i * z,  n' = f * n + i
    h' = o * c' / n',

    where z_* = x @ kernel + bias and u_* = h @ recurrent_kernel + recurrent_bias, head by head. m
    keeps every exponential at most 1; h depends on m only by rounding. Where n = 0 there is no
    past. There m' = log i, as if m were -inf. So the initial state is all zeros. For any gates, no
    exponential overflows and no divisor is zero.

    No step ends with n between 0 and 1, but a learned initial state may have such an n. Then the
    maximum takes log f + m + log n. This keeps outputs, states and gradients continuous at n = 0.
    For the maximum, n below 0 means no past. n' is at least 1/2.

    Args:
        hidden_size: the number of features H of the state.
        num_heads: the number N of heads. The recurrence does not mix the features of two heads.
        forget_gate: the activation of the forget gate, "sigmoid" or "exp".
        forget_bias: the number that `init` adds to the forget gate's part of `bias`; without `bias`
            it has no effect.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `[D, D]` for each gate of each head; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive, `num_heads` does not divide it, or
            `forget_gate` has another value.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.SLSTMCell(8, num_heads=2)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.n.shape, params.recurrent_kernel.shape
        ((2, 7, 8), (2, 8), (2, 4, 16))

    References:
        Beck et al., xLSTM: Extended long short-term memory (section 2.2), 2024,
        https://arxiv.org/abs/2405.04517
    """

    num_heads: int = 1
    forget_gate: Literal["sigmoid", "exp"] = "sigmoid"
    forget_bias: float = 1.0

    gates: ClassVar[int] = 4
    params_type: ClassVar[type] = SLSTMParams
    state_type: ClassVar[type] = SLSTMState
    output_part: ClassVar[str] = "h"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide `hidden_size` {self.hidden_size}; got {self.num_heads}."
            )
        if self.forget_gate not in ("sigmoid", "exp"):
            raise ValueError(f'`forget_gate` must be "sigmoid" or "exp"; got {self.forget_gate!r}.')

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> SLSTMParams:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, heads_key = jax.random.split(key)
        # The draw of the recurrent kernel comes below, for each head.
        cell = dataclasses.replace(self, recurrent_kernel_init=initializers.zeros)
        params = AffineCell.init(cell, key, input_size, dtype)
        size = self.hidden_size // self.num_heads
        heads = []
        for head_key in jax.random.split(heads_key, self.num_heads):
            heads.append(draw_gates(self.recurrent_kernel_init, head_key, 4, (size, size), dtype))
        params = params._replace(recurrent_kernel=jnp.stack(heads))
        # Gate 1 is the forget gate.
        return self.shifted(params, 1, self.forget_bias)

    def project_state(self, params: SLSTMParams, h: jax.Array) -> jax.Array:
        """`u = h @ recurrent_kernel + recurrent_bias` for each head; `[*B, 4*H]`, gate by gate."""
        kernel, bias = params.recurrent_kernel, params.recurrent_bias
        if self.num_heads == 1:
            return affine(h, kernel[0], bias)
        batch, size = h.shape[:-1], self.hidden_size // self.num_heads
        heads = h.reshape(*batch, self.num_heads, size).astype(kernel.dtype)
        u = jnp.einsum("...nd,ndg->...ng", heads, kernel, preferred_element_type=h.dtype)
        # From [*B, N, 4, D], head by head, to [*B, 4, N, D], gate by gate.
        u = jnp.swapaxes(u.reshape(*batch, self.num_heads, 4, size), -3, -2)
        u = u.reshape(*batch, 4 * self.hidden_size)
        if bias is None:
            return u
        return u + broadcast_to_rank(bias, u)

    def pointwise(
        self, params: SLSTMParams, a: Gates, state: SLSTMState, update: Update = unchanged
    ) -> tuple[SLSTMState, jax.Array]:
        """Computes the gates, both sums over the past and their quotient."""

        # The derivative stores the arguments and computes the terms again.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def mix(*a: jax.Array) -> tuple[jax.Array, ...]:
            # A rounded logarithm is a wrong factor, so every array has float32 or more.
            i, f, z, o, c, n, m = map(widened, a)
            i, f, m = self._weights(i, f, n, m)
            # After a step from n >= 0, n is at least 1. The bound 0.5 only changes other states.
            c, n = f * c + i * z, jnp.maximum(f * n + i, 0.5)
            return o * (c / n), c, n, m

        i, f, z, o = a
        z, o = update(keeps_output(jnp.tanh)(z)), keeps_output(jax.nn.sigmoid)(o)
        h, *rest = mix(i, f, z, o, state.c, state.n, state.m)
        return SLSTMState(h, *rest), h

    def _weights(
        self, i: jax.Array, f: jax.Array, n: jax.Array, m: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The weights i and f of the equations, and the new m, from the pre-activations."""
        if self.forget_gate == "sigmoid":
            f = jax.nn.log_sigmoid(f)
        past = f + m
        # Where n is 0 there is no past. Where 0 < n < 1 the past weighs less than exp(m).
        some = n >= jnp.finfo(n.dtype).tiny
        size = jnp.log(jnp.where(some & (n < 1), n, 1))
        m, _, i = weights(past + size, i, ~some)
        return i, bounded_exp(past - m), m

    def pointwise_gates(
        self, params: SLSTMParams, a: Gates, state: SLSTMState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The weights i and f, the candidate z and the gate o."""
        i, f, z, o = a
        i_weight, f_weight, _ = self._weights(*map(widened, (i, f, state.n, state.m)))
        return {
            "input": Gate(i_weight, i),
            "forget": Gate(f_weight, f),
            "cell": gate_of(jnp.tanh, z),
            "output": gate_of(jax.nn.sigmoid, o),
        }

    def state_parts(self, state: SLSTMState) -> tuple[jax.Array, ...]:
        """h, and m, which stands for the memory of its unit."""
        return state.h, state.m

    def mix_states(self, keep: Sequence[Any], old: SLSTMState, new: SLSTMState) -> SLSTMState:
        """Mixes h, and the memories c * exp(m) and n * exp(m) of each unit together."""
        keep_h, keep_memory = keep
        memory = mixed_memory(keep_memory, old[1:], new[1:], old.n == 0)
        return SLSTMState(mixed(keep_h, old.h, new.h), *memory)
