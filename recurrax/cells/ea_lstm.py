"""The entity-aware LSTM: static inputs, such as the attributes of a river basin, set a gate."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._arguments import SIZE, describe
from recurrax._dtype import promote
from recurrax._layer import Gate
from recurrax._params import Memory
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import AffineCell, Gates, Update, affine, gate_of, unchanged
from recurrax.cells.lstm import LSTMState


class EALSTMParams(NamedTuple):
    """Parameters of an `EALSTMCell`, for S static inputs.

    Attributes:
        kernel: `[I, 3*H]`, gates in the order f, g, o.
        recurrent_kernel: `[H, 3*H]`.
        bias: `[3*H]`, or None.
        recurrent_bias: `[3*H]`, or None.
        static_kernel: `[S, H]`, of the input gate.
        static_bias: `[H]`, or None.
        memory: None after `init`; `with_memory` sets it. Its values are the input gate, `[*B, H]`.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    static_kernel: jax.Array | None = None
    static_bias: jax.Array | None = None
    memory: Memory | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class EALSTMCell(AffineCell):
    """The entity-aware LSTM of hydrology: the static inputs of a sequence set its input gate.

    i = σ(s @ static_kernel + static_bias), once a sequence
    f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'),

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias. x are the dynamic
    inputs of a step, such as the weather. s are the static inputs of the sequence, such as the
    attributes of a basin: `[*B, S]`, one row for each sequence.

    The static inputs are constant over time, so they stand beside the parameters, as the memory of
    an attention layer does. `recurrax.layers.with_memory(params, static)` computes the input gate,
    once. Call it within the function that you differentiate. In Flax, give them as
    `model(xs, memory=static)`. The layer may stand anywhere in a `Stack`.

    Args:
        hidden_size: the number of features H of the state.
        static_size: the number S of static inputs.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        bias: whether the input projection and the input gate have a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`, and `static_kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive. At the call, if the parameters hold no static inputs,
            or static inputs with other batch axes.

    Example:
        Two basins with three attributes each, and seven days of five weather variables:

        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.EALSTMCell(4, static_size=3)
        >>> params = cell.init(jax.random.key(0), input_size=5)
        >>> static, xs = jnp.ones((2, 3)), jnp.ones((2, 7, 5))
        >>> state, ys = recurrax.scan(cell, recurrax.layers.with_memory(params, static), xs)
        >>> ys.shape, state.c.shape
        ((2, 7, 4), (2, 4))

    References:
        Kratzert et al., Towards learning universal, regional, and local hydrological behaviors via
        machine learning applied to large-sample datasets, 2019,
        https://doi.org/10.5194/hess-23-5089-2019
    """

    static_size: int = dataclasses.field(metadata=SIZE)
    forget_bias: float = 1.0

    gates: ClassVar[int] = 3
    params_type: ClassVar[type] = EALSTMParams
    state_type: ClassVar[type] = LSTMState
    output_part: ClassVar[str] = "h"

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> EALSTMParams:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, static_key, bias_key = jax.random.split(key, 3)
        # Gate 0 is the forget gate.
        params = self.shifted(super().init(key, input_size, dtype), 0, self.forget_bias)
        kernel = self.kernel_init(static_key, (self.static_size, self.hidden_size), jnp.float32)
        params = params._replace(static_kernel=kernel.astype(dtype))
        if self.bias:
            bias = self.bias_init(bias_key, (self.hidden_size,), jnp.float32)
            params = params._replace(static_bias=bias.astype(dtype))
        return params

    def pointwise(
        self, params: EALSTMParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        sigmoid, tanh = keeps_output(jax.nn.sigmoid), keeps_output(jnp.tanh)

        # The derivative stores the arguments and computes c and its activation again.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def mix(gates: Gates, c: jax.Array) -> tuple[jax.Array, jax.Array]:
            i, f, g, o = gates
            c = f * c + i * g
            return o * tanh(c), c

        i = self._input_gate(params.memory, state.c)
        f, g, o = a
        h, c = mix((i, sigmoid(f), update(tanh(g)), sigmoid(o)), state.c)
        return LSTMState(h, c), h

    def pointwise_gates(
        self, params: EALSTMParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates f and o, and the candidate g. The input gate is the same at every step."""
        f, g, o = a
        return {
            "forget": gate_of(jax.nn.sigmoid, f),
            "cell": gate_of(jnp.tanh, g),
            "output": gate_of(jax.nn.sigmoid, o),
        }

    def _input_gate(self, memory: Memory | None, c: jax.Array) -> jax.Array:
        """The input gate with the axes of c; absent axes become 1."""
        if memory is None:
            raise ValueError(
                f"`params` of {self} must hold static inputs; got none. "
                "Write `params = recurrax.layers.with_memory(params, static)` first."
            )
        i = memory.values
        # Absent axes come first, as in NumPy's rule for shapes.
        missing = c.ndim - i.ndim
        expanded = (1,) * missing + i.shape
        # An axis of 1 is shared by all rows.
        fits = len(expanded) == c.ndim
        for size, wanted in zip(expanded, c.shape, strict=False):
            fits = fits and size in (1, wanted)
        if not fits:
            rows = ", ".join(map(str, c.shape[:-1]))
            raise ValueError(
                f"the static inputs of {self} must have the batch axes of its inputs, [{rows}]; "
                f"got [{', '.join(map(str, i.shape[:-1]))}]."
            )
        return jnp.expand_dims(i, tuple(range(missing))).astype(c.dtype)


def with_static(params: EALSTMParams, static: Any) -> EALSTMParams:
    """The parameters with the input gate of these static inputs, `[*B, S]`, as their memory."""
    static = jnp.asarray(static)
    assert params.static_kernel is not None
    size = params.static_kernel.shape[0]
    must = f"the static inputs must be [*B, {size}], the `static_size` of the EALSTMCell"
    if not jnp.issubdtype(static.dtype, jnp.floating):
        raise TypeError(f"{must}, of a floating dtype; got {describe(static)}.")
    if static.ndim < 1 or static.shape[-1] != size:
        raise ValueError(f"{must}; got {describe(static)}.")
    # The product is here, so that it is computed once for all steps.
    dtype = promote(static.dtype, params.static_kernel.dtype)
    kernel = params.static_kernel.astype(dtype)
    a = affine(static.astype(dtype), kernel, params.static_bias)  # [*B, H]
    return params._replace(memory=Memory(jax.nn.sigmoid(a)))
