"""Long short-term memory, with and without a projection of its output."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._arguments import OPTIONAL_SIZE
from recurrax._layer import Gate
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import AffineCell, Gates, Update, affine, gate_of, unchanged


class LSTMParams(NamedTuple):
    """Parameters of an `LSTMCell`; P is `proj_size`, or H without a projection.

    Attributes:
        kernel: `[I, 4*H]`, gates in the order i, f, g, o.
        recurrent_kernel: `[P, 4*H]`.
        bias: `[4*H]`, or None.
        recurrent_bias: `[4*H]`, or None.
        projection_kernel: `[H, P]`, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    projection_kernel: jax.Array | None = None


class LSTMState(NamedTuple):
    """State of an `LSTMCell`.

    Attributes:
        h: the output of the last step, `[*B, H]`, or `[*B, P]` with a projection.
        c: the cell state, `[*B, H]`.
    """

    h: jax.Array
    c: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class LSTMCell(AffineCell):
    """Long short-term memory with a forget gate: the `LSTM` of PyTorch and Keras.

    i = σ(z_i + u_i),  f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + i * g
    h' = o * tanh(c'), and h' @ projection_kernel if `proj_size` is positive,

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias.

    There are 4 * H * (I + H + b) parameters without a projection, with b biases: one by default, as
    in Keras. PyTorch has two, `recurrent_bias=True`. Only the sum of both biases counts, so an LSTM
    with one bias computes the same functions.

    Args:
        hidden_size: the number of features H of the cell state.
        proj_size: the number of features P of the output, below H; 0 for no projection.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`. The equations
            do not use it, and without `bias` it has no effect.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias, as in PyTorch.
        kernel_init: draws each gate of `kernel`, and `projection_kernel`; Glorot uniform by
            default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if `hidden_size` is not positive, or `proj_size` is negative or not below
            `hidden_size`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.LSTMCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.h.shape, state.c.shape
        ((2, 7, 4), (2, 4), (2, 4))

        The number of parameters, on 5 features:

        >>> recurrax.num_params(recurrax.LSTMCell(10), input_size=5)  # Keras
        640
        >>> recurrax.num_params(recurrax.LSTMCell(10, recurrent_bias=True), input_size=5)  # PyTorch
        680

    References:
        Hochreiter and Schmidhuber, Long short-term memory, 1997,
        https://doi.org/10.1162/neco.1997.9.8.1735

        Gers et al., Learning to forget, 2000, https://doi.org/10.1162/089976600300015015

        Sak et al., Long short-term memory based recurrent neural network architectures for large
        vocabulary speech recognition (the projection), 2014, https://arxiv.org/abs/1402.1128
    """

    proj_size: int = dataclasses.field(default=0, metadata=OPTIONAL_SIZE)
    forget_bias: float = 1.0
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jax.nn.sigmoid, kw_only=True
    )

    gates: ClassVar[int] = 4
    params_type: ClassVar[type] = LSTMParams
    state_type: ClassVar[type] = LSTMState
    output_part: ClassVar[str] = "h"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"`proj_size` must be below `hidden_size` {self.hidden_size}, "
                f"or 0 for no projection; got {self.proj_size}."
            )

    def output_size(self, input_size: int) -> int:
        """`proj_size` if there is a projection, else `hidden_size`."""
        return self.proj_size or self.hidden_size

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> LSTMParams:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, projection_key = jax.random.split(key)
        # Gate 1 is the forget gate.
        params = self.shifted(super().init(key, input_size, dtype), 1, self.forget_bias)
        if self.proj_size:
            # The draw has PyTorch's layout, [P, H], because `torch_uniform` reads H from the last
            # axis.
            projection = self.kernel_init(
                projection_key, (self.proj_size, self.hidden_size), jnp.float32
            )
            params = params._replace(projection_kernel=projection.T.astype(dtype))
        return params

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> LSTMState:
        """Zeros: h `[*B, P]` and c `[*B, H]`."""
        return LSTMState(
            h=jnp.zeros((*batch_shape, self.proj_size or self.hidden_size), dtype),
            c=jnp.zeros((*batch_shape, self.hidden_size), dtype),
        )

    def pointwise(
        self, params: LSTMParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        gate, activation = keeps_output(self.gate_activation), keeps_output(self.activation)

        # The derivative stores the arguments and computes c and its activation again: one array
        # fewer.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def mix(gates: Gates, c: jax.Array) -> tuple[jax.Array, jax.Array]:
            i, f, g, o = gates
            c = f * c + i * g
            return o * activation(c), c

        i, f, g, o = a
        h, c = mix((gate(i), gate(f), update(activation(g)), gate(o)), state.c)
        if params.projection_kernel is not None:
            h = affine(h, params.projection_kernel)
        return LSTMState(h, c), h

    def pointwise_gates(
        self, params: LSTMParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates i, f and o, and the candidate g."""
        i, f, g, o = a
        return {
            "input": gate_of(self.gate_activation, i),
            "forget": gate_of(self.gate_activation, f),
            "cell": gate_of(self.activation, g),
            "output": gate_of(self.gate_activation, o),
        }
