"""A layer in words: JSON that says which layer it is and with what arguments, and the layer that such JSON means."""

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
    "celu elu gelu glu hard_sigmoid hard_silu hard_tanh identity leaky_relu log_sigmoid mish relu relu6 selu sigmoid "
    "silu soft_sign softmax softplus squareplus"
)
_DEEPEST = 64
_MOST_PARTS = 512
# Arguments that are the size of an axis of some parameter, and those that say how often something
# is traced.
_SIZES = {
    "hidden_size",
    "proj_size",
    "state_size",
    "backbone_size",
    "features",
    "num_heads",
    "num_blocks",
}
_REPEATS = ("num_heads", "backbone_layers")
# A wiring makes matrices of these numbers before anything is traced.
_NEURONS = {"inter_neurons", "command_neurons", "motor_neurons"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large a layer may be, told by the arrays that lie beside its description.

    Attributes:
        arrays: how many arrays there are.
        axis: the largest axis of an array.
        elements: the number of elements of the largest array.
    """

    arrays: int
    axis: int
    elements: int


def _functions() -> dict[str, Any]:
    """What a description may call by name, and nothing else."""
    named = {f"jax.nn.{name}": getattr(jax.nn, name) for name in _ACTIVATIONS.split()}
    named |= {
        f"jax.numpy.{name}": getattr(jnp, name) for name in ("tanh", "sin", "cos", "arctan", "exp")
    }
    named |= {
        f"recurrax.initializers.{name}": f for name, f in vars(initializers).items() if callable(f)
    }
    named |= {f"keras.activations.{name}": function for name, function in ACTIVATIONS.items()}
    return named | {"recurrax.cells.mingru.positive": mingru.positive}


# The classes that a description may name, by their names; a package with layers of its own adds
# them.
_known_classes: dict[str, type] = {}


def make_known(*classes: type) -> None:
    """Lets descriptions name these classes."""
    _known_classes.update({kind.__name__: kind for kind in classes})


def _public_layers() -> list[type]:
    public = [*vars(cells).values(), *vars(layers).values()]
    return [
        value
        for value in public
        if isinstance(value, type) and issubclass(value, (Layer, NCPWiring))
    ]


make_known(*_public_layers())


def _classes() -> dict[str, type]:
    return dict(_known_classes)


def describe(layer: Layer) -> str:
    """The JSON of a layer: `{"LSTMCell": {"hidden_size": 4}}`, arguments that have their default value left out.

    Raises:
        ValueError: if an argument has no name, such as a lambda, a closure or a
            `functools.partial`.
    """
    return json.dumps(_written(layer, type(layer).__name__))


def _written(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_written(entry, where) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: _arguments(value, where)}
    for name, function in _functions().items():
        if value is function:
            return {"function": name}
    if callable(value) and not isinstance(value, type) and _has_own_name(value):
        return {"function": value.__name__}
    try:
        return {"dtype": np.dtype(value).name}
    except TypeError:
        raise ValueError(
            f"`{where}` must have a name to be written down, as jax.nn.relu or a function defined by `def` in a module "
            f"has one; got {value!r}."
        ) from None


def _arguments(value: Any, where: str) -> dict[str, Any]:
    arguments = {}
    for field in dataclasses.fields(value):
        argument = getattr(value, field.name)
        if not field.init or argument == field.default:
            continue
        if (
            field.name.endswith("_init")
            and not isinstance(argument, Layer)
            and not _named(argument)
        ):
            continue  # An initialiser has done its work.
        arguments[field.name] = _written(argument, f"{where}.{field.name}")
    return arguments


def _named(value: Any) -> bool:
    return any(value is function for function in _functions().values()) or _has_own_name(value)


def _has_own_name(value: Any) -> bool:
    return getattr(value, "__name__", "<").isidentifier() and "<" not in getattr(
        value, "__qualname__", "<"
    )


def sketch(layer: Any) -> Any:
    """A layer whose parameters have the same names and shapes, but which draws them in the cheapest way.

    Initializers that a file names are not called: zeros stand in their place.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if not field.init:
            continue
        if isinstance(value, Layer):
            changes[field.name] = sketch(value)
        elif isinstance(value, tuple) and any(isinstance(entry, Layer) for entry in value):
            changes[field.name] = tuple(sketch(entry) for entry in value)
        elif (
            field.name.endswith("_init")
            and callable(value)
            and (value is not field.default or _ours(value))
        ):
            changes[field.name] = initializers.zeros
    if isinstance(layer, S5Cell):
        # The matrix of a block need not be decomposed: blocks of two states have the same
        # parameters.
        changes["num_blocks"] = layer.modes
    return dataclasses.replace(layer, **changes) if changes else layer


def _ours(function: Any) -> bool:
    return any(function is known for known in vars(initializers).values())


def check_count(layer: Layer) -> None:
    """Checks that a layer is not made of more parts than a file may hold.

    Raises:
        ValueError: if it is.
    """
    if (count := _count(layer)) > _MOST_PARTS:
        raise ValueError(
            f"`layer` must be made of at most {_MOST_PARTS} layers for a file; got {count}."
        )


def _count(layer: Layer) -> int:
    return sum(map(_count, layer.parts), _repeats(layer))


def _repeats(layer: Layer) -> int:
    numbers = [getattr(layer, name, 1) for name in _REPEATS]
    return max([1, *(number for number in numbers if isinstance(number, int))])


def understand(text: str, known: Iterable[Any] = (), limits: Limits | None = None) -> Layer:
    """The layer that `describe` wrote down. No function is called, and no class but those of layers and their parts.

    Args:
        text: the JSON.
        known: classes of layers and functions of one's own, which it may name beside those of
            recurrax.
        limits: how large the layer may be; None for any size.

    Raises:
        TypeError: if `known` holds anything else.
        ValueError: if it is no description, names what is not known, or goes beyond the limits.
    """
    check_known(known := tuple(known))
    classes = _classes() | {value.__name__: value for value in known if isinstance(value, type)}
    functions = _functions() | {
        value.__name__: value for value in known if not isinstance(value, type)
    }
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
    """Checks what a file may name beside what recurrax has.

    Raises:
        TypeError: if it holds anything but classes of layers, or of dataclasses in them, and
            functions.
    """
    for value in known:
        named = dataclasses.is_dataclass(value) if isinstance(value, type) else callable(value)
        if not named or not hasattr(value, "__name__"):
            raise TypeError(
                f"`known` must hold classes of layers, and functions that have a name; got {value!r}."
            )


class _Reader:
    """Makes the objects that a description names, and counts them before it makes more.

    Args:
        classes: what may be made, by name.
        functions: what may be an argument, by name.
        limits: how large all may be, or None.
    """

    def __init__(
        self, classes: dict[str, type], functions: dict[str, Any], limits: Limits | None
    ) -> None:
        self.classes, self.functions, self.limits = classes, functions, limits
        # Objects are made from their arguments, so the parts of each were counted before it. They
        # are kept, as an object that is gone may leave its id to another.
        self.counted: dict[int, tuple[Any, int, int]] = {}

    def read(self, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"the description must be at most {_DEEPEST} levels deep.")
        if isinstance(value, list):
            return tuple(self.read(entry, depth + 1) for entry in value)
        if not isinstance(value, dict):
            return value
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
            raise ValueError(
                f"the description of {name} must hold its arguments; got {reprlib.repr(content)}."
            )
        arguments = {key: self.read(entry, depth + 1) for key, entry in content.items()}
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
        """Checks one argument before anything is made of it.

        Raises:
            ValueError: if it is of a wrong type, or larger than the arrays beside the description
                allow.
        """
        # What JAX takes for a dtype, a description holds in one form alone.
        hint = np.dtype | None if name == "dtype" else _hints(kind).get(name, Any)
        if not _is(value, hint):
            must = (
                "a function"
                if _is(len, hint)
                else str(hint).replace("<class '", "").replace("'>", "")
            )
            raise ValueError(
                f"the description of {kind.__name__} must have arguments that it takes; `{name}` must be {must}; "
                f"got {reprlib.repr(value)}."
            )
        limits = self.limits
        if limits is None or not isinstance(value, int):
            return
        most = dict.fromkeys(_SIZES, limits.axis) | dict.fromkeys(
            _NEURONS, int(limits.elements**0.5)
        )
        most |= {"recurrent_command_synapses": limits.elements, "backbone_layers": limits.arrays}
        if value > most.get(name, value):
            raise ValueError(
                f"the description of {kind.__name__} must fit the arrays of the file, which allow a `{name}` of at "
                f"most {most[name]}; got {value}."
            )

    def count(self, layer: Layer) -> None:
        """Counts a layer and its parts, where one that stands in two places counts twice.

        Raises:
            ValueError: if there are too many, all in all or for the arrays beside the description.
        """
        layers, traced = 1, _repeats(layer)
        for part in layer.parts:
            _, more, repeats = self.counted.get(id(part), (part, 1, 1))
            layers, traced = layers + more, traced + repeats
        self.counted[id(layer)] = (layer, layers, traced)
        most = _MOST_PARTS if self.limits is None else min(_MOST_PARTS, 16 + 4 * self.limits.arrays)
        if layers > most or traced > _MOST_PARTS:
            arrays = "" if self.limits is None else f" for a file of {self.limits.arrays} arrays"
            raise ValueError(
                f"the description must be that of at most {most} layers{arrays}; got {max(layers, traced)} or more."
            )


@functools.lru_cache(maxsize=1024)
def _hints(kind: type) -> dict[str, Any]:
    """The types of a class' arguments; none where they are not known, as in a class made within a function."""
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError, AttributeError):
        return {}


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as far as types of arguments of layers go; others the class itself must check."""
    kind, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if kind in (typing.Union, types.UnionType):
        return any(_is(value, option) for option in options)
    if kind is typing.Literal:
        return value in options
    if kind is collections.abc.Callable:
        return callable(value)
    if kind is tuple and isinstance(value, tuple):
        each = options[:1] * len(value) if options[1:] == (...,) else options
        return len(each) == len(value) and all(map(_is, value, each))
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
            f"the description must name what recurrax has, or what is given as `known`; got {reprlib.repr(name)}. "
            "Is it a cell or a function of your own, or was the file written by a later version?"
        )
    return known[name]


def _dtype(name: Any) -> np.dtype:
    try:
        return jnp.dtype(name)
    except TypeError as error:
        raise ValueError(f"the description must name a dtype; got {reprlib.repr(name)}.") from error
