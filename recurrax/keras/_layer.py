"""The common part of all layers: Keras' view of the weights, and sizes from the first input."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core.tracers import current_trace

from recurrax._check import describe
from recurrax.keras._names import kind_of, meaning

Shape = Sequence[int | None]

# Modules are imported outside of any transformation.
_EAGER = current_trace()


@dataclasses.dataclass(eq=False, repr=False)
class Layer(nnx.Module):
    """A module with Keras' common arguments and methods. Its fields are its arguments."""

    _: dataclasses.KW_ONLY
    name: str | None = None
    dtype: Any = None
    trainable: bool = True
    rngs: dataclasses.InitVar[nnx.Rngs | None] = None

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        self.dtype = _policy(self.dtype)
        for argument in self.get_config():
            if kind_of(argument):
                self._meaning(argument)

    @property
    def recurrent_layers(self) -> tuple[Any, ...]:
        """The layers that hold the weights, in the order of the weights."""
        return ()

    @property
    def built(self) -> bool:
        """Whether the weights are there, and the state of a stateful layer."""
        return all(layer.built for layer in self.recurrent_layers)

    def build(self, input_shape: Shape) -> None:
        """Draws the weights for inputs of a shape. Batch and time may be None."""

    @property
    def weights(self) -> list[nnx.Variable]:
        """The variables of the weights, in Keras' order."""
        found: list[nnx.Variable] = []
        for layer in self.recurrent_layers:
            found += layer.named_weights().values()
        return found

    @property
    def trainable_weights(self) -> list[nnx.Variable]:
        """The weights that are trained. Each is an `nnx.Param`."""
        return [weight for weight in self.weights if isinstance(weight, nnx.Param)]

    @property
    def trainable_variables(self) -> list[nnx.Variable]:
        """As `trainable_weights`."""
        return self.trainable_weights

    @property
    def losses(self) -> list[jax.Array]:
        """The penalties on the last call's outputs, then on the weights: add them to the loss."""
        of_outputs = []
        of_weights = []
        for layer in self.recurrent_layers:
            if layer.activity_regularizer is not None:
                of_outputs.append(layer.activity_loss[...])
            # Frozen weights have no penalty.
            if not layer.trainable:
                continue
            for penalty, weight in layer.weights_with("regularizer"):
                of_weights.append(penalty(weight[...]))
        return of_outputs + of_weights

    def apply_constraints(self) -> None:
        """Applies the constraints to the weights: call it after each update of the optimizer."""
        for layer in self.recurrent_layers:
            for constraint, weight in layer.weights_with("constraint"):
                weight[...] = constraint(weight[...])

    def reset_state(self) -> None:
        """Sets the state that a stateful layer keeps to zeros."""
        for layer in self.recurrent_layers:
            for state in layer.states or ():
                state[...] = jnp.zeros_like(state[...])

    def reset_states(self) -> None:
        """As `reset_state`."""
        self.reset_state()

    def count_params(self) -> int:
        """The number of weights.

        Raises:
            ValueError: if the layer is not built.
        """
        if not self.built:
            must = "must be built to count its weights; call `build(input_shape)` first"
            raise ValueError(f"{_name(self)} {must}.")
        return sum(weight[...].size for weight in self.weights)

    def get_weights(self) -> list[np.ndarray]:
        """The weights as NumPy arrays, in Keras' order and layout."""
        return [np.asarray(weight[...]) for weight in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the weights, such as those that `get_weights()` of the same layer of Keras returns.

        Raises:
            ValueError: if their number or a shape does not fit.
        """
        own = self.weights
        if len(own) != len(weights):
            hint = ""
            if not self.built:
                hint = " It is not built: call `build(input_shape)` first."
            must = f"must hold {len(own)} arrays for {_name(self)}"
            raise ValueError(f"`weights` {must}; got {len(weights)}.{hint}")
        for number, (variable, weight) in enumerate(zip(own, weights, strict=True)):
            if variable.shape != np.shape(weight):
                must = f"{describe(variable[...])} for {_name(self)}"
                got = describe(np.asarray(weight))
                raise ValueError(f"`weights[{number}]` must be {must}; got {got}.")
        # All shapes fit, so no error leaves half of the weights set.
        for variable, weight in zip(own, weights, strict=True):
            variable[...] = jnp.asarray(weight, variable.dtype)

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of the outputs, from the mask of the inputs: by default the same."""
        return mask

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        config = {}
        for field in dataclasses.fields(self):
            if field.init:
                config[field.name] = getattr(self, field.name)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A new layer from its arguments, also from the result of Keras' `get_config()`."""
        return cls(**config)

    def _meaning(self, argument: str) -> Any:
        return meaning(argument, getattr(self, argument))

    @property
    def _dtypes(self) -> tuple[Any, Any]:
        return _dtypes(self.dtype)


def _dtypes(policy: Any) -> tuple[Any, Any]:
    """The dtype of the weights, and the dtype of the products and the outputs."""
    # A mixed policy keeps its weights in float32.
    if isinstance(policy, str) and policy.startswith("mixed_"):
        return jnp.dtype("float32"), jnp.dtype(policy.removeprefix("mixed_"))
    dtype = jnp.dtype(policy or "float32")
    return dtype, dtype


def _policy(dtype: Any) -> Any:
    """A dtype, or the name of a policy of Keras: from a name, a policy or its configuration."""
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    if type(dtype).__name__ == "DTypePolicy":
        dtype = dtype.name
    try:
        _dtypes(dtype)
    except TypeError:
        must = 'a floating dtype, "mixed_float16" or "mixed_bfloat16"'
        raise ValueError(f"`dtype` must be {must}; got {dtype!r}.") from None
    return dtype


def _name(layer: Layer) -> str:
    kind = type(layer).__name__
    if not layer.name:
        return kind
    return f"{kind} {layer.name!r}"


def source_of(rngs: nnx.Rngs | None, seed: int | None) -> nnx.Rngs:
    """The randomness of a layer: from `rngs`, or from a seed, which Python's `random` may draw."""
    if rngs is not None:
        return rngs.fork()
    if seed is None:
        seed = random.getrandbits(31)
    return nnx.Rngs(seed)


def build_for(layer: Layer, shape: Shape) -> None:
    """Builds a layer at its first call.

    The call must be outside of jit and grad. Else the weights would be lost after it.

    Raises:
        ValueError: if the call is within a transformation.
    """
    if layer.built:
        return
    if current_trace() != _EAGER:
        raise ValueError(
            f"{_name(layer)} must be built before it is called under jit, grad or another "
            "transformation, so that its weights are seen from outside; "
            f"call `build({tuple(shape)})` first."
        )
    layer.build(shape)
