"""The real-gated linear recurrent unit of Griffin."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._check import check_input_size
from recurrax._dtype import widened
from recurrax._layer import INITIALIZER, Initializer
from recurrax.cells._activation import frugal
from recurrax.cells.affine import along
from recurrax.cells.linear import Coefficients, LinearCell


class RGLRUParams(NamedTuple):
    """Parameters of an `RGLRUCell`, of which each of the N heads has D = H / N features.

    Attributes:
        log_decay: Λ, `[H]`; -softplus(Λ) is the logarithm of the decay to the power of 1/c where the gate r is open.
        kernel: `[N, D, 2*D]`, for each head from its own features to its own part of each gate, in the order r, i.
        bias: `[N, 2*D]`.
    """

    log_decay: jax.Array
    kernel: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True, repr=False)
class RGLRUCell(LinearCell):
    """The real-gated linear recurrent unit: each feature of the input is averaged at a rate that gates set.

    r = σ(x @ kernel_r + bias_r),  i = σ(x @ kernel_i + bias_i)
    log a = -c * softplus(Λ) * r
    h' = a * h + √(1 - a²) * i * x,

    where the products are head by head, and 1 - a² is -expm1(2 log a), which keeps its digits where a is near 1. The
    inputs must have H features.

    A reset sets h back to zero and leaves the rest of that step as it is: h' = √(1 - a²) * i * x. In `recurrentgemma`
    the input at position 0 of a segment is not scaled: h' = i * x there. To go on from such a step, give its h as the
    state.

    Args:
        hidden_size: the number of features H of the input, the state and the output.
        num_heads: the number N of heads.
        min_radius: the least decay at first where r is 1, a = exp(-c * softplus(Λ)).
        max_radius: the greatest decay at first where r is 1. The paper draws these decays from between both, as here;
            `recurrentgemma` draws their 1/c-th powers.
        c: the constant of the decay.
        kernel_init: draws `[D, D]` for each gate of each head; LeCun normal by default.
        bias_init: draws `[D]` for each gate of each head; zeros by default.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Raises:
        TypeError: if `hidden_size` is not an int.
        ValueError: if `hidden_size` or `c` is not positive, `num_heads` does not divide `hidden_size`, or not
            0 < min_radius <= max_radius < 1 in float32; at `init`, if the inputs have another number of features.

    Example:
        Griffin's recurrent block, a branch of which is a short convolution below the unit, the other a gate, and its
        residual layer:

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
        De et al., Griffin: mixing gated linear recurrences with local attention for efficient language models, 2024,
        https://arxiv.org/abs/2402.19427
    """

    num_heads: int = 1
    min_radius: float = dataclasses.field(default=0.9, kw_only=True)
    max_radius: float = dataclasses.field(default=0.999, kw_only=True)
    c: float = dataclasses.field(default=8.0, kw_only=True)
    kernel_init: Initializer = dataclasses.field(default=initializers.lecun_normal, kw_only=True, metadata=INITIALIZER)
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True, metadata=INITIALIZER)

    exact: ClassVar[tuple[str, ...]] = ("log_decay",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(f"`num_heads` must divide `hidden_size` {self.hidden_size}; got {self.num_heads}.")
        # The decays are drawn in float32, where 0 and 1 have no such logarithm.
        low, high = np.float32(self.min_radius), np.float32(self.max_radius)
        if not 0 < low <= high < 1:
            raise ValueError(
                "`min_radius` and `max_radius` must be 0 < min_radius <= max_radius < 1 in float32; "
                f"got {self.min_radius} and {self.max_radius}."
            )
        if not 0 < self.c < math.inf:
            raise ValueError(f"`c` must be above 0 and finite; got {self.c}.")

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> RGLRUParams:
        """Draws the decays, and the gates head by head."""
        check_input_size(self, input_size, self.hidden_size)
        keys, heads, size = jax.random.split(key, 3), self.num_heads, self.hidden_size // self.num_heads

        def gatewise(initializer: Initializer, key: jax.Array, *shape: int) -> jax.Array:
            drawn = [[initializer(k, shape, jnp.float32) for k in row] for row in jax.random.split(key, (heads, 2))]
            return jnp.stack([jnp.concatenate(gates, axis=-1) for gates in drawn]).astype(dtype)

        decay = jax.random.uniform(keys[0], (self.hidden_size,), minval=self.min_radius, maxval=self.max_radius)
        rate = -jnp.log(decay) / self.c
        return RGLRUParams(
            # softplus(Λ) is `rate`: Λ = log(exp(rate) - 1), where exp(rate) alone may overflow.
            log_decay=(rate + jnp.log(-jnp.expm1(-rate))).astype(dtype),
            kernel=gatewise(self.kernel_init, keys[1], size, size),
            bias=gatewise(self.bias_init, keys[2], size),
        )

    def project_inputs(self, params: RGLRUParams, xs: jax.Array) -> Coefficients:
        """The gates, the decay and the scaled input of every step."""
        heads = xs.reshape(*xs.shape[:-1], *params.kernel.shape[:2])
        gates = jnp.einsum("...nd,ndg->...ng", heads, params.kernel)
        gates = widened(gates + along(params.bias, gates))
        r, i = (frugal(jax.nn.sigmoid)(gate).reshape(xs.shape) for gate in jnp.split(gates, 2, axis=-1))
        log_a = -along(self.c * jax.nn.softplus(widened(params.log_decay)), r) * r
        # Where r is 0 in floating point the root has no derivative; the bound is far below any digit of h.
        scale = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), 1e-24))
        return Coefficients(jnp.exp(log_a), scale * i * widened(xs))
