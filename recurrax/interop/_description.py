"""A layer in words: JSON names the layer and its arguments, and the layer that such JSON means."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import reprlib
import types
import typing
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recurrax import cells, initializers, layers
from recurrax._layer import Layer
from recurrax.cells import mingru
from recurrax.cells._wiring import NCPWiring
from recurrax.cells.s5 import S5Cell
from recurrax.interop._keras_activations import ACTIVATIONS

_ACTIVATIONS = (
    "celu elu gelu glu hard_sigmoid hard_silu hard_tanh identity leaky_relu log_sigmoid mish relu "
    "relu6 selu sigmoid silu soft_sign softmax softplus squareplus"
)
# A description may nest this deep, and may hold this many layers.
_DEEPEST = 64
_MOST_PARTS = 512
# Arguments that are the size of an axis of some parameter, and those that say how often something
# is traced.
_SIZES = {
    "hidden_size",
    "proj_size",
    "state_size",
    "backbone_size",
    "memory_size",
    "attention_size",
    "features",
    "num_heads",
    "num_blocks",
    "rank",
    "static_size",
    "mass_size",
}
_REPEATS = ("num_heads", "backbone_layers", "rounds")
# A wiring makes matrices of these numbers before anything is traced.
_NEURONS = {"inter_neurons", "command_neurons", "motor_neurons"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest layer that a description may mean. The arrays beside the description tell it.

    Attributes:
        arrays: the number of arrays.
        axis: the largest axis of an array.
        elements: the number of elements of the largest array.
    """

    arrays: int
    axis: int
    elements: int


def _functions() -> dict[str, Any]:
    """The functions that a description may call by name."""
    named: dict[str, Any] = {}
    for name in _ACTIVATIONS.split():
        named[f"jax.nn.{name}"] = getattr(jax.nn, name)
    for name in ("tanh", "sin", "cos", "arctan", "exp"):
        named[f"jax.numpy.{name}"] = getattr(jnp, name)
    for name, function in vars(initializers).items():
        if callable(function):
            named[f"recurrax.initializers.{name}"] = function
    for name, function in ACTIVATIONS.items():
        named[f"keras.activations.{name}"] = function
    named["recurrax.cells.mingru.positive"] = mingru.positive
    return named


# The classes that a description may name. A package that defines layers adds its classes.
_known_classes: dict[str, type] = {}


def make_known(*classes: type) -> None:
    """Lets descriptions name these classes."""
    for kind in classes:
        _known_classes[kind.__name__] = kind


for _public in (*vars(cells).values(), *vars(layers).values()):
    if isinstance(_public, type) and issubclass(_public, (Layer, NCPWiring)):
        make_known(_public)


def describe(layer: Layer) -> str:
    """The JSON of a layer, such as `{"LSTMCell": {"hidden_size": 4}}`, without its defaults.

    Raises:
        ValueError: if an argument has no name: a lambda, a closure or a `functools.partial`.
    """
    return json.dumps(_written(layer, type(layer).__name__))


def _written(value: Any, where: str) -> Any:
    """A value as JSON. `where` is the path of the value, for the error."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_written(entry, where) for entry in value]
    # A layer, or a dataclass among its arguments.
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: _arguments(value, where)}
    for name, function in _functions().items():
        if value is function:
            return {"function": name}
    # A user's function: `load` finds it among `known`.
    if callable(value) and not isinstance(value, type) and _has_own_name(value):
        return {"function": value.__name__}
    # Only a dtype is left.
    try:
        return {"dtype": np.dtype(value).name}
    except TypeError:
        raise ValueError(
            f"`{where}` must have a name to be written down, such as jax.nn.relu "
            f"or a function that a module defines by `def`; got {value!r}."
        ) from None


def _arguments(value: Any, where: str) -> dict[str, Any]:
    arguments = {}
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if not field.init or argument == field.default:
            continue
        # A file with parameters needs no initializer. One without a name is left out.
        is_initializer = field.name.endswith("_init") and not isinstance(argument, Layer)
        if is_initializer and not _named(argument):
            continue
        arguments[field.name] = _written(argument, f"{where}.{field.name}")
    return arguments


def _named(value: Any) -> bool:
    for function in _functions().values():
        if value is function:
            return True
    return _has_own_name(value)


def _has_own_name(value: Any) -> bool:
    # Python puts "<lambda>" or "<locals>" into the name of a function that no import finds.
    name, path = getattr(value, "__name__", "<"), getattr(value, "__qualname__", "<")
    return name.isidentifier() and "<" not in path


def sketch(layer: Any) -> Any:
    """A layer whose parameters have the same names and shapes, and cost little to draw.

    No initializer that a file names is called. Zeros stand in its place.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if not field.init:
            continue
        # Parts of a layer are sketched too.
        if isinstance(value, Layer):
            changes[field.name] = sketch(value)
        elif isinstance(value, tuple) and any(isinstance(entry, Layer) for entry in value):
            changes[field.name] = tuple(map(sketch, value))
        elif field.name.endswith("_init") and callable(value):
            changes[field.name] = initializers.zeros
    if isinstance(layer, S5Cell):
        # S5 decomposes the matrix of a block. Blocks of two states have the same parameters.
        changes["num_blocks"] = layer.modes
    if not changes:
        return layer
    return dataclasses.replace(layer, **changes)


def _ours(function: Any) -> bool:
    return any(function is known for known in vars(initializers).values())


def check_count(layer: Layer) -> None:
    """Checks that a layer holds no more layers than a file may hold.

    Raises:
        ValueError: if the layer holds more.
    """
    if (count := _count(layer)) > _MOST_PARTS:
        limit = f"at most {_MOST_PARTS} layers for a file"
        raise ValueError(f"`layer` must be made of {limit}; got {count}.")


def _count(layer: Layer) -> int:
    return sum(map(_count, layer.parts), _repeats(layer))


def _repeats(layer: Layer) -> int:
    """How often the step of a layer traces its parts."""
    most = 1
    for name in _REPEATS:
        number = getattr(layer, name, 1)
        if isinstance(number, int):
            most = max(most, number)
    return most


def understand(text: str, known: Iterable[Any] = (), limits: Limits | None = None) -> Layer:
    """The layer that `describe` wrote down.

    It calls no function. It makes only layers and their arguments.

    Args:
        text: the JSON.
        known: the user's classes of layers and functions, which the JSON may name too.
        limits: how large the layer may be; None for any size.

    Raises:
        TypeError: if `known` holds anything else.
        ValueError: if the text is no description, names an unknown thing, or exceeds the limits.
    """
    check_known(known := tuple(known))
    classes, functions = dict(_known_classes), _functions()
    for value in known:
        if isinstance(value, type):
            classes[value.__name__] = value
        else:
            functions[value.__name__] = value
    # Python's own reader of JSON refuses text that is nested too deep.
    try:
        layer = _Reader(classes, functions, limits).read(json.loads(text), 0)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"the description of the layer must be JSON; got {text[:80]!r}."
        ) from error
    if not isinstance(layer, Layer):
        raise ValueError(f"the description must be that of a layer; got {reprlib.repr(layer)}.")
    return layer


def check_known(known: Iterable[Any]) -> None:
    """Checks the classes and functions that a file may name beside recurrax' own.

    Raises:
        TypeError: if a class is no dataclass, or a function has no name.
    """
    for value in known:
        fits = callable(value)
        if isinstance(value, type):
            fits = dataclasses.is_dataclass(value)
        if not fits or not hasattr(value, "__name__"):
            raise TypeError(
                "`known` must hold classes of layers, and functions that have a name; "
                f"got {value!r}."
            )


class _Reader:
    """Makes the objects that a description names. It counts them before it makes more.

    Args:
        classes: the classes that it may make, by name.
        functions: the functions that may be arguments, by name.
        limits: how large all may be, or None.
    """

    def __init__(
        self, classes: dict[str, type], functions: dict[str, Any], limits: Limits | None
    ) -> None:
        self.classes, self.functions, self.limits = classes, functions, limits
        # An object is made from its arguments, so its parts are counted before it. The objects are
        # kept, since Python gives the id of a deleted object to another one.
        self.counted: dict[int, tuple[Any, int, int]] = {}

    def read(self, value: Any, depth: int) -> Any:
        """The object that a part of the description means."""
        if depth > _DEEPEST:
            raise ValueError(f"the description must be at most {_DEEPEST} levels deep.")
        # Numbers, strings and None mean themselves. A list means a tuple.
        below = depth + 1
        if isinstance(value, list):
            return tuple([self.read(entry, below) for entry in value])
        if not isinstance(value, dict):
            return value

        # All else is `{name: content}`.
        if len(value) != 1:
            names = ", ".join(value) or "none"
            raise ValueError(f"the description must have one name at each level; got {names[:80]}.")
        [(name, content)] = value.items()
        if name == "dtype":
            return _dtype(content)
        if name == "function":
            return _known(content, self.functions)
        kind = _known(name, self.classes)
        if not isinstance(content, dict):
            got = reprlib.repr(content)
            raise ValueError(f"the description of {name} must hold its arguments; got {got}.")
        arguments = {}
        for key, entry in content.items():
            arguments[key] = self.read(entry, below)
        # A constructor may allocate by its arguments, so they are checked before it runs.
        for key, argument in arguments.items():
            self.check(kind, key, argument)
        try:
            made = kind(**arguments)
        except (TypeError, AttributeError) as error:
            raise ValueError(
                f"the description of {name} must have arguments that it takes; {error}."
            ) from error
        if isinstance(made, Layer):
            self.count(made)
        return made

    def check(self, kind: type, name: str, value: Any) -> None:
        """Checks one argument before an object is made from it.

        Raises:
            ValueError: if the argument has a wrong type, or exceeds the limits.
        """
        # JAX takes many forms of a dtype. A description holds only one.
        hint = _hints(kind).get(name, Any)
        if name == "dtype":
            hint = np.dtype | None
        if not _is(value, hint):
            must = str(hint).replace("<class '", "").replace("'>", "")
            if _is(len, hint):
                must = "a function"
            raise ValueError(
                f"the description of {kind.__name__} must have arguments that it takes; "
                f"`{name}` must be {must}; got {reprlib.repr(value)}."
            )
        limits = self.limits
        if limits is None or not isinstance(value, int):
            return
        # A size is an axis of some array. A wiring of N neurons has an array of N * N elements.
        most = dict.fromkeys(_SIZES, limits.axis)
        most |= dict.fromkeys(_NEURONS, int(limits.elements**0.5))
        most["recurrent_command_synapses"] = limits.elements
        most["backbone_layers"] = limits.arrays
        if value > most.get(name, value):
            allowed = f"a `{name}` of at most {most[name]}"
            raise ValueError(
                f"the description of {kind.__name__} must fit the arrays of the file, "
                f"which allow {allowed}; got {value}."
            )

    def count(self, layer: Layer) -> None:
        """Counts a layer and its parts. A layer in two places counts twice.

        Raises:
            ValueError: if there are more layers than a file, or the arrays beside it, allow.
        """
        layers, traced = 1, _repeats(layer)
        for part in layer.parts:
            _, more, repeats = self.counted.get(id(part), (part, 1, 1))
            layers, traced = layers + more, traced + repeats
        self.counted[id(layer)] = (layer, layers, traced)
        # Some layers have no arrays, so the bound leaves room for them.
        most, arrays = _MOST_PARTS, ""
        if self.limits is not None:
            most = min(_MOST_PARTS, 16 + 4 * self.limits.arrays)
            arrays = f" for a file of {self.limits.arrays} arrays"
        if layers > most or traced > _MOST_PARTS:
            raise ValueError(
                f"the description must be that of at most {most} layers{arrays}; "
                f"got {max(layers, traced)} or more."
            )


@functools.lru_cache(maxsize=1024)
def _hints(kind: type) -> dict[str, Any]:
    """The types of a class' arguments. A class made within a function may not tell them."""
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}


def _is(value: Any, hint: Any) -> bool:
    """Whether a value has a type. Types that no layer's argument has count as true."""
    kind, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if kind in (typing.Union, types.UnionType):
        return any(map(functools.partial(_is, value), options))
    if kind is typing.Literal:
        return value in options
    if kind is collections.abc.Callable:
        return callable(value)
    if kind is tuple and isinstance(value, tuple):
        # `tuple[int, ...]` repeats its first type for every entry.
        if options[1:] == (...,):
            options = options[:1] * len(value)
        return len(options) == len(value) and all(map(_is, value, options))
    # Python counts a bool as an int. Here it is none.
    if hint is bool or isinstance(value, bool):
        return isinstance(value, bool) and hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    if isinstance(hint, type):
        return isinstance(value, hint)
    return kind is not tuple


def _known(name: Any, known: dict[str, Any]) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            "the description must name what recurrax has, or what is given as `known`; "
            f"got {reprlib.repr(name)}. "
            "Is it a cell or a function of your own, or was the file written by a later version?"
        )
    return known[name]


def _dtype(name: Any) -> np.dtype:
    try:
        return jnp.dtype(name)
    except TypeError as error:
        raise ValueError(f"the description must name a dtype; got {reprlib.repr(name)}.") from error
