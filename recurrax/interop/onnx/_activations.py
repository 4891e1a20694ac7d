"""ONNX's activations, which have names and numbers, as functions that compare by value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Function = Callable[[jax.Array], jax.Array]

_PLAIN: dict[str, Function] = {
    "Tanh": jnp.tanh,
    "Sigmoid": jax.nn.sigmoid,
    "Relu": jax.nn.relu,
    "Softsign": jax.nn.soft_sign,
    "Softplus": jax.nn.softplus,
}
_TUNED: dict[str, Callable[..., jax.Array]] = {
    "LeakyRelu": lambda x, alpha: jax.nn.leaky_relu(x, alpha),
    "ThresholdedRelu": lambda x, alpha: jnp.where(x >= alpha, x, jnp.zeros_like(x)),
    "Elu": lambda x, alpha: jax.nn.elu(x, alpha),
    "HardSigmoid": lambda x, alpha, beta: jnp.clip(alpha * x + beta, 0, 1),
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "ScaledTanh": lambda x, alpha, beta: alpha * jnp.tanh(beta * x),
}
# The defaults of ONNX's operators of these names. Affine and ScaledTanh are no operators:
# onnxruntime takes 0 for their numbers, and then they are constant.
_DEFAULTS = {
    "LeakyRelu": (0.01,),
    "ThresholdedRelu": (1.0,),
    "Elu": (1.0,),
    "HardSigmoid": (0.2, 0.5),
}
_BY_LOWER = {name.lower(): name for name in (*_PLAIN, *_TUNED)}


@dataclasses.dataclass(frozen=True)
class OnnxActivation:
    """An activation of ONNX's that takes numbers.

    LeakyRelu: x if x ≥ 0 else alpha * x,  Elu: x if x ≥ 0 else alpha * (eˣ - 1)
    ThresholdedRelu: x if x ≥ alpha else 0,  HardSigmoid: alpha * x + beta within [0, 1]
    Affine: alpha * x + beta,  ScaledTanh: alpha * tanh(beta * x)

    Args:
        name: one of these six.
        alpha: the first number; None for ONNX's default, where there is one.
        beta: the second; None for ONNX's default, and for the first three, which have none.

    Raises:
        ValueError: if `name` is another, a number is missing, or one is too many.

    Example:
        >>> import jax.numpy as jnp
        >>> from recurrax.interop import OnnxActivation
        >>> OnnxActivation("HardSigmoid")(jnp.array([-3.0, 0.0, 1.0, 3.0])).round(2).tolist()
        [0.0, 0.5, 0.699999988079071, 1.0]

    References:
        ONNX, `LSTM` (activation functions), 2025, https://onnx.ai/onnx/operators/onnx__LSTM.html
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.name not in _TUNED:
            raise ValueError(f"`name` must be one of {', '.join(_TUNED)}; got {self.name!r}.")
        count = _count(self.name)
        # A frozen dataclass sets its fields this way.
        defaults = _DEFAULTS.get(self.name, (None,) * count)
        for field, default in zip(("alpha", "beta"), (*defaults, None), strict=False):
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        must = "`alpha` alone"
        if count == 2:
            must = "`alpha` and `beta`"
        if self.alpha is None or (self.beta is None) != (count == 1):
            got = f"alpha {self.alpha} and beta {self.beta}"
            raise ValueError(f"{self.name} must be given {must}; got {got}.")

    def __call__(self, x: jax.Array) -> jax.Array:
        """The function of `x`."""
        return _TUNED[self.name](x, *self.numbers)

    @property
    def numbers(self) -> tuple[float, ...]:
        """Alpha, and beta if the function takes two numbers."""
        if self.alpha is None:
            return ()
        if self.beta is None:
            return (self.alpha,)
        return self.alpha, self.beta


def _count(name: str) -> int:
    """How many numbers an activation takes."""
    if name in _PLAIN:
        return 0
    if name in ("HardSigmoid", "Affine", "ScaledTanh"):
        return 2
    return 1


@dataclasses.dataclass(frozen=True)
class Clipped:
    """A function of an input that is clipped to ±bound: ONNX's `clip`.

    y = function(min(max(x, -bound), bound))

    Args:
        function: the function.
        bound: the bound, above 0.

    Raises:
        ValueError: if `bound` is not above 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from recurrax.interop import Clipped
        >>> Clipped(jax.nn.relu, 3.0)(jnp.array([-5.0, 2.0, 5.0])).tolist()
        [0.0, 2.0, 3.0]

    References:
        ONNX, `LSTM` (clip), 2025, https://onnx.ai/onnx/operators/onnx__LSTM.html
    """

    function: Function
    bound: float

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ValueError(f"`bound` must be above 0; got {self.bound}.")

    def __call__(self, x: jax.Array) -> jax.Array:
        """The function of `x` within the bound."""
        return self.function(jnp.clip(x, -self.bound, self.bound))

    def __repr__(self) -> str:
        """By the function's name, as `Layer` shows functions."""
        return f"Clipped({getattr(self.function, '__name__', self.function)}, {self.bound})"


def read(names: Sequence[str], alpha: Sequence[float], beta: Sequence[float]) -> list[Function]:
    """The functions that a node names. Each takes the next numbers, as in onnxruntime.

    Raises:
        ValueError: if a name is unknown, or there are numbers that no function takes.
    """
    # Alpha and beta are two lists: a function takes an entry from each list that it needs.
    left = [list(map(decimal, alpha)), list(map(decimal, beta))]
    functions: list[Function] = []
    for name in names:
        if name.lower() not in _BY_LOWER:
            known = ", ".join(_BY_LOWER.values())
            raise ValueError(f"`activations` must be among {known}; got {name!r}.")
        name = _BY_LOWER[name.lower()]
        if name in _PLAIN:
            functions.append(_PLAIN[name])
            continue
        numbers = []
        for entries in left[: _count(name)]:
            # None is the default.
            number = None
            if entries:
                number = entries.pop(0)
            numbers.append(number)
        functions.append(OnnxActivation(name, *numbers))
    if any(left):
        raise ValueError(
            "`activation_alpha` and `activation_beta` must hold a number for each of "
            f"{', '.join(names)} that takes one; got {len(alpha)} and {len(beta)}."
        )
    return functions


def decimal(number: float) -> float:
    """The shortest decimal that rounds to a float32 of ONNX: 0.3 for 0.30000001."""
    return float(str(np.float32(number)))


_ALIASES: dict[Any, OnnxActivation] = {
    jax.nn.leaky_relu: OnnxActivation("LeakyRelu"),
    jax.nn.elu: OnnxActivation("Elu"),
    jax.nn.hard_sigmoid: OnnxActivation("HardSigmoid", 1 / 6, 0.5),
    jax.nn.identity: OnnxActivation("Affine", 1.0, 0.0),
}


def write(functions: Sequence[Function]) -> dict[str, list]:
    """The attributes that name the functions: the inverse of `read`.

    Raises:
        ValueError: if ONNX knows no such function.
    """
    names: list[Any] = []
    alpha: list[Any] = []
    beta: list[Any] = []
    for function in functions:
        name, numbers = named(function)
        names.append(name)
        # A function has no number, one or two.
        alpha += numbers[:1]
        beta += numbers[1:]
    attributes = {"activations": names}
    # ONNX has no empty lists.
    if alpha:
        attributes["activation_alpha"] = alpha
    if beta:
        attributes["activation_beta"] = beta
    return attributes


def named(function: Any) -> tuple[str, tuple[float, ...]]:
    """ONNX's name of a function, and the numbers with it.

    Raises:
        ValueError: if it has none.
    """
    function = _ALIASES.get(function, function)
    if isinstance(function, OnnxActivation):
        return function.name, function.numbers
    for name, plain in _PLAIN.items():
        if function is plain:
            return name, ()
    known = ", ".join(f.__name__ for f in (*_PLAIN.values(), *_ALIASES))
    raise ValueError(
        f"an activation must be one of {known} or an OnnxActivation for ONNX; got {function!r}."
    )
