"""The contract of a layer and of a cell. Nothing here runs over time.

Glossary of the code:

- `xs`, `zs`, `ys` are sequences; `x`, `z`, `y` are one step of them.
- `state` goes from one step to the next.
- `u` is the recurrent pre-activation, `h @ recurrent_kernel + recurrent_bias`.
- A *kernel* is a weight matrix. A way to compute is an *implementation*.
- `reset` is a flag of the data. `restart` is the same flag, converted for the direction.
- In shapes, T is time, `*B` any batch axes, I the inputs, H the hidden size, O the outputs, G the
  gates.
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

from recurrax._arguments import SIZE, check_fields, checks_arguments

Params = Any
State = Any
Initializer = Callable[..., jax.Array]

# Marks a field with a function that draws parameters. No step uses the function, so `scan` ignores
# it.
INITIALIZER = {"initializer": True}


def features(xs: Any) -> jax.Array:
    """Returns the features: the inputs themselves, or the first leaf of a pytree of inputs."""
    return jax.tree.leaves(xs)[0]


class Gate(NamedTuple):
    """One gate of a cell at every step, for `recurrax.trace`.

    Attributes:
        value: the gate, such as σ(a).
        preactivation: the argument of its activation, such as a.
    """

    value: jax.Array
    preactivation: jax.Array


class ScanContext(Protocol):
    """What `scan` gives to a layer made of layers. `scan` runs a part of the layer."""

    @property
    def key(self) -> jax.Array | None:
        """The randomness, or None."""

    @property
    def mask(self) -> jax.Array | None:
        """`bool[T, *B]`, True at the unmasked steps, or None."""

    @property
    def reset(self) -> jax.Array | None:
        """`bool[T, *B]`, True at the first step of each segment, in both directions; or None."""

    @property
    def reverse(self) -> bool:
        """Whether the scan runs from the last step to the first."""

    def scan(
        self, layer: Layer, params: Params, state: State, xs: Any, initial: State | None = None
    ) -> tuple[State, jax.Array]:
        """Runs `layer` over `xs` `[T, *B, I]`; returns its final state and `ys` `[T, *B, O]`.

        `initial` is the state at a reset, for the single cell in `layer`. By default it is the
        cell's first state.
        """

    def reversed(self) -> ScanContext:
        """Returns this context in the other direction."""

    def split(self, number: int) -> Sequence[ScanContext]:
        """Returns this context `number` times, each with separate randomness."""


class Layer(abc.ABC):
    """Maps a sequence and a state to a sequence and a state.

    A layer is a frozen, hashable dataclass of hyper-parameters. It holds no arrays, compares by
    value, and may be a static argument of `jax.jit`. Its parameters and its state are pytrees that
    the caller keeps. A layer made of layers names them in `parts` and runs them in `apply`. A layer
    that computes one step at a time is a `Cell`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Users call `init` directly. So each class gets an `init` that checks its arguments, and a
        # user's class does too.
        super().__init_subclass__(**kwargs)
        if "init" in vars(cls):
            cls.init = checks_arguments(cls.init)  # type: ignore[method-assign]

    # A subclass that defines `__post_init__` calls this one too.
    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def feature_ndim(self) -> int:
        """The number of axes of one input: 1, or more for features in space, with channels last."""
        return max((part.feature_ndim for part in self.parts), default=1)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers that this layer is made of."""
        return ()

    @property
    def causal(self) -> bool:
        """Whether no output depends on a later input. Only such a layer can run in `step`."""
        return all(part.causal for part in self.parts)

    @property
    def stochastic(self) -> bool:
        """Whether the layer draws random numbers if there is a key."""
        return any(part.stochastic for part in self.parts)

    @property
    def reads_time(self) -> bool:
        """Whether the layer reads the time between steps. Then it gets `TimedInputs`.

        Any other layer gets the features alone. A cell of your own that reads the time sets
        `reads_time = True`.
        """
        return any(part.reads_time for part in self.parts)

    @abc.abstractmethod
    def init(self, key: jax.Array, input_size: int, dtype: DTypeLike = jnp.float32) -> Params:
        """Draws the parameters for inputs of `input_size` features.

        A layer need not check `key` and `input_size`: they are checked before its `init` runs.
        """

    def param_shapes(self, input_size: int) -> Params:
        """Returns the parameters as shapes and dtypes; nothing is drawn."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0), input_size))

    @abc.abstractmethod
    def initial_state(
        self, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the state before the first step, for a batch of shape `batch_shape`."""

    def first_state(
        self, params: Params, batch_shape: tuple[int, ...] = (), dtype: DTypeLike = jnp.float32
    ) -> State:
        """Returns the state before each segment; by default `initial_state`."""
        return self.initial_state(batch_shape, dtype)

    @abc.abstractmethod
    def output_size(self, input_size: int) -> int:
        """Returns the number of features of one output for this number of input features."""

    @abc.abstractmethod
    def apply(
        self, context: ScanContext, params: Params, state: State, xs: Any
    ) -> tuple[State, jax.Array]:
        """Runs the parts of this layer by `context.scan`; `xs` is `[T, *B, I]`."""

    def __repr__(self) -> str:
        """Shows the fields that differ from their defaults, such as `LSTMCell(hidden_size=128)`."""
        shown = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value == field.default:
                continue
            # A function shows its name, without its address in memory.
            text = repr(value)
            if callable(value) and hasattr(value, "__name__"):
                text = value.__name__
            shown.append(f"{field.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple:
        """Pickles a layer with its functions by name, also those wrapped by `jax.jit`."""
        return restore, (type(self), pickled(vars(self)))


class _Function(NamedTuple):
    """The place of a function. Pickle alone does not find functions wrapped by `jax.jit`."""

    module: str
    name: str


def pickled(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an object with names instead of functions."""
    return {name: _name_of(value) for name, value in fields.items()}


def unpickled(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields from the result of `pickled`."""
    restored = dict(fields)
    for name, value in fields.items():
        if isinstance(value, _Function):
            restored[name] = _function_of(value)
    return restored


def restore(kind: type, fields: dict[str, Any]) -> Any:
    """Rebuilds a pickled layer of this class."""
    made: Any = object.__new__(kind)
    made.__dict__.update(unpickled(fields))
    return made


def _name_of(value: Any) -> Any:
    """Returns the place of a function; any other value is returned unchanged."""
    if not callable(value) or isinstance(value, (type, Layer)):
        return value
    name, home = getattr(value, "__name__", ""), getattr(value, "__module__", None)
    # A function of JAX names a private module, so its public modules come first.
    for module in ("jax.numpy", "jax.nn", str(home)):
        if getattr(sys.modules.get(module), name, None) is value:
            return _Function(module, name)
    return value


def _function_of(found: _Function) -> Any:
    return getattr(importlib.import_module(found.module), found.name)


# A layer is part of the key of compiled programs. Two initializers, such as two closures, would
# need two programs, although no program uses them.
@functools.lru_cache(maxsize=4096)
def without_initializers(layer: Layer) -> Layer:
    """Returns the layer with the default initializers of its class, for a run."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(layer):  # type: ignore[arg-type]
        value = getattr(layer, field.name)
        if field.metadata.get("initializer"):
            changes[field.name] = field.default
        elif isinstance(value, Layer) and field.init:
            changes[field.name] = without_initializers(value)
        elif type(value) is tuple and field.init:
            parts = list(value)
            for number, part in enumerate(parts):
                if isinstance(part, Layer):
                    parts[number] = without_initializers(part)
            changes[field.name] = tuple(parts)
    # A layer without a change stays the same object.
    changes = {name: value for name, value in changes.items() if value != getattr(layer, name)}
    if not changes:
        return layer
    return dataclasses.replace(layer, **changes)  # type: ignore[type-var]


def batch_shape_of(layer: Layer, xs: Any) -> tuple[int, ...]:
    """Returns the batch axes of time-major inputs."""
    shape = features(xs).shape
    return shape[1 : len(shape) - layer.feature_ndim]


@dataclasses.dataclass(frozen=True, repr=False)
class Cell(Layer):
    """Computes one step of a recurrence: a frozen dataclass with pure methods.

    To write a cell of your own, define its parameters, its initial state and one step. `scan` adds
    batches, lengths, masks, resets, both directions, streaming, stacking and both Flax frontends.

    A layer is part of the key of its compiled program. Equal layers share a program. A new
    function, such as a lambda or a `functools.partial`, equals no other function. So a cell with
    `activation=lambda x: ...` that is made at each call is compiled at each call. Define such a
    function once, by `def` in a module, or keep the cell. The initializers of the cells of recurrax
    have no part in the key.

    Args:
        hidden_size: the number H of output features.
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
        ...         shape = (input_size, self.hidden_size)
        ...         return recurrax.initializers.glorot_uniform(key, shape, dtype)
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

    hidden_size: int = dataclasses.field(metadata=SIZE)
    dtype: DTypeLike | None = dataclasses.field(default=None, kw_only=True)

    # Whether the new state of a unit depends on the old state of that unit alone. Then the Jacobian
    # of a step is diagonal. If the state has k parts, all of one shape, it has one k x k block for
    # each unit.
    independent_units: ClassVar[bool] = False

    # The parameters that set how long a state lasts. They keep their dtype under any dtype of the
    # products. If the phases of an LRU are rounded to bfloat16, its outputs are off by a seventh
    # after 1,000 steps, not by a 400th.
    exact: ClassVar[tuple[str, ...]] = ()

    # The name of the part of the state that is the output, such as "h"; None if there is no such
    # part.
    output_part: ClassVar[str | None] = None

    # Whether the gradient that flows back through a step differs from the derivative of the step.
    # Then an implementation must go back through each step itself.
    alters_gradient: ClassVar[bool] = False

    # Whether `gate_values` belongs to the equations of the step.
    tells_gates: ClassVar[bool] = False

    # For each statement that an implementation believes, the methods that it is about.
    rests_on: ClassVar[dict[str, tuple[str, ...]]] = {
        "independent_units": ("step",),
        "tells_gates": ("step",),
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A class that defines gates states that they are the gates of its step.
        if {"gate_values", "pointwise_gates"} & set(vars(cls)):
            cls.tells_gates = True
        withdraw_statements(cls)

    @abc.abstractmethod
    def step(self, params: Params, state: State, z: Any) -> tuple[State, jax.Array]:
        """Computes the new state and the output from the state and one projected input."""

    def project_inputs(self, params: Params, xs: jax.Array) -> Any:
        """Computes `zs` from the inputs of all steps at once; by default `zs` are the inputs."""
        return xs

    def output(self, params: Params, state: State, z: Any) -> jax.Array | None:
        """Computes the output of a step from the state after it; None if a cell does not define it.

        By default it is the part of the state that `output_part` names. It must equal the output of
        `step`. A layer that changes the state after a step, such as `Zoneout`, needs it.
        """
        if self.output_part is None:
            return None
        return getattr(state, self.output_part)

    def gate_values(self, params: Params, state: State, xs: Any) -> dict[str, Gate]:
        """Computes the gates of a step by name, for `recurrax.trace`; by default there are none.

        `trace` calls it once for all steps. So `xs` and `state` may have an axis of time before the
        batch axes.

        Args:
            params: the parameters.
            state: the state before the step.
            xs: the inputs of the step, as `project_inputs` gets them.
        """
        return {}

    def state_parts(self, state: State) -> tuple[jax.Array, ...]:
        """Returns the parts of the state that have a meaning alone, with one entry for each unit.

        By default these are the leaves. If several leaves have a meaning only together, one of them
        represents all.
        """
        return tuple(jax.tree.leaves(state))

    def mix_states(self, keep: Sequence[Any], old: State, new: State) -> State:
        """Returns keep * old + (1 - keep) * new for each part of the state.

        Args:
            keep: how much of the old state is kept, for each of `state_parts`: a number in [0, 1),
                or a bool for each unit.
            old: the state before the step.
            new: the state after the step.
        """
        parts = zip(keep, jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        leaves = [mixed(*part) for part in parts]
        return jax.tree.unflatten(jax.tree.structure(new), leaves)

    def output_size(self, input_size: int) -> int:
        """Returns `hidden_size`."""
        return self.hidden_size

    def apply(
        self, context: ScanContext, params: Params, state: State, xs: jax.Array
    ) -> tuple[State, jax.Array]:
        """Lets the context compute the steps: a cell has no parts."""
        return context.scan(self, params, state, xs)


def withdraw_statements(cls: type[Cell]) -> None:
    """Sets each statement to False that a class may have made wrong by another method.

    A statement such as `is_affine` lets an implementation replace a method, such as `step`, by its
    own arithmetic. A class with another `step` may have other equations. If this class does not
    repeat the statement, the statement becomes False. Then the class runs by its own methods, which
    may be slower and is right. This is the only place that looks for overridden methods.
    """

    def depth(name: str) -> int:
        # The number of classes that Python asks for the name before one has it.
        return next(number for number, base in enumerate(cls.__mro__) if name in vars(base))

    for statement, methods in cls.rests_on.items():
        if min(depth(method) for method in methods) < depth(statement):
            setattr(cls, statement, False)


def mixed(keep: Any, old: jax.Array, new: jax.Array) -> jax.Array:
    """Returns keep * old + (1 - keep) * new; an array of bools as `keep` selects units."""
    old = old.astype(new.dtype)
    # With bools the product would be wrong: 0 times NaN is NaN.
    if isinstance(keep, jax.Array):
        return jnp.where(keep, old, new)
    return keep * old + (1 - keep) * new
