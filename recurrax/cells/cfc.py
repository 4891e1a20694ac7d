"""The closed-form continuous-time cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._arguments import SIZE
from recurrax._layer import INITIALIZER, Cell, Gate, Initializer
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import affine, gate_of
from recurrax.cells.timed import TimedInputs, elapsed, timed


def lecun_tanh(x: jax.Array) -> jax.Array:
    """1.7159 * tanh(0.666 * x), with the constants of the authors of `CfCCell`.

    Args:
        x: an array.

    Returns:
        An array of the same shape.

    Example:
        >>> from recurrax.cells.cfc import lecun_tanh
        >>> round(float(lecun_tanh(1.0)), 2)
        1.0

    References:
        LeCun et al., Efficient backprop, 1998, https://doi.org/10.1007/3-540-49430-8_2
    """
    return 1.7159 * keeps_output(jnp.tanh)(0.666 * x)


class Affine(NamedTuple):
    """Parameters of one affine map in a step of a `CfCCell`.

    Attributes:
        kernel: `[U, U]`, or `[U, 4*H]` for the last.
        bias: `[U]`, or `[4*H]`.
    """

    kernel: jax.Array
    bias: jax.Array


class CfCParams(NamedTuple):
    """Parameters of a `CfCCell`; U is `backbone_size`, or 4*H without a backbone.

    Attributes:
        kernel: `[I, U]`. Without a backbone the columns belong to f, g, a and b, in this order.
        recurrent_kernel: `[H, U]`.
        bias: `[U]`.
        maps: an `Affine` behind each layer of the backbone. The last one leads to f, g, a and b.
    """

    kernel: jax.Array
    recurrent_kernel: jax.Array
    bias: jax.Array
    maps: tuple[Affine, ...] = ()


class CfCState(NamedTuple):
    """State of a `CfCCell`.

    Attributes:
        h: the output of the last step, `[*B, H]`.
    """

    h: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class CfCCell(Cell):
    """The closed-form continuous-time cell, in its gated form: any time between steps, no solver.

    f, g, a, b = split(backbone(x @ kernel + h @ recurrent_kernel + bias), 4)
    t = σ(a * dt + b)
    h' = (1 - t) * tanh(f) + t * tanh(g),

    where the backbone alternates activations and affine maps. Inputs are `TimedInputs`, or features
    with dt = 1.

    Args:
        hidden_size: the number of features H of the state.
        backbone_size: the number of features U of a layer of the backbone.
        backbone_layers: the number of layers of the backbone. With 0 layers, f, g, a and b are
            affine in x and h.
        activation: the nonlinearity of the backbone.
        kernel_init: draws `kernel` and `recurrent_kernel` as one array `[I + H, U]`, and each
            further map; Glorot uniform by default.
        bias_init: draws each bias; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if a size is not an int.
        ValueError: if a size is not positive or `backbone_layers` is negative. `scan` raises it if
            `dt` is not one number for each step.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> cell = recurrax.CfCCell(4, backbone_size=16)
        >>> params = cell.init(jax.random.key(0), input_size=3)
        >>> xs = recurrax.cells.TimedInputs(jnp.ones((2, 7, 3)), dt=jnp.full((2, 7), 0.5))
        >>> state, ys = recurrax.scan(cell, params, xs, lengths=jnp.array([7, 5]))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))

    References:
        Hasani et al., Closed-form continuous-time neural networks, 2022,
        https://doi.org/10.1038/s42256-022-00556-7
    """

    backbone_size: int = dataclasses.field(default=128, metadata=SIZE)
    backbone_layers: int = 1
    activation: Callable[[jax.Array], jax.Array] = dataclasses.field(
        default=lecun_tanh, kw_only=True
    )
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    output_part: ClassVar[str] = "h"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone_layers < 0:
            raise ValueError(f"`backbone_layers` must be at least 0; got {self.backbone_layers}.")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> CfCParams:
        """Draws the maps; the first map is one draw for x and h."""
        size = self.hidden_size
        widths = [input_size + size, *[self.backbone_size] * self.backbone_layers, 4 * size]

        def draw(key: jax.Array, depth: int) -> Affine:
            # The last map holds four maps: f, g, a and b. Each of them is one draw.
            parts = 1
            if depth == self.backbone_layers:
                parts = 4
            ins, outs = widths[depth], widths[depth + 1] // parts
            keys = jax.random.split(key, 2 * parts)
            kernels = [self.kernel_init(k, (ins, outs), jnp.float32) for k in keys[:parts]]
            biases = [self.bias_init(k, (outs,), jnp.float32) for k in keys[parts:]]
            return Affine(
                jnp.concatenate(kernels, axis=-1).astype(dtype),
                jnp.concatenate(biases).astype(dtype),
            )

        keys = jax.random.split(key, len(widths) - 1)
        first, *maps = (draw(k, depth) for depth, k in enumerate(keys))
        # The rows of x come before the rows of h.
        kernel, recurrent_kernel = first.kernel[:input_size], first.kernel[input_size:]
        return CfCParams(kernel, recurrent_kernel, first.bias, tuple(maps))

    @property
    def reads_time(self) -> bool:
        """True: the step depends on the elapsed time."""
        return True

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> CfCState:
        """Zeros, `[*B, H]`."""
        return CfCState(jnp.zeros((*batch_shape, self.hidden_size), dtype))

    def project_inputs(self, params: CfCParams, xs: jax.Array | TimedInputs) -> TimedInputs:
        """`x @ kernel + bias`, with the same times."""
        x, dt = timed(xs)
        return TimedInputs(affine(x, params.kernel, params.bias), dt)

    def step(
        self, params: CfCParams, state: CfCState, z: TimedInputs
    ) -> tuple[CfCState, jax.Array]:
        """The backbone, then the mixture of f and g by time."""
        tanh = keeps_output(jnp.tanh)
        f, g, time = self._backbone(params, state.h, z)
        # The gate t moves from f to g as time passes.
        t = keeps_output(jax.nn.sigmoid)(time)
        h = (1 - t) * tanh(f) + t * tanh(g)
        return CfCState(h), h

    def gate_values(
        self, params: CfCParams, state: CfCState, xs: jax.Array | TimedInputs
    ) -> dict[str, Gate]:
        """The gate t."""
        *_, time = self._backbone(params, state.h, self.project_inputs(params, xs))
        return {"time": gate_of(jax.nn.sigmoid, time)}

    def _backbone(
        self, params: CfCParams, h: jax.Array, z: TimedInputs
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The pre-activations of f, g and t."""
        a = z.x.astype(h.dtype) + affine(h, params.recurrent_kernel)
        for layer in params.maps:
            a = affine(self.activation(a), *layer)
        f, g, time_a, time_b = jnp.split(a, 4, axis=-1)
        return f, g, time_a * elapsed(z.dt, h.dtype) + time_b
