"""The real-gated linear recurrent unit of Griffin."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._check import check_input_size
from recurrax._dtype import widened
from recurrax._layer import INITIALIZER, Gate, Initializer
from recurrax.cells._activation import keeps_output
from recurrax.cells.affine import broadcast_to_rank, draw_parts, gate_of
from recurrax.cells.linear import Coefficients, LinearCell


class RGLRUParams(NamedTuple):
    """Parameters of an `RGLRUCell`, with N heads of D = H / N features each.

    Attributes:
        log_decay: Λ, `[H]`. Where r is 1, the decay is exp(-c * softplus(Λ)).
        kernel: `[N, D, 2*D]`: for each head, from its features to its part of the gates, in the
            order r, i.
        bias: `[N, 2*D]`.
    """

    log_decay: jax.Array
    kernel: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class RGLRUCell(LinearCell):
    """The real-gated linear recurrent unit: a moving average of each feature, at a rate from gates.

    r = σ(x @ kernel_r + bias_r),  i = σ(x @ kernel_i + bias_i)
    log a = -c * softplus(Λ) * r
    h' = a * h + √(1 - a²) * i * x,

    where each head has its own products. The code computes 1 - a² as -expm1(2 log a), which keeps
    its digits where a is near 1. The inputs must have H features.

    A reset sets h to zero and changes nothing else in the step: h' = √(1 - a²) * i * x.
    `recurrentgemma` does not scale the input at position 0 of a segment: h' = i * x. To continue
    after such a step, give its h as the state.

    Args:
        hidden_size: the number of features H of the input, the state and the output.
        num_heads: the number N of heads.
        min_radius: the least decay at first where r is 1, a = exp(-c * softplus(Λ)).
        max_radius: the greatest decay at first where r is 1. As in the paper, `init` draws these
            decays between both radii. `recurrentgemma` draws the decays to the power of 1/c.
        c: the constant of the decay.
        kernel_init: draws `[D, D]` for each gate of each head; LeCun normal by default.
        bias_init: draws `[D]` for each gate of each head; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` or `c` is not positive, `num_heads` does not divide
            `hidden_size`, or not 0 < min_radius <= max_radius < 1 in float32. `init` raises it if
            the inputs do not have H features.

    Example:
        Griffin's recurrent block and its feed-forward block. The recurrent block multiplies two
        branches: a short convolution with the unit, and a gate.

        >>> import jax, recurrax as rx
        >>> recurrent = rx.Stack((rx.Dense(12), rx.CausalConv(12), rx.RGLRUCell(12, num_heads=2)))
        >>> gated = rx.Gated(recurrent, rx.Dense(12, jax.nn.gelu))
        >>> network = rx.Stack((rx.Gated(rx.Dense(24), rx.Dense(24, jax.nn.gelu)), rx.Dense(8)))
        >>> block = rx.Stack(
        ...     (
        ...         rx.Residual(rx.Stack((rx.RMSNorm(), gated, rx.Dense(8)))),
        ...         rx.Residual(rx.Stack((rx.RMSNorm(), network))),
        ...     )
        ... )
        >>> params = block.init(jax.random.key(0), input_size=8)
        >>> rx.scan(block, params, jax.numpy.ones((2, 7, 8)), implementation="associative")[1].shape
        (2, 7, 8)

    References:
        De et al., Griffin: mixing gated linear recurrences with local attention for efficient
        language models, 2024, https://arxiv.org/abs/2402.19427
    """

    num_heads: int = 1
    min_radius: float = dataclasses.field(default=0.9, kw_only=True)
    max_radius: float = dataclasses.field(default=0.999, kw_only=True)
    c: float = dataclasses.field(default=8.0, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.lecun_normal, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    exact: ClassVar[tuple[str, ...]] = ("log_decay",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide `hidden_size` {self.hidden_size}; got {self.num_heads}."
            )
        # `init` draws the decays in float32. There 0 and 1 have no finite Λ.
        low, high = np.float32(self.min_radius), np.float32(self.max_radius)
        if not 0 < low <= high < 1:
            raise ValueError(
                "`min_radius` and `max_radius` must be "
                "0 < min_radius <= max_radius < 1 in float32; "
                f"got {self.min_radius} and {self.max_radius}."
            )
        if not 0 < self.c < math.inf:
            raise ValueError(f"`c` must be above 0 and finite; got {self.c}.")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> RGLRUParams:
        """Draws the decays, and the gates of each head."""
        check_input_size(self, input_size, self.hidden_size)
        keys, size = jax.random.split(key, 3), self.hidden_size // self.num_heads

        def draw_heads(initializer: Initializer, key: jax.Array, *shape: int) -> jax.Array:
            heads = []
            # Each head draws its part of r, then its part of i.
            for pair in jax.random.split(key, (self.num_heads, 2)):
                heads.append(draw_parts(initializer, pair, [shape, shape], dtype))
            return jnp.stack(heads)

        decay = jax.random.uniform(
            keys[0], (self.hidden_size,), minval=self.min_radius, maxval=self.max_radius
        )
        rate = -jnp.log(decay) / self.c
        return RGLRUParams(
            # softplus(Λ) = rate, so Λ = log(exp(rate) - 1). Here exp(rate) may overflow.
            log_decay=(rate + jnp.log(-jnp.expm1(-rate))).astype(dtype),
            kernel=draw_heads(self.kernel_init, keys[1], size, size),
            bias=draw_heads(self.bias_init, keys[2], size),
        )

    def project_inputs(self, params: RGLRUParams, xs: jax.Array) -> Coefficients:
        """The gates, the decay and the scaled input of every step."""
        r, i = map(keeps_output(jax.nn.sigmoid), self._preactivations(params, xs))
        log_a = -broadcast_to_rank(self.c * jax.nn.softplus(widened(params.log_decay)), r) * r
        # At 0 the root has no derivative, and r may be 0 in floating point. The bound changes no
        # digit of h.
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-24))
        return Coefficients(jnp.exp(log_a), scale * i * widened(xs))

    def gate_values(self, params: RGLRUParams, state: Any, xs: jax.Array) -> dict[str, Gate]:
        """The gates r and i."""
        r, i = self._preactivations(params, xs)
        return {"recurrence": gate_of(jax.nn.sigmoid, r), "input": gate_of(jax.nn.sigmoid, i)}

    def _preactivations(self, params: RGLRUParams, xs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pre-activations of r and i, each `[..., H]`."""
        # [..., N, D] @ [N, D, 2*D], head by head.
        heads = xs.reshape(*xs.shape[:-1], *params.kernel.shape[:2])
        gates = jnp.einsum("...nd,ndg->...ng", heads, params.kernel)
        gates = widened(gates + broadcast_to_rank(params.bias, gates))
        r, i = jnp.split(gates, 2, axis=-1)
        return r.reshape(xs.shape), i.reshape(xs.shape)
