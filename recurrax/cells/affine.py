"""The contract of cells that meet their state through one affine map, and that map."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._layer import INITIALIZER, Cell, Initializer, Params, State

Gates = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class AffineCell(Cell):
    """A cell that meets its state only through `u = h @ recurrent_kernel + recurrent_bias`.

    z = x @ kernel + bias,  u = h @ recurrent_kernel + recurrent_bias
    a = preactivations(z, u),  (state', y) = pointwise(a, state)

    A subclass names its parameters (`params_type`), its state (`state_type`), its number of `gates` and its equations
    in `pointwise`; initialisation, a state of zeros, both affine maps, and the derivative that takes every product with
    a weight out of the loop are here and in `kernels`. Initialisers see the shape of one gate.

    Args:
        hidden_size: the number of features H of a gate.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a bias of its own, as in PyTorch.
        kernel_init: draws `[I, H]` for each gate; Glorot uniform by default.
        recurrent_kernel_init: draws `[H, H]` for each gate; orthogonal by default.
        bias_init: draws `[H]` for each gate and each bias; zeros by default.
    """

    bias: bool = dataclasses.field(default=True, kw_only=True)
    recurrent_bias: bool = dataclasses.field(default=False, kw_only=True)
    kernel_init: Initializer = dataclasses.field(
        default=initializers.glorot_uniform, kw_only=True, metadata=INITIALIZER
    )
    recurrent_kernel_init: Initializer = dataclasses.field(
        default=initializers.orthogonal, kw_only=True, metadata=INITIALIZER
    )
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True, metadata=INITIALIZER)

    gates: ClassVar[int]
    params_type: ClassVar[type]
    state_type: ClassVar[Any]

    @abc.abstractmethod
    def pointwise(self, params: Params, a: Gates, state: State) -> tuple[State, jax.Array]:
        """The equations of the cell, from the pre-activations `a`, each `[*B, H]`, and the state.

        Of `params` only those beside the kernels and biases of the two affine maps are there; these four are None.
        """

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """What `pointwise` sees of `z` and `u`, one `[*B, H]` for every gate each; linear in both. By default sums."""
        return tuple(z_g + u_g for z_g, u_g in zip(z, u, strict=True))

    def update(self, candidate: jax.Array) -> jax.Array:
        """What `pointwise` lets into the state, of shape `[*B, H]`, as it goes there: `UpdateDropout` masks it here."""
        return candidate

    @property
    def is_affine(self) -> bool:
        """Whether a step is the one of this class, so that the kernels for affine cells may take it apart."""
        return type(self).step is AffineCell.step

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the parameters hold a `recurrent_bias`."""
        return self.recurrent_bias

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws `kernel` `[I, G*H]`, `recurrent_kernel` `[O, G*H]` and the biases `[G*H]`, gate by gate."""
        size, state_size = self.hidden_size, self.output_size(input_size)
        keys = jax.random.split(key, 4)

        def gatewise(initializer: Initializer, key: jax.Array, *shape: int) -> jax.Array:
            drawn = [initializer(k, shape, jnp.float32) for k in jax.random.split(key, self.gates)]
            return jnp.concatenate(drawn, axis=-1).astype(dtype)

        return self.params_type(
            kernel=gatewise(self.kernel_init, keys[0], input_size, size),
            recurrent_kernel=gatewise(self.recurrent_kernel_init, keys[1], *self.recurrent_shape(state_size)),
            bias=gatewise(self.bias_init, keys[2], size) if self.bias else None,
            recurrent_bias=gatewise(self.bias_init, keys[3], size) if self.has_recurrent_bias else None,
        )

    def recurrent_shape(self, state_size: int) -> tuple[int, ...]:
        """The shape of one gate of `recurrent_kernel`, from the number of features of h: `[O, H]`."""
        return state_size, self.hidden_size

    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """Zeros, `[*B, H]` each."""
        shape = (*batch_shape, self.hidden_size)
        return self.state_type(*(jnp.zeros(shape, dtype) for _ in self.state_type._fields))

    def project_inputs(self, params: Params, xs: jax.Array) -> jax.Array:
        """`xs @ kernel + bias`, one matrix product for every step."""
        return affine(xs, params.kernel, params.bias)

    def project_state(self, params: Params, h: jax.Array) -> jax.Array:
        """`u = h @ recurrent_kernel + recurrent_bias`."""
        return affine(h, params.recurrent_kernel, params.recurrent_bias)

    def step(self, params: Params, state: State, z: jax.Array) -> tuple[State, jax.Array]:
        """One recurrent product, then `pointwise`."""
        u = self.project_state(params, state.h)
        a = self.preactivations(self.split(z.astype(u.dtype)), self.split(u))
        return self.pointwise(self.other_params(params), a, state)

    def split(self, a: jax.Array) -> Gates:
        """The gates of `[*B, G*H]`, each `[*B, H]`."""
        return tuple(jnp.split(a, a.shape[-1] // self.hidden_size, axis=-1))

    def shifted(self, params: Params, gate: int, by: float) -> Params:
        """The parameters with a number added to one gate's part of `bias`, if there is one."""
        if params.bias is None:
            return params
        return params._replace(bias=params.bias.at[gate * self.hidden_size : (gate + 1) * self.hidden_size].add(by))

    def gate_params(self, params: Params) -> list[Params]:
        """The parameters of the two affine maps, each gate's by themselves."""
        parts = {name: getattr(params, name) for name in _MAPS if getattr(params, name) is not None}
        split = {name: self.split(part) for name, part in parts.items()}
        return [params._replace(**{name: gates[g] for name, gates in split.items()}) for g in range(self.gates)]

    def other_params(self, params: Params) -> Params:
        """The parameters without those of the two affine maps."""
        return params._replace(**dict.fromkeys(_MAPS))


_MAPS = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def _flattens_products(x: jax.Array) -> bool:
    """Whether `x @ kernel` should see all leading axes of `x` as one.

    XLA's CPU compiler transposes whole operands for the gradient of a product with more than one leading axis: that of
    a kernel took 4 times as long for `[64, 256, 128]`, `[128, 512]`. On accelerators it does not, and an axis that is
    spread over devices must not be merged with another.
    """
    return jax.default_backend() == "cpu" and not any(jax.typeof(x).sharding.spec)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ kernel + bias`: multiplied in the kernel's dtype, accumulated and returned in that of `x`."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if x.ndim > 2 and _flattens_products(x) else x
    y = jnp.matmul(rows.astype(kernel.dtype), kernel, preferred_element_type=x.dtype)
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    return y if bias is None else y + along(bias, y)


def along(p: jax.Array, x: jax.Array) -> jax.Array:
    """`p`, which stands for the last axes of `x`, in the dtype of `x` and with its number of axes."""
    return jnp.expand_dims(p.astype(x.dtype), tuple(range(x.ndim - p.ndim)))
