"""The contract: what a layer and a cell are. Nothing here walks time."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax import initializers
from recurrax._platform import flattens_products

Params = Any
State = Any
Gates = tuple[jax.Array, ...]
Initializer = Callable[..., jax.Array]


def features(xs: Any) -> jax.Array:
    """The features among the inputs: the inputs themselves, or the first leaf where they are a pytree."""
    return jax.tree.leaves(xs)[0]


class Walk(Protocol):
    """A way along a sequence, as the driver hands it to a layer that is made of other layers."""

    @property
    def key(self) -> jax.Array | None:
        """The randomness of this walk, or None."""

    def __call__(self, layer: Layer, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Takes `layer` along `xs` `[T, *B, I]`; returns its final state and `ys` `[T, *B, O]`."""

    def reversed(self) -> Walk:
        """The same way in the other direction."""

    def split(self, number: int) -> Sequence[Walk]:
        """The same way `number` times, each with randomness of its own."""


class Layer(abc.ABC):
    """Whatever maps a sequence and a state to a sequence and a state.

    A layer is a frozen, hashable dataclass of hyper-parameters: it holds no arrays, compares by value, and may be a
    static argument of `jax.jit`. Its parameters and its state are pytrees that the caller keeps. A layer that is
    made of others names them in `parts` and runs them in `apply`; one that computes one step at a time is a `Cell`.
    """

    @property
    def feature_ndim(self) -> int:
        """The number of axes of one input: 1, or more where features lie in space, channels last."""
        return max((part.feature_ndim for part in self.parts), default=1)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers that this one is made of."""
        return ()

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later input, so that the layer can be stepped."""
        return all(part.causal for part in self.parts)

    @property
    def stochastic(self) -> bool:
        """Whether the layer draws random numbers when it is given a key."""
        return any(part.stochastic for part in self.parts)

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters for inputs of `input_size` features."""

    @abc.abstractmethod
    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, for a batch of shape `batch_shape`."""

    @abc.abstractmethod
    def output_size(self, input_size: int) -> int:
        """The number of features of one output, given that of one input."""

    @abc.abstractmethod
    def apply(self, walk: Walk, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        """Runs the parts of this layer along `walk`; `xs` is `[T, *B, I]`, masked steps are zero."""

    def __repr__(self) -> str:
        """Shows what differs from the defaults, so that `LSTMCell(hidden_size=128)` reads as it was written."""
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                text = value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)
                shown.append(f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


def batch_shape_of(layer: Layer, xs: Any) -> tuple[int, ...]:
    """The batch axes of time-major inputs."""
    shape = features(xs).shape
    return shape[1 : len(shape) - layer.feature_ndim]


@dataclasses.dataclass(frozen=True, repr=False)
class Cell(Layer):
    """One step of a recurrence: a frozen dataclass of hyper-parameters with pure methods.

    To write a cell of your own, say what its parameters and its initial state are and how one step works; `scan`
    brings batches, lengths, masks, resets, both directions, streaming, stacking and both Flax frontends.

    Args:
        hidden_size: the number of features H of the output.
        dtype: the dtype of the matrix products; `None` follows the parameters and the inputs.

    Example:
        A leaky integrator, h' = a * h + (1 - a) * x @ kernel:

        >>> import dataclasses, jax, jax.numpy as jnp, recurrax
        >>> from typing import NamedTuple
        >>> class LeakyState(NamedTuple):
        ...     h: jax.Array
        >>> @dataclasses.dataclass(frozen=True, repr=False)
        ... class LeakyCell(recurrax.Cell):
        ...     decay: float = 0.9
        ...     def init(self, key, input_size, dtype=jnp.float32):
        ...         return jax.nn.initializers.glorot_uniform()(key, (input_size, self.hidden_size), dtype)
        ...     def initial_state(self, batch_shape=(), dtype=jnp.float32):
        ...         return LeakyState(jnp.zeros((*batch_shape, self.hidden_size), dtype))
        ...     def project_inputs(self, params, xs):
        ...         return xs @ params
        ...     def step(self, params, state, z):
        ...         h = self.decay * state.h + (1 - self.decay) * z
        ...         return LeakyState(h), h
        >>> cell = LeakyCell(4)
        >>> params = cell.init(jax.random.key(0), 3)
        >>> state, ys = recurrax.scan(cell, params, jnp.ones((2, 7, 3)), lengths=jnp.array([7, 5]))
        >>> ys.shape, state.h.shape
        ((2, 7, 4), (2, 4))
    """

    hidden_size: int
    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    # Whether a unit's new state depends on the state of that unit alone, so that a step's Jacobian is diagonal, or has
    # a k x k block for each unit where the state has k parts, all of one shape.
    independent_units: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.endswith("_size") and field.type in ("int", int):
                _check_size(self, field.name, least=0 if field.default == 0 else 1)

    @abc.abstractmethod
    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        """Takes one step: from the state and one projected input to the new state and the output."""

    def project_inputs(self, params: Params, xs: jax.Array) -> Any:
        """What can be computed from the inputs of all steps at once, `zs`; by default the inputs themselves."""
        return xs

    def output_size(self, input_size: int) -> int:
        """The number of features of one output: `hidden_size`."""
        return self.hidden_size

    def apply(self, walk: Walk, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        """A cell has no parts: the walk itself takes its steps."""
        return walk(self, params, state, xs)


@dataclasses.dataclass(frozen=True, repr=False)
class AffineCell(Cell):
    """A cell that meets its state only through `u = h @ recurrent_kernel + recurrent_bias`.

    z = x @ kernel + bias,  u = h @ recurrent_kernel + recurrent_bias
    a = preactivations(z, u),  (state', y) = pointwise(a, state)

    A subclass names its parameters (`params_type`), its number of `gates` and its equations in `pointwise`; the
    parameters, their initialisation, both affine maps, and the derivative that takes every product with a weight out
    of the loop are here and in `kernels`. Initialisers see the shape of one gate.

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
    kernel_init: Initializer = dataclasses.field(default=initializers.glorot_uniform, kw_only=True)
    recurrent_kernel_init: Initializer = dataclasses.field(default=initializers.orthogonal, kw_only=True)
    bias_init: Initializer = dataclasses.field(default=initializers.zeros, kw_only=True)

    gates: ClassVar[int]
    params_type: ClassVar[type]

    @abc.abstractmethod
    def pointwise(self, params: Params, a: Gates, state: State) -> tuple[State, jax.Array]:
        """The equations of the cell, from the pre-activations `a`, each `[*B, H]`, and the state.

        Of `params` only those beside the kernels and biases of the two affine maps are there; these four are None.
        """

    def preactivations(self, z: Gates, u: Gates) -> Gates:
        """What `pointwise` sees of `z` and `u`, one `[*B, H]` for every gate each; linear in both. By default sums."""
        return tuple(z_g + u_g for z_g, u_g in zip(z, u, strict=True))

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
        return tuple(jnp.split(a, self.gates, axis=-1))

    def gate_params(self, params: Params) -> list[Params]:
        """The parameters of the two affine maps, each gate's by themselves."""
        parts = {name: getattr(params, name) for name in _MAPS if getattr(params, name) is not None}
        split = {name: self.split(part) for name, part in parts.items()}
        return [params._replace(**{name: gates[g] for name, gates in split.items()}) for g in range(self.gates)]

    def other_params(self, params: Params) -> Params:
        """The parameters without those of the two affine maps."""
        return params._replace(**dict.fromkeys(_MAPS))


_MAPS = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`x @ kernel + bias`: multiplied in the kernel's dtype, accumulated and returned in that of `x`."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if x.ndim > 2 and flattens_products(x) else x
    y = jnp.matmul(rows.astype(kernel.dtype), kernel, preferred_element_type=x.dtype)
    y = y.reshape(*x.shape[:-1], kernel.shape[-1])
    if bias is None:
        return y
    return y + jnp.expand_dims(bias.astype(y.dtype), tuple(range(y.ndim - 1)))


def num_params(layer: Layer, input_size: int) -> int:
    """The number of parameters of a layer, without drawing them.

    Args:
        layer: any layer.
        input_size: the number of features I of one input.

    Returns:
        The number of scalars in `layer.init(key, input_size)`. One gate of a classic cell has (I + H)·H + H, and
        H more where it has two biases, as in PyTorch.

    Example:
        >>> import recurrax
        >>> recurrax.num_params(recurrax.LSTMCell(256), 100)  # 4 * ((100 + 256) * 256 + 256)
        365568
        >>> recurrax.num_params(recurrax.LSTMCell(256, recurrent_bias=True), 100)  # PyTorch's form
        366592
    """
    params = jax.eval_shape(lambda key: layer.init(key, input_size), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _check_size(layer: Layer, name: str, least: int) -> None:
    value = getattr(layer, name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` of {type(layer).__name__} must be an int; got {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` of {type(layer).__name__} must be at least {least}; got {value}.")
