"""The contract: what a layer and a cell are. Nothing here runs over time.

Words of the code: `xs`, `zs`, `ys` are sequences, `x`, `z`, `y` are one step of them. `state` is what goes from step to
step. `u` is the recurrent pre-activation, `h @ recurrent_kernel + recurrent_bias`. A *kernel* is a weight matrix; a way to
compute is an *implementation*. `reset` is a flag of the data, `restart` the same flag converted for the direction. In
shapes, T is time, `*B` any batch axes, I the inputs, H the hidden size, O the outputs, G the gates.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from recurrax._arguments import check_fields, checks_arguments

Params = Any
State = Any
Initializer = Callable[..., jax.Array]

# The mark of a field for a function that draws parameters: no step uses it, so `scan` looks past it.
INITIALIZER = {"initializer": True}


def features(xs: Any) -> jax.Array:
    """The features among the inputs: the inputs themselves, or the first leaf where they are a pytree."""
    return jax.tree.leaves(xs)[0]


class ScanContext(Protocol):
    """What `scan` hands to a layer that is made of other layers: flags, direction, randomness, and a way to run a part."""

    @property
    def key(self) -> jax.Array | None:
        """The randomness, or None."""

    @property
    def mask(self) -> jax.Array | None:
        """`bool[T, *B]`, True at the unmasked steps, or None."""

    @property
    def reset(self) -> jax.Array | None:
        """`bool[T, *B]`, True at the first step of each segment of the data, whatever the direction; or None."""

    @property
    def reverse(self) -> bool:
        """Whether the direction is from the last step to the first."""

    def scan(
        self, layer: Layer, params: Params, state: State, xs: Any, initial: State | None = None
    ) -> tuple[State, jax.Array]:
        """Runs `layer` over `xs` `[T, *B, I]`; returns its final state and `ys` `[T, *B, O]`.

        `initial` is the state at a reset of the one cell in `layer`; by default that cell's own.
        """

    def reversed(self) -> ScanContext:
        """The same in the other direction."""

    def split(self, number: int) -> Sequence[ScanContext]:
        """The same `number` times, each with randomness of its own."""


class Layer(abc.ABC):
    """Whatever maps a sequence and a state to a sequence and a state.

    A layer is a frozen, hashable dataclass of hyper-parameters: it holds no arrays, compares by value, and may be a
    static argument of `jax.jit`. Its parameters and its state are pytrees that the caller keeps. A layer that is
    made of others names them in `parts` and runs them in `apply`; one that computes one step at a time is a `Cell`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Users call the `init` of a layer, which nothing stands before. So each `init` is given the
        # checks of its arguments here, where its class is made, that of a user's layer too.
        super().__init_subclass__(**kwargs)
        if "init" in vars(cls):
            cls.init = checks_arguments(cls.init)  # type: ignore[method-assign]

    # A layer with a `__post_init__` of its own calls this one first.
    def __post_init__(self) -> None:
        check_fields(self)

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

    @property
    def reads_time(self) -> bool:
        """Whether the layer reads the time between steps, so that it must be given `TimedInputs` as they are.

        A layer that does not is given the features alone. A cell of your own that reads the time says so:
        `reads_time = True`.
        """
        return any(part.reads_time for part in self.parts)

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters for inputs of `input_size` features.

        A layer need not check `key` and `input_size`: that is done before its own `init` runs.
        """

    def param_shapes(self, input_size: int) -> Params:
        """The parameters as shapes and dtypes; nothing is drawn. A layer of many parts may put them together."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0), input_size))

    @abc.abstractmethod
    def initial_state(self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state before the first step, for a batch of shape `batch_shape`."""

    def first_state(self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32) -> State:
        """The state where a segment begins, in which `params` may have a say; by default `initial_state`."""
        return self.initial_state(batch_shape, dtype)

    @abc.abstractmethod
    def output_size(self, input_size: int) -> int:
        """The number of features of one output, given that of one input."""

    @abc.abstractmethod
    def apply(self, context: ScanContext, params: Params, state: State, xs: Any) -> tuple[State, jax.Array]:
        """Runs the parts of this layer by `context.scan`; `xs` is `[T, *B, I]`."""

    def __repr__(self) -> str:
        """Shows what differs from the defaults, so that `LSTMCell(hidden_size=128)` reads as it was written."""
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                text = value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)
                shown.append(f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple:
        """How a layer is pickled: functions go by name, those too that `jax.jit` has wrapped."""
        return restore, (type(self), pickled(vars(self)))


class _Function(NamedTuple):
    """Where a function is found: pickle by itself does not find those that `jax.jit` has wrapped, as `jnp.tanh`."""

    module: str
    name: str


def pickled(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an object with names in the place of functions."""
    return {name: _name_of(value) for name, value in fields.items()}


def unpickled(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that `pickled` has written."""
    return {name: _function_of(value) if isinstance(value, _Function) else value for name, value in fields.items()}


def restore(kind: type, fields: dict[str, Any]) -> Any:
    """The layer of this class that has been pickled."""
    made: Any = object.__new__(kind)
    made.__dict__.update(unpickled(fields))
    return made


def _name_of(value: Any) -> Any:
    if not callable(value) or isinstance(value, (type, Layer)):
        return value
    name, home = getattr(value, "__name__", ""), getattr(value, "__module__", None)
    for module in ("jax.numpy", "jax.nn", str(home)):
        if getattr(sys.modules.get(module), name, None) is value:
            return _Function(module, name)
    return value


def _function_of(found: _Function) -> Any:
    return getattr(importlib.import_module(found.module), found.name)


# A layer made anew with a new initializer, such as a closure, would else be compiled anew.
@functools.lru_cache(maxsize=4096)
def without_initializers(layer: Layer) -> Layer:
    """The same layer with the initializers that its class has: what runs a layer has no use for them."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(layer):  # type: ignore[arg-type]
        value = getattr(layer, field.name)
        if field.metadata.get("initializer"):
            changes[field.name] = field.default
        elif isinstance(value, Layer) and field.init:
            changes[field.name] = without_initializers(value)
        elif type(value) is tuple and field.init:
            parts = (without_initializers(part) if isinstance(part, Layer) else part for part in value)
            changes[field.name] = tuple(parts)
    changes = {name: value for name, value in changes.items() if value != getattr(layer, name)}
    return dataclasses.replace(layer, **changes) if changes else layer  # type: ignore[type-var]


def batch_shape_of(layer: Layer, xs: Any) -> tuple[int, ...]:
    """The batch axes of time-major inputs."""
    shape = features(xs).shape
    return shape[1 : len(shape) - layer.feature_ndim]


@dataclasses.dataclass(frozen=True, repr=False)
class Cell(Layer):
    """One step of a recurrence: a frozen dataclass of hyper-parameters with pure methods.

    To write a cell of your own, say what its parameters and its initial state are and how one step works; `scan`
    brings batches, lengths, masks, resets, both directions, streaming, stacking and both Flax frontends.

    A layer is a part of the key of what is compiled for it. Layers that are equal share a program. A function that is
    made anew, a lambda or a `functools.partial`, equals no other. So a cell with `activation=lambda x: ...` that is
    made at each call is compiled at each call. Define such a function once, by `def` in a module, or keep the cell.
    The initializers of the cells of recurrax have no part in the key.

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

    # The parameters that say how long a state lasts. They keep their dtype whatever that of the products: with its
    # phases rounded to bfloat16 the outputs of an LRU are off by a seventh after 1,000 steps, not by a 400th.
    exact: ClassVar[tuple[str, ...]] = ()

    # The name of the part of the state that is the output, such as "h"; None where there is no such part.
    output_part: ClassVar[str | None] = None

    # Whether the gradient that flows back through a step is another than the derivative of the step says. Then an
    # implementation must go back step by step, through the step itself.
    alters_gradient: ClassVar[bool] = False

    @abc.abstractmethod
    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        """Takes one step: from the state and one projected input to the new state and the output."""

    def project_inputs(self, params: Params, xs: jax.Array) -> Any:
        """What can be computed from the inputs of all steps at once, `zs`; by default the inputs themselves."""
        return xs

    def output(self, params: Params, state: State, z: Any) -> jax.Array | None:
        """The output of a step as a function of the state after it, or None for a cell that does not say.

        By default it is the part of the state that `output_part` names. It must be what `step` returns. A layer that
        changes the state after a step, as `Zoneout` does, needs it.
        """
        return None if self.output_part is None else getattr(state, self.output_part)

    def state_parts(self, state: State) -> tuple[jax.Array, ...]:
        """The parts of the state that mean something by themselves, each with one entry for every unit of it.

        By default these are the leaves. Where some leaves have a meaning only together, one of them stands for all.
        """
        return tuple(jax.tree.leaves(state))

    def mix_states(self, keep: Sequence[Any], old: State, new: State) -> State:
        """Keep * old + (1 - keep) * new, for each part of the state by itself.

        Args:
            keep: for each of `state_parts` how much of the old state is kept: a number in [0, 1), or a bool for each
                unit.
            old: a state.
            new: another one.
        """
        parts = zip(keep, jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        return jax.tree.unflatten(jax.tree.structure(new), [mixed(*part) for part in parts])

    def output_size(self, input_size: int) -> int:
        """The number of features of one output: `hidden_size`."""
        return self.hidden_size

    def apply(self, context: ScanContext, params: Params, state: State, xs: jax.Array) -> tuple[State, jax.Array]:
        """A cell has no parts: the context takes its steps."""
        return context.scan(self, params, state, xs)


def mixed(keep: Any, old: jax.Array, new: jax.Array) -> jax.Array:
    """Keep * old + (1 - keep) * new, with a number for `keep`, or a choice where `keep` is an array of bools."""
    old = old.astype(new.dtype)
    if isinstance(keep, jax.Array):
        return jnp.where(keep, old, new)
    return keep * old + (1 - keep) * new
