"""Elman's network, the LSTM and the GRU with layer normalisation."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._dtype import promote
from recurrax._layer import Params
from recurrax.cells._activation import frugal, mixture
from recurrax.cells.affine import AffineCell, Gates, affine, along
from recurrax.cells.elman import ElmanCell, ElmanState
from recurrax.cells.gru import GRUState
from recurrax.cells.lstm import LSTMState


class LayerNormCellParams(NamedTuple):
    """Parameters of the cells with layer normalisation; G gates in the order of the cells without it.

    Attributes:
        kernel: `[I, G*H]`.
        recurrent_kernel: `[H, G*H]`.
        bias: `[G*H]`.
        recurrent_bias: `[G*H]`; never in a `LayerNormElmanCell`.
        scale: `[G*H]`, of the normalised input projection, or sum.
        recurrent_scale: `[G*H]`, of the normalised recurrent projection; not in a `LayerNormElmanCell`.
        cell_scale: `[H]`, of the normalised cell state of a `LayerNormLSTMCell`.
        cell_bias: `[H]`, likewise.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    scale: jax.Array | None = None
    recurrent_scale: jax.Array | None = None
    cell_scale: jax.Array | None = None
    cell_bias: jax.Array | None = None


def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float) -> jax.Array:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` over the last axis, worked out in float32 at least."""
    wide = x.astype(promote(x.dtype, jnp.float32))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon) * along(scale, wide)
    return (y if bias is None else y + along(bias, wide)).astype(x.dtype)


# For its derivative this keeps what goes in: all else is a few sums away.
_frugal_layer_norm = jax.checkpoint(_layer_norm, prevent_cse=False, static_argnums=3)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormElmanCell(ElmanCell):
    """Elman's cell with layer normalisation of the sum of both projections.

    h' = activation(LN(x @ kernel + h @ recurrent_kernel) * scale + bias),  LN(a) = (a - mean(a)) / √(var(a) + epsilon)

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity.
        epsilon: what is added to each variance.
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
        return super().init(key, input_size, dtype)._replace(scale=jnp.ones(self.hidden_size, dtype))

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """`xs @ kernel`; the bias comes after the normalisation."""
        return affine(xs, params.kernel)

    def other_params(self, params: Params) -> Params:
        """The bias and `scale`."""
        return params._replace(kernel=None, recurrent_kernel=None)

    def pointwise(self, params: Params, a: Gates, state: ElmanState) -> tuple[ElmanState, jax.Array]:
        """activation(LN(a) * scale + bias)."""
        normalized = _frugal_layer_norm(a[0], params.scale, params.bias, self.epsilon)
        h = self.update(frugal(self.activation)(normalized))
        return ElmanState(h), h


@dataclasses.dataclass(frozen=True, repr=False)
class _LayerNormCell(AffineCell):
    """Normalises both projections apart, each over the gates of a group together."""

    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jax.nn.sigmoid, kw_only=True)
    epsilon: float = dataclasses.field(default=1e-5, kw_only=True)

    params_type: ClassVar[type] = LayerNormCellParams
    _groups: ClassVar[tuple[int, ...]]
    output_part: ClassVar[str] = "h"

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters; every scale is one."""
        ones = jnp.ones(self.gates * self.hidden_size, dtype)
        return super().init(key, input_size, dtype)._replace(scale=ones, recurrent_scale=ones)

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """`LN(xs @ kernel) * scale + bias`: what the input is normalised by does not wait for the state."""
        return self._normalize(affine(xs, params.kernel), params.scale, params.bias)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        """`h @ recurrent_kernel`; the rest of the recurrent term is not linear, so `pointwise` has it."""
        return affine(h, params.recurrent_kernel)

    def other_params(self, params: Params) -> Params:
        """All but the kernels and what is the inputs' own."""
        return params._replace(kernel=None, recurrent_kernel=None, bias=None, scale=None)

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """Both, apart."""
        return *z, *u

    def _recurrent(self, params: Params, u: Gates) -> Gates:
        return self.split(self._normalize(jnp.concatenate(u, -1), params.recurrent_scale, params.recurrent_bias))

    def _normalize(self, a: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
        ends = list(itertools.accumulate(size * self.hidden_size for size in self._groups))[:-1]
        parts, scales = jnp.split(a, ends, axis=-1), jnp.split(scale, ends)
        biases = [None] * len(parts) if bias is None else jnp.split(bias, ends)
        norm = lambda *at: _frugal_layer_norm(*at, self.epsilon)  # noqa: E731
        return jnp.concatenate(list(map(norm, parts, scales, biases)), axis=-1)


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormLSTMCell(_LayerNormCell):
    """Long short-term memory with layer normalisation of both projections and of the cell state.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(LN(c') * cell_scale + cell_bias),

    where z = LN(x @ kernel) * scale + bias and u = LN(h @ recurrent_kernel) * recurrent_scale + recurrent_bias, with
    LN(a) = (a - mean(a)) / √(var(a) + epsilon) over all four gates together.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: what `init` adds to the forget gate's part of `bias`.
        activation: the nonlinearity of g and of the normalised c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        epsilon: what is added to each variance.
        bias: whether there is a `bias` and a `cell_bias`.
        recurrent_bias: whether the normalised recurrent projection has a bias of its own.
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
        """Draws the parameters, with `forget_bias` added to the forget gate's bias; every scale is one."""
        size, params = self.hidden_size, self.shifted(super().init(key, input_size, dtype), 1, self.forget_bias)
        cell_bias = jnp.zeros(size, dtype) if self.bias else None
        return params._replace(cell_scale=jnp.ones(size, dtype), cell_bias=cell_bias)

    def pointwise(self, params: Params, a: Gates, state: LSTMState) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        gate, activation = frugal(self.gate_activation), frugal(self.activation)

        # For its derivative this keeps what goes in and works out c and all that is done to it again.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def mix(gates: Gates, c: jax.Array, params: Params) -> tuple[jax.Array, jax.Array]:
            i, f, g, o = gates
            c = f * c + i * g
            return o * activation(_layer_norm(c, params.cell_scale, params.cell_bias, self.epsilon)), c

        i, f, g, o = map(jnp.add, a[:4], self._recurrent(params, a[4:]))
        h, c = mix((gate(i), gate(f), self.update(activation(g)), gate(o)), state.c, params)
        return LSTMState(h, c), h


@dataclasses.dataclass(frozen=True, repr=False)
class LayerNormGRUCell(_LayerNormCell):
    """The gated recurrent unit with layer normalisation of both projections.

    r = σ(z_r + u_r),  z = σ(z_z + u_z),  n = tanh(z_n + r * u_n)
    h' = (1 - z) * n + z * h,

    where z_* = LN(x @ kernel) * scale + bias and u_* = LN(h @ recurrent_kernel) * recurrent_scale + recurrent_bias,
    with LN(a) = (a - mean(a)) / √(var(a) + epsilon) over r and z together, and over n by itself. As in the paper, the
    reset gate acts after the product and its normalisation; the paper's update gate is 1 - z.

    Args:
        hidden_size: the number of features H of the state.
        activation: the nonlinearity of the candidate n.
        gate_activation: the nonlinearity of the gates r and z.
        epsilon: what is added to each variance.
        bias: whether there is a `bias`.
        recurrent_bias: whether the normalised recurrent projection has a bias of its own; `None` for one if `bias`.
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
        Ba et al., Layer normalization (supplementary material), 2016, https://arxiv.org/abs/1607.06450
    """

    recurrent_bias: bool | None = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]

    gates: ClassVar[int] = 3
    state_type: ClassVar[type] = GRUState
    _groups: ClassVar[tuple[int, ...]] = (2, 1)

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the parameters hold a `recurrent_bias`."""
        return self.bias if self.recurrent_bias is None else self.recurrent_bias

    def pointwise(self, params: Params, a: Gates, state: GRUState) -> tuple[GRUState, jax.Array]:
        """The gates, the candidate and their mixture."""
        gate, (u_r, u_z, u_n) = frugal(self.gate_activation), self._recurrent(params, a[3:])
        n = self.update(frugal(self.activation)(a[2] + gate(a[0] + u_r) * u_n))
        h = mixture(gate(a[1] + u_z), state.h, n)
        return GRUState(h), h
