"""LSTMs with peepholes from the cell state, or with one gate for input and forgetting."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._layer import INITIALIZER, Gate, Initializer, Params
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import AffineCell, Gates, Update, affine, gate_of, unchanged
from recurrax.cells.lstm import LSTMCell, LSTMState


class PeepholeLSTMParams(NamedTuple):
    """Parameters of a `PeepholeLSTMCell`; P is `proj_size`, or H without a projection.

    Attributes:
        kernel: `[I, 4*H]`, gates in the order i, f, g, o.
        recurrent_kernel: `[P, 4*H]`.
        bias: `[4*H]`, or None.
        recurrent_bias: `[4*H]`, or None.
        projection_kernel: `[H, P]`, or None.
        peephole: `[3, H]`, for the gates i, f and o.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    projection_kernel: jax.Array | None = None
    peephole: jax.Array | None = None


class CIFGParams(NamedTuple):
    """Parameters of a `CIFGCell`.

    Attributes:
        kernel: `[I, 3*H]`, gates in the order f, g, o.
        recurrent_kernel: `[H, 3*H]`.
        bias: `[3*H]`, or None.
        recurrent_bias: `[3*H]`, or None.
        peephole: `[2, H]`, for the gates f and o, or None.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array | None = None
    recurrent_bias: jax.Array | None = None
    peephole: jax.Array | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class PeepholeLSTMCell(LSTMCell):
    """Long short-term memory with peepholes: its gates see the cell state.

    i = σ(z_i + u_i + p_i * c),  f = σ(z_f + u_f + p_f * c),  g = tanh(z_g + u_g)
    c' = f * c + i * g, within ±cell_clip
    o = σ(z_o + u_o + p_o * c')
    h' = o * tanh(c'), and h' @ projection_kernel if `proj_size` is positive,

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias. p_i, p_f and p_o are
    the rows of `peephole`.

    Args:
        hidden_size: the number of features H of the cell state.
        proj_size: the number of features P of the output, below H; 0 for no projection.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates i, f and o.
        cell_clip: the largest magnitude of c'; None for no bound.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`, and `projection_kernel`; Glorot uniform by
            default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        peephole_init: draws `peephole`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if `hidden_size` or `cell_clip` is not positive, or `proj_size` is negative or
            not below `hidden_size`.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.PeepholeLSTMCell(4, cell_clip=3.0)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.c.shape, params.peephole.shape
        ((2, 7, 4), (2, 4), (3, 4))

    References:
        Gers and Schmidhuber, Recurrent nets that time and count, 2000,
        https://doi.org/10.1109/IJCNN.2000.861302

        Graves, Generating sequences with recurrent neural networks, 2013,
        https://arxiv.org/abs/1308.0850

        Sak et al., Long short-term memory based recurrent neural network architectures for large
        vocabulary speech recognition (with a projection), 2014, https://arxiv.org/abs/1402.1128
    """

    cell_clip: float | None = dataclasses.field(default=None, kw_only=True)
    peephole_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    params_type: ClassVar[type] = PeepholeLSTMParams

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_clip(self.cell_clip)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, peephole_key = jax.random.split(key)
        params: Params = super().init(key, input_size, dtype)
        peephole = self.peephole_init(peephole_key, (3, self.hidden_size), jnp.float32)
        return params._replace(peephole=peephole.astype(dtype))

    def pointwise(
        self, params: Params, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        h, c = _advance(self, params.peephole, a, state.c, update)
        if params.projection_kernel is not None:
            h = affine(h, params.projection_kernel)
        return LSTMState(h, c), h

    def pointwise_gates(
        self, params: Params, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates i, f and o, and the candidate g."""
        return _gates(self, ("input", "forget"), params.peephole, a, state.c, update)


@dataclasses.dataclass(frozen=True, repr=False)
class CIFGCell(AffineCell):
    """Long short-term memory with a coupled input and forget gate: the input gate is 1 - f.

    f = σ(z_f + u_f),  g = tanh(z_g + u_g),  o = σ(z_o + u_o)
    c' = f * c + (1 - f) * g, within ±cell_clip
    h' = o * tanh(c'),

    where z = x @ kernel + bias and u = h @ recurrent_kernel + recurrent_bias. With `peepholes`,

    f = σ(z_f + u_f + p_f * c),  o = σ(z_o + u_o + p_o * c')

    Greff et al. name the gate by the input, f = 1 - i. This is the same cell with the other sign
    for the gate's parameters.

    Args:
        hidden_size: the number of features H of the state.
        forget_bias: the number that `init` adds to the forget gate's part of `bias`.
        peepholes: whether the gates see the cell state.
        activation: the nonlinearity of g and of c'.
        gate_activation: the nonlinearity of the gates f and o.
        cell_clip: the largest magnitude of c'; None for no bound.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias.
        kernel_init: draws each gate of `kernel`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`; orthogonal by default.
        bias_init: draws each gate of each bias; zeros by default.
        peephole_init: draws `peephole`; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` or `cell_clip` is not positive.

    Example:
        >>> import jax, recurrax
        >>> cell = recurrax.CIFGCell(4)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> state, ys = recurrax.scan(cell, params, jax.numpy.ones((2, 7, 3)))
        >>> ys.shape, state.c.shape, params.kernel.shape
        ((2, 7, 4), (2, 4), (3, 12))

    References:
        Greff et al., LSTM: a search space odyssey, 2017, https://arxiv.org/abs/1503.04069
    """

    forget_bias: float = 1.0
    peepholes: bool = dataclasses.field(default=False, kw_only=True)
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(default=jnp.tanh, kw_only=True)
    gate_activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=jax.nn.sigmoid, kw_only=True
    )
    cell_clip: float | None = dataclasses.field(default=None, kw_only=True)
    peephole_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    gates: ClassVar[int] = 3
    params_type: ClassVar[type] = CIFGParams
    state_type: ClassVar[type] = LSTMState
    output_part: ClassVar[str] = "h"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_clip(self.cell_clip)

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> CIFGParams:
        """Draws the parameters, with `forget_bias` added to the forget gate's bias."""
        key, peephole_key = jax.random.split(key)
        params = super().init(key, input_size, dtype)
        # Gate 0 is the forget gate.
        params = self.shifted(params, 0, self.forget_bias)
        if self.peepholes:
            peephole = self.peephole_init(peephole_key, (2, self.hidden_size), jnp.float32)
            params = params._replace(peephole=peephole.astype(dtype))
        return params

    def pointwise(
        self, params: CIFGParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> tuple[LSTMState, jax.Array]:
        """The gates, the cell state and the output."""
        h, c = _advance(self, params.peephole, a, state.c, update)
        return LSTMState(h, c), h

    def pointwise_gates(
        self, params: CIFGParams, a: Gates, state: LSTMState, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates f and o, and the candidate g."""
        return _gates(self, ("forget",), params.peephole, a, state.c, update)


def _advance(
    cell: PeepholeLSTMCell | CIFGCell,
    peephole: jax.Array | None,
    a: Gates,
    c: jax.Array,
    update: Update,
) -> tuple[jax.Array, jax.Array]:
    """The new h and c.

    `a` holds the pre-activations i, f, g, o; or f, g, o if the input gate is 1 - f.
    """
    gate, activation = keeps_output(cell.gate_activation), keeps_output(cell.activation)

    # The derivative stores the arguments and computes c, its peephole and its activation again.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def mix(
        memory_gates: Gates, g: jax.Array, o: jax.Array, p: jax.Array | None, c: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        c = _new_memory(cell, memory_gates, g, c)
        # With a peephole, o is a pre-activation: its gate sees the new c.
        if p is not None:
            o = gate(o + p * c)
        return o * activation(c), c

    *memory_gates, g, o = a
    if peephole is None:
        return mix(tuple(map(gate, memory_gates)), update(activation(g)), gate(o), None, c)
    memory_gates, p_o = _peeping(peephole, memory_gates, c)
    return mix(tuple(map(gate, memory_gates)), update(activation(g)), o, p_o, c)


def _new_memory(
    cell: PeepholeLSTMCell | CIFGCell, memory_gates: Gates, g: jax.Array, c: jax.Array
) -> jax.Array:
    """The new c, from the values of the gates i and f, or of f alone."""
    *i, f = memory_gates
    # A coupled cell has no gate i.
    i = i or [1 - f]
    c = f * c + i[0] * g
    if cell.cell_clip is not None:
        c = jnp.clip(c, -cell.cell_clip, cell.cell_clip)
    return c


def _peeping(
    peephole: jax.Array, memory_gates: Sequence[jax.Array], c: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """The pre-activations of the gates of the memory, which see the old c; the peephole of o."""
    *peeps, p_o = jnp.expand_dims(peephole.astype(c.dtype), tuple(range(1, c.ndim)))
    return [x + p * c for x, p in zip(memory_gates, peeps, strict=True)], p_o


def _gates(
    cell: PeepholeLSTMCell | CIFGCell,
    names: tuple[str, ...],
    peephole: jax.Array | None,
    a: Gates,
    c: jax.Array,
    update: Update,
) -> dict[str, Gate]:
    """The gates by name. `names` are the names of the gates of the memory."""
    memory: Sequence[jax.Array]
    *memory, g, o = a
    if peephole is not None:
        memory, p_o = _peeping(peephole, memory, c)
    gates = {}
    for name, x in zip(names, memory, strict=True):
        gates[name] = gate_of(cell.gate_activation, x)
    candidate = gate_of(cell.activation, g)
    # The output gate sees the new c.
    if peephole is not None:
        values = tuple(gate.value for gate in gates.values())
        o = o + p_o * _new_memory(cell, values, update(candidate.value), c)
    return gates | {"cell": candidate, "output": gate_of(cell.gate_activation, o)}


def _check_clip(cell_clip: float | None) -> None:
    if cell_clip is not None and not cell_clip > 0:
        raise ValueError(f"`cell_clip` must be above 0, or None for no bound; got {cell_clip}.")
