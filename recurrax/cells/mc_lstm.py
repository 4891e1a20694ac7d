"""The mass-conserving LSTM: what flows in is stored or flows out."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._arguments import SIZE
from recurrax._dtype import widened
from recurrax._layer import INITIALIZER, Cell, Gate, Initializer
from recurrax.cells.affine import affine, draw_gates, gate_of


class MCLSTMParams(NamedTuple):
    """Parameters of an `MCLSTMCell`, for M mass inputs and A auxiliary inputs; G = M + H + 1.

    The gates come in this order: M input gates, one for each mass input; H redistribution gates,
    one for each unit that gives; the output gate.

    Attributes:
        kernel: `[A, G*H]`.
        recurrent_kernel: `[H, G*H]`, from the shares of the units in the stored mass.
        bias: `[G*H]`.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array


class MCLSTMState(NamedTuple):
    """State of an `MCLSTMCell`.

    Attributes:
        c: the stored mass of each unit, `[*B, H]`.
    """

    c: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class MCLSTMCell(Cell):
    """The mass-conserving LSTM: the mass that flows in is stored, or it flows out.

    The first M features of an input are masses x, such as rain. The other features are auxiliary
    inputs a, such as temperatures. They only set the gates, and may be absent:

    s = c / Σ abs(c)
    I = softmax(a @ W_I + s @ U_I + b_I),  R = softmax(a @ W_R + s @ U_R + b_R)
    o = σ(a @ W_o + s @ U_o + b_o)
    m = x @ I + c @ R
    h' = o * m,  c' = m - h'

    Each row of I `[M, H]` and of R `[H, H]` sums to 1. So for each step, Σ c' + Σ h' = Σ c + Σ x.
    The output h' is the mass that leaves each unit. An empty store, c = 0, has s = 0.
    The cell takes no `Zoneout`: a store that keeps its old value would make mass.

    These sums and products are in float32 at least, and in the full precision of an accelerator.
    Inputs in bfloat16 are rounded before. Then the rounded mass is conserved.

    There are (A + H + 1) * (M + H + 1) * H parameters. The derivative stores R of each step, so
    `remat` of `scan` saves much memory here.

    Args:
        hidden_size: the number of units H.
        mass_size: the number M of mass inputs.
        output_bias: the number that `init` adds to the output gate's part of `bias`. At first a
            unit then gives away one part in 20.
        kernel_init: draws each gate of `kernel`, `[A, H]`; Glorot uniform by default.
        recurrent_kernel_init: draws each gate of `recurrent_kernel`, `[H, H]`; orthogonal by
            default.
        bias_init: draws each gate of `bias`; zeros by default. `init` adds 1 where a unit keeps its
            own mass, as the authors do.
        dtype: the dtype of the products that set the gates; `None` follows the parameters and the
            inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive; at `init`, if there are fewer inputs than
            `mass_size`.

    Example:
        Rain, and three other variables of the weather:

        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.MCLSTMCell(4, mass_size=1)
        >>> params = cell.init(jax.random.key(0), input_size=4)
        >>> xs = jnp.ones((2, 7, 4))
        >>> state, ys = recurrax.scan(cell, params, xs)
        >>> ys.shape, state.c.shape
        ((2, 7, 4), (2, 4))
        >>> bool(jnp.allclose(ys.sum((1, 2)) + state.c.sum(1), xs[..., 0].sum(1)))
        True

    References:
        Hoedt et al., MC-LSTM: mass-conserving LSTM, 2021, https://arxiv.org/abs/2101.05186
    """

    mass_size: int = dataclasses.field(metadata=SIZE)
    output_bias: float = -3.0
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )
    recurrent_kernel_init: Initializer = dataclasses.field(
        default=initializers.orthogonal, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    def output_size(self, input_size: int) -> int:
        """`hidden_size`."""
        self._auxiliary_size(input_size)
        return self.hidden_size

    def _auxiliary_size(self, input_size: int) -> int:
        """The number A of auxiliary inputs."""
        if input_size < self.mass_size:
            raise ValueError(
                f"`input_size` of {self} must be at least {self.mass_size}, its `mass_size`; "
                f"got {input_size}."
            )
        return input_size - self.mass_size

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> MCLSTMParams:
        """Draws the parameters; the bias prefers that a unit keeps its own mass."""
        auxiliary, size = self._auxiliary_size(input_size), self.hidden_size
        # One gate for each source of mass, and the output gate.
        gates = self.mass_size + size + 1
        keys = jax.random.split(key, 3)
        # An initializer may divide by the number of inputs.
        kernel = jnp.zeros((0, gates * size), dtype)
        if auxiliary:
            kernel = draw_gates(self.kernel_init, keys[0], gates, (auxiliary, size), dtype)
        recurrent_kernel = draw_gates(
            self.recurrent_kernel_init, keys[1], gates, (size, size), dtype
        )
        bias = draw_gates(self.bias_init, keys[2], gates, (size,), dtype)
        # Row by row: M gates of inputs, H gates of units, and the output gate.
        shift = jnp.concatenate(
            [
                jnp.zeros((self.mass_size, size), dtype),
                jnp.eye(size, dtype=dtype),
                jnp.full((1, size), self.output_bias, dtype),
            ]
        )
        return MCLSTMParams(kernel, recurrent_kernel, bias + shift.ravel())

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> MCLSTMState:
        """Empty stores: zeros, `[*B, H]`."""
        return MCLSTMState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params: MCLSTMParams, xs: jax.Array) -> jax.Array:
        """The masses `[..., M]`, then the share of the inputs in all gates `[..., G*H]`."""
        masses, auxiliary = jnp.split(xs, [self.mass_size], axis=-1)
        zs = affine(auxiliary, params.kernel, params.bias)
        return jnp.concatenate([masses, zs], axis=-1)

    def step(
        self, params: MCLSTMParams, state: MCLSTMState, z: jax.Array
    ) -> tuple[MCLSTMState, jax.Array]:
        """Sets the gates, distributes the mass, and lets a part of it out."""
        masses, a = self._preactivations(params, state.c, z)
        h, c = self._distribute(a, masses, state.c)
        return MCLSTMState(c), h

    def gate_values(self, params: MCLSTMParams, state: MCLSTMState, xs: Any) -> dict[str, Gate]:
        """The output gate. The other gates are matrices."""
        _, a = self._preactivations(params, state.c, self.project_inputs(params, xs))
        return {"output": gate_of(jax.nn.sigmoid, widened(a[..., -self.hidden_size :]))}

    def _preactivations(
        self, params: MCLSTMParams, c: jax.Array, z: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The masses `[*B, M]`, and the pre-activations of all gates."""
        masses, z = jnp.split(z, [self.mass_size], axis=-1)
        stored = jnp.sum(jnp.abs(c), axis=-1, keepdims=True)  # [*B, 1]
        # An empty store has no shares. A divisor of 1 makes them 0.
        share = c / jnp.where(stored == 0, jnp.ones_like(stored), stored)
        a = z.astype(c.dtype) + affine(share, params.recurrent_kernel)  # [*B, G*H]
        return masses, a

    # The derivative stores the arguments and computes I and R again.
    @functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(0,))
    def _distribute(
        self, a: jax.Array, masses: jax.Array, c: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The mass that leaves, and the mass that stays, each `[*B, H]`."""
        a, masses, c = widened(a), widened(masses), widened(c)
        rows, output = jnp.split(a, [a.shape[-1] - self.hidden_size], axis=-1)
        # I above R, [*B, M + H, H]: each row says where the mass of one source goes.
        sources = self.mass_size + self.hidden_size
        rows = rows.reshape(*rows.shape[:-1], sources, self.hidden_size)
        rows = jax.nn.softmax(rows, axis=-1)
        given = jnp.concatenate([masses.astype(c.dtype), c], axis=-1)  # [*B, M + H]
        # Rounded products would lose mass.
        highest = lax.Precision.HIGHEST
        m = jnp.einsum("...s,...sh->...h", given, rows.astype(c.dtype), precision=highest)
        h = jax.nn.sigmoid(output) * m
        # The difference conserves mass better than (1 - o) * m.
        return h, m - h
