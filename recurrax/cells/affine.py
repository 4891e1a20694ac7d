"""The contract of cells that read their state through one affine map, and this map."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._layer import INITIALIZER, Cell, Gate, Initializer, Params, State
from recurrax.cells._activation import Activation, keeps_output

Gates = tuple[jax.Array, ...]

# Changes the candidate of a step, `[*B, H]`, on its way into the state.
Update = Callable[[jax.Array], jax.Array]


def unchanged(candidate: jax.Array) -> jax.Array:
    """The candidate itself: the `update` of every step without `UpdateDropout`."""
    return candidate


@dataclasses.dataclass(frozen=True, repr=False)
class AffineCell(Cell):
    """A cell that reads its state only through `u = h @ recurrent_kernel + recurrent_bias`.

    z = x @ kernel + bias,  u = h @ recurrent_kernel + recurrent_bias
    a = preactivations(z, u),  (state', y) = pointwise(a, state)

    A subclass names its parameters (`params_type`), its state (`state_type`) and its number of
    `gates`. Its equations stand in `pointwise`. This class has the initialization, a state of zeros
    and both affine maps. `recurrax.implementations` has the derivative, which takes every product
    with a weight out of the loop. An initializer sees the shape of one gate.

    A subclass with another `step`, `project_inputs`, `project_state` or `preactivations` loses the
    statement about this method, so that it runs by its own method. Its method may compute the same
    as the method of this class, and only log. Then the subclass repeats the statement, as in
    `plain_inputs = True`.

    Args:
        hidden_size: the number of features H of a gate.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.
        bias: whether the input projection has a bias.
        recurrent_bias: whether the recurrent projection has a separate bias, as in PyTorch.
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
    bias_init: Initializer = dataclasses.field(
        default=initializers.zeros, kw_only=True, metadata=INITIALIZER
    )

    gates: ClassVar[int]
    params_type: ClassVar[type]
    state_type: ClassVar[Any]

    # What implementations may rely on. `rests_on` names the method behind each statement.
    # `step` is one recurrent product, then `pointwise`. So an implementation may split it.
    is_affine: ClassVar[bool] = True
    # `project_inputs` is `x @ kernel + bias`.
    plain_inputs: ClassVar[bool] = True
    # `project_state` is `h @ recurrent_kernel + recurrent_bias`.
    plain_state: ClassVar[bool] = True
    # `preactivations` are z + u.
    adds_gates: ClassVar[bool] = True

    rests_on: ClassVar[dict[str, tuple[str, ...]]] = {
        "is_affine": ("step",),
        "plain_inputs": ("project_inputs",),
        "plain_state": ("project_state",),
        "adds_gates": ("preactivations",),
        "independent_units": ("step", "project_state", "preactivations", "pointwise"),
        "tells_gates": ("step", "pointwise"),
    }

    @abc.abstractmethod
    def pointwise(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> tuple[State, jax.Array]:
        """The equations of the cell, from the pre-activations `a`, each `[*B, H]`, and the state.

        In `params` the kernels and biases of the two affine maps are None. The candidate goes
        through `update` on its way into the state: there `UpdateDropout` masks it. A cell without
        the argument `update` takes no `UpdateDropout`.
        """

    def pointwise_gates(
        self, params: Params, a: Gates, state: State, update: Update = unchanged
    ) -> dict[str, Gate]:
        """The gates in the equations of the cell, by name; by default none.

        The arguments are the arguments of `pointwise`. The candidate is shown before `update`. Only
        a gate that sees the new state needs `update`.
        """
        return {}

    def gate_values(self, params: Params, state: State, xs: Any) -> dict[str, Gate]:
        """One product of all inputs, one of all states, then `pointwise_gates`."""
        a = self.step_preactivations(params, state, self.project_inputs(params, xs))
        return self.pointwise_gates(self.other_params(params), a, state)

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """The arrays that `pointwise` gets, linear in `z` and `u`; by default z + u.

        `z` and `u` have one `[*B, H]` for every gate.
        """
        return tuple(z_g + u_g for z_g, u_g in zip(z, u, strict=True))

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the parameters hold a `recurrent_bias`."""
        return self.recurrent_bias

    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws `kernel` `[I, G*H]`, `recurrent_kernel` `[O, G*H]` and biases `[G*H]`, by gates."""
        size, number = self.hidden_size, self.gates
        recurrent_shape = self.recurrent_shape(self.output_size(input_size))
        keys = jax.random.split(key, 4)
        kernel = draw_gates(self.kernel_init, keys[0], number, (input_size, size), dtype)
        recurrent_kernel = draw_gates(
            self.recurrent_kernel_init, keys[1], number, recurrent_shape, dtype
        )
        bias = recurrent_bias = None
        if self.bias:
            bias = draw_gates(self.bias_init, keys[2], number, (size,), dtype)
        if self.has_recurrent_bias:
            recurrent_bias = draw_gates(self.bias_init, keys[3], number, (size,), dtype)
        # A subclass may have more fields. It sets them in its own `init`.
        return self.params_type(
            kernel=kernel,
            recurrent_kernel=recurrent_kernel,
            bias=bias,
            recurrent_bias=recurrent_bias,
        )

    def recurrent_shape(self, state_size: int) -> tuple[int, ...]:
        """The shape of one gate of `recurrent_kernel`, `[O, H]`; h has O features."""
        return state_size, self.hidden_size

    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
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
        a = self.step_preactivations(params, state, z)
        return self.pointwise(self.other_params(params), a, state)

    def step_preactivations(self, params: Params, state: State, z: jax.Array) -> Gates:
        """The arrays that `pointwise` gets in this step."""
        # z comes in the dtype of the products, u in the dtype of the state.
        u = self.project_state(params, state.h)
        return self.preactivations(self.split(z.astype(u.dtype)), self.split(u))

    def split(self, a: jax.Array) -> Gates:
        """The gates of `[*B, G*H]`, each `[*B, H]`."""
        return tuple(jnp.split(a, a.shape[-1] // self.hidden_size, axis=-1))

    def shifted(self, params: Params, gate: int, by: float) -> Params:
        """The parameters with `by` added to one gate's part of `bias`, if there is a bias."""
        if params.bias is None:
            return params
        start = gate * self.hidden_size
        return params._replace(bias=params.bias.at[start : start + self.hidden_size].add(by))

    def gate_params(self, params: Params) -> list[Params]:
        """The parameters of the two affine maps, once for each gate."""
        by_gate = [params] * self.gates
        for name in _MAPS:
            part = getattr(params, name)
            # A map without a bias keeps None.
            if part is None:
                continue
            for g, gate in enumerate(self.split(part)):
                by_gate[g] = by_gate[g]._replace(**{name: gate})
        return by_gate

    def other_params(self, params: Params) -> Params:
        """The parameters with None for the arrays of the two affine maps."""
        return params._replace(**dict.fromkeys(_MAPS))


def gate_of(activation: Activation, a: jax.Array) -> Gate:
    """The gate of a pre-activation, with this pre-activation."""
    return Gate(keeps_output(activation)(a), a)


# The arrays of the two affine maps.
_MAPS = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def _flattens_products(x: jax.Array) -> bool:
    """Whether `x @ kernel` should see all leading axes of `x` as one axis.

    XLA's CPU compiler transposes both operands for the gradient of a product with many leading
    axes. The gradient of a kernel took 4 times as long for `[64, 256, 128]` and `[128, 512]`.
    Accelerators need no transposition. An axis that a mesh splits must not be merged with another
    axis.
    """
    return jax.default_backend() == "cpu" and not any(jax.typeof(x).sharding.spec)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ kernel + bias`: multiplied in the kernel's dtype, summed in the dtype of `x`."""
    rows = x
    if x.ndim > 2 and _flattens_products(x):
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    y = jnp.matmul(rows.astype(kernel.dtype), kernel, preferred_element_type=x.dtype)
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    if bias is None:
        return y
    return y + broadcast_to_rank(bias, y)


def draw_gates(
    initializer: Initializer,
    key: jax.Array,
    number: int,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """Draws `number` gates, each of `shape`, and joins them on the last axis."""
    return draw_parts(initializer, jax.random.split(key, number), [shape] * number, dtype)


def draw_parts(
    initializer: Initializer,
    keys: jax.Array,
    shapes: Sequence[tuple[int, ...]],
    dtype: DTypeLike,
) -> jax.Array:
    """Draws one part for each key, of these shapes, and joins the parts on the last axis."""
    # A draw in float32 has the same numbers for every dtype.
    drawn = [initializer(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]
    return jnp.concatenate(drawn, axis=-1).astype(dtype)


def broadcast_to_rank(p: jax.Array, x: jax.Array) -> jax.Array:
    """`p` in the dtype of `x`, with leading axes of size 1 up to the rank of `x`."""
    return jnp.expand_dims(p.astype(x.dtype), tuple(range(x.ndim - p.ndim)))
