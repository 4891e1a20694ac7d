"""Elman's network, the LSTM and the GRU with layer normalization."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax._dtype import widened
from recurrax._layer import Gate, Params
from recurrax.cells._activation import keeps_output, mixture
from recurrax.cells._normalize import layer_norm
from recurrax.cells.affine import AffineCell, Gates, Update, affine, gate_of, unchanged
from recurrax.cells.elman import ElmanCell, ElmanState
from recurrax.cells.gru import GRUState
from recurrax.cells.lstm import LSTMState


class LayerNormCellParams(NamedTuple):
    """Parameters of the cells with layer normalization; G gates in the order of the plain cells.

    Attributes:
        kernel: `[I, G*H]`.
        recurrent_kernel: `[H, G*H]`.
        bias: `[G*H]`.
        recurrent_bias: `[G*H]`; never in a `LayerNormElmanCell`.
        scale: `[G*H]`, of the normalized input projection, or of the normalized sum.
        recurrent_scale: `[G*H]`, of the normalized recurrent projection; never in a
            `LayerNormElmanCell`.
        cell_scale: `[H]`, of the normalized cell state of a `LayerNormLSTMCell`.
        cell_bias: `[H]`, of the same cell state.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    scale: jax.Array | None = None
    recurrent_scale: jax.Array | None = None
    cell_scale: jax.Array | None = None
    cell_bias: jax.Array | None = None


def _layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float
) -> jax.Array:
    """`layer_norm`, in the dtype of `x`."""
    return layer_norm(widened(x), scale, bias, epsilon).astype(x.dtype)


# The derivative stores the arguments and computes the sums again.
_checkpointed_layer_norm = jax.checkpoint(_layer_norm, prevent_cse=False, static_argnums=3)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormElmanCell(ElmanCell):
    """Elman's cell with layer normalization of the sum of both projections.

    h' = activation(LN(x @ kernel + h @ recurrent_kernel) * scale + bias)
    LN(a) = (a - mean(a)) / √(var(a) + epsilon)

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity.
        epsilon: a small number that is added to each variance.
        bias: whether there is a bias.
        kernel_init: draws `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws `recurrent_kernel`; orthogonal by default.
        bias_init: draws the bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LayerNormElmanCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Ba et al., Layer normalization (equation 4), 2016, https://arxiv.org/abs/1607.06450
    """

    epsilon: float = dataclasses.field(default=1e-5, kw_only=True)
    recurrent_bias: bool = dataclasses.field(default=False, init=False)

    params_type: ClassVar[type] = LayerNormCellParams

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters; `scale` is one."""
        params = super().init(key, input_size, dtype)
        return params._replace(scale=jnp.ones(self.hidden_size, dtype))

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """`xs @ kernel`; `pointwise` adds the bias after the normalization."""
        return affine(xs, params.kernel)

    def other_params(self, params: Params) -> Params:
        """The bias and `scale`; `pointwise` needs both."""
        return params._replace(kernel=None, recurrent_kernel=None)

    def pointwise(
        self, params: Params, a: Gates, state: ElmanState, update: Update = unchanged
    ) -> tuple[ElmanState, jax.Array]:
        """activation(LN(a) * scale + bias)."""
        normalized = _checkpointed_layer_norm(a[0], params.scale, params.bias, self.epsilon)
        h = update(keeps_output(self.activation)(normalized))
        return ElmanState(h), h


@dataclasses.dataclass(frozen=True, repr=False)
class _LayerNormCell(AffineCell):
    """A cell that normalizes each projection, over the gates of one group at a time."""

    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jax.nn.sigmoid, kw_only=True
    )
    epsilon: float = dataclasses.field(default=1e-5, kw_only=True)

    params_type: ClassVar[type] = LayerNormCellParams
    # The number of gates in each group.
    _groups: ClassVar[tuple[int, ...]]
    output_part: ClassVar[str] = "h"

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters; every scale is one."""
        ones = jnp.ones(self.gates * self.hidden_size, dtype)
        return super().init(key, input_size, dtype)._replace(scale=ones, recurrent_scale=ones)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """`LN(xs @ kernel) * scale + bias`; this normalization does not need the state."""
        return self._normalize(affine(xs, params.kernel), params.scale, params.bias)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        """`h @ recurrent_kernel`; `pointwise` normalizes it, which is not linear."""
        return affine(h, params.recurrent_kernel)

    def other_params(self, params: Params) -> Params:
        """All parameters without the kernels and without the arrays of the input projection."""
        return params._replace(kernel=None, recurrent_kernel=None, bias=None, scale=None)

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """The gates of `z`, then the gates of `u`."""
        return *z, *u

    def _recurrent(self, params: Params, u: Gates) -> Gates:
        """The normalized recurrent term of each gate."""
        joined = jnp.concatenate(u, -1)
        return self.split(self._normalize(joined, params.recurrent_scale, params.recurrent_bias))

    def _normalize(self, a: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
        """`LN(a) * scale + bias`, with a mean and a variance for each group of gates."""
        # The column at which each group ends, without the last.
        ends = (np.cumsum(self._groups)[:-1] * self.hidden_size).tolist()
        parts, scales = jnp.split(a, ends, axis=-1), jnp.split(scale, ends)
        biases: list[Any] = [None] * len(parts)
        if bias is not None:
            biases = jnp.split(bias, ends)
        normalized = []
        for group in zip(parts, scales, biases, strict=True):
            normalized.append(_checkpointed_layer_norm(*group, self.epsilon))
        return jnp.concatenate(normalized, axis=-1)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormLSTMCell(_LayerNormCell):
    """Long short-term memory with layer normalization of both projections and of the cell state.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(LN(c') * cell_scale + cell_bias),

    where z = LN(x @ kernel) * scale + bias and
    u = LN(h @ recurrent_kernel) * recurrent_scale + recurrent_bias, with
    LN(a) = (a - mean(a)) / √(var(a) + epsilon) over all four gates together.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        activation: the nonlinearity of g and of the normalized c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        epsilon: a small number that is added to each variance.
        bias: whether there is a `bias` and a `cell_bias`.
        recurrent_bias: whether the normalized recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of `bias` and `recurrent_bias`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LayerNormLSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.c.shape
        ((2, 7, 4), (2, 4))

    References:
        Ba et al., Layer normalization (equations 20 to 22), 2016, https://arxiv.org/abs/1607.06450
    """

    forget_bias: float = 1.0

    gates: ClassVar[int] = 4
    state_type: ClassVar[type] = LSTMState
    _groups: ClassVar[tuple[int, ...]] = (4,)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters, with `forget_bias` in the forget gate's bias; scales are one."""
        size = self.hidden_size
        # Gate 1 is the forget gate.
        params = self.shifted(super().init(key, input_size, dtype), 1, self.forget_bias)
        params = params._replace(cell_scale=jnp.ones(size, dtype))
        if self.bias:
            params = params._replace(cell_bias=jnp.zeros(size, dtype))
        return params

    def pointwise(
        self, params: Params, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        gate, activation = keeps_output(self.gate_activation), keeps_output(self.activation)

        # The derivative stores the arguments and computes the new c and its normalization again.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def mix(gates: Gates, c: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
            i, f, g, o = gates
            c = f * c + i * g
            normalized = _layer_norm(c, params.cell_scale, params.cell_bias, self.epsilon)
            return o * activation(normalized), c

        # `a` holds the four gates of z, then the four gates of u.
        i, f, g, o = map(jnp.add, a[:4], self._recurrent(params, a[4:]))
        h, c = mix((gate(i), gate(f), update(activation(g)), gate(o)), state.c, params)
        return LSTMState(h, c), h

    def pointwise_gates(
        self, params: Params, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates i, f and o, and the candidate g."""
        i, f, g, o = map(jnp.add, a[:4], self._recurrent(params, a[4:]))
        return {
            "input": gate_of(self.gate_activation, i),
            "forget": gate_of(self.gate_activation, f),
            "cell": gate_of(self.activation, g),
            "output": gate_of(self.gate_activation, o),
        }


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormGRUCell(_LayerNormCell):
    """The gated recurrent unit with layer normalization of both projections.

    r = σ(z_r + u_r),  z = σ(z_z + u_z),  n = tanh(z_n + r * u_n)
    h' = (1 - z) * n + z * h,

    where z_* = LN(x @ kernel) * scale + bias and
    u_* = LN(h @ recurrent_kernel) * recurrent_scale + recurrent_bias, with
    LN(a) = (a - mean(a)) / √(var(a) + epsilon) over r and z together, and over n alone. As in
    the paper, the reset gate acts after the product and its normalization. The paper's update gate
    is 1 - z.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        epsilon: a small number that is added to each variance.
        bias: whether there is a `bias`.
        recurrent_bias: whether the normalized recurrent projection has a separate bias; `None` for
            the same as `bias`.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LayerNormGRUCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Ba et al., Layer normalization (supplementary material), 2016,
        https://arxiv.org/abs/1607.06450
    """

    recurrent_bias: bool | None = dataclasses.field(  # type: ignore[assignment]
        default=None, kw_only=True
    )

    gates: ClassVar[int] = 3
    state_type: ClassVar[type] = GRUState
    _groups: ClassVar[tuple[int, ...]] = (2, 1)

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the parameters hold a `recurrent_bias`."""
        if self.recurrent_bias is None:
            return self.bias
        return self.recurrent_bias

    def pointwise(
        self, params: Params, a: Gates, state: GRUState, update: Update = unchanged
    ) -> tuple[GRUState, jax.Array]:
        """The gates, the candidate and their mixture."""
        gate = keeps_output(self.gate_activation)
        # `a` holds the three gates of z, then the three gates of u.
        z_r, z_z, z_n = a[:3]
        u_r, u_z, u_n = self._recurrent(params, a[3:])
        n = update(keeps_output(self.activation)(z_n + gate(z_r + u_r) * u_n))
        h = mixture(gate(z_z + u_z), state.h, n)
        return GRUState(h), h

    def pointwise_gates(
        self, params: Params, a: Gates, state: GRUState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates r and z, and the candidate n."""
        z_r, z_z, z_n = a[:3]
        u_r, u_z, u_n = self._recurrent(params, a[3:])
        reset = gate_of(self.gate_activation, z_r + u_r)
        return {
            "reset": reset,
            "update": gate_of(self.gate_activation, z_z + u_z),
            "new": gate_of(self.activation, z_n + reset.value * u_n),
        }
