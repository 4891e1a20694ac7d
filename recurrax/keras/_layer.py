"""The common part of all layers: sizes from the first input, and Keras' view of the weights."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
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


class RNNState(nnx.Variable):
    """The state that a stateful layer keeps from call to call."""


class ActivityLoss(nnx.Variable):
    """The penalty on the outputs of the last call."""


@dataclasses.dataclass(eq=False, repr=False)
class Layer(nnx.Module):
    """A module with Keras' common arguments and methods. Its fields are its arguments."""

    _: dataclasses.KW_ONLY
    name: str | None = None
    dtype: Any = None
    trainable: bool = True
    rngs: dataclasses.InitVar[nnx.Rngs | None] = None

    def __post_init__(self, rngs: nnx.Rngs | None) -> None:
        self.dtype = _dtype_name(self.dtype)
        for argument in self.get_config():
            if kind_of(argument):
                meaning(argument, getattr(self, argument))

    def build(self, input_shape: Shape) -> None:
        """Draws the weights for inputs of a shape. Batch and time may be None."""

    @property
    def sublayers(self) -> tuple:
        """The layers that this layer holds, in the order of their weights."""
        return ()

    @property
    def built(self) -> bool:
        """Whether the weights are there."""
        return all(part.built for part in self.sublayers)

    @property
    def weights(self) -> list[nnx.Variable]:
        """The variables of the weights, in Keras' order."""
        return [weight for part in self.sublayers for weight in part.weights]

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
        return [*self._activity_losses(), *self._weight_losses()]

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
            hint = "" if self.built else " It is not built: call `build(input_shape)` first."
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

    def apply_constraints(self) -> None:
        """Applies the constraints to the weights: call it after each update of the optimizer."""
        for part in self.sublayers:
            part.apply_constraints()

    def reset_state(self) -> None:
        """Sets the state that a stateful layer keeps to zeros."""
        for part in self.sublayers:
            part.reset_state()

    def reset_states(self) -> None:
        """As `reset_state`."""
        self.reset_state()

    def compute_mask(self, inputs: jax.Array, mask: Any = None) -> Any:
        """The mask of the outputs, from the mask of the inputs: by default the same."""
        return mask

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        fields = [field.name for field in dataclasses.fields(self) if field.init]
        return {name: getattr(self, name) for name in fields}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """A new layer from its arguments, also from the result of Keras' `get_config()`."""
        return cls(**config)

    def _activity_losses(self) -> Iterator[jax.Array]:
        for part in self.sublayers:
            yield from part._activity_losses()

    def _weight_losses(self) -> Iterator[jax.Array]:
        for part in self.sublayers:
            yield from part._weight_losses()

    def _meaning(self, argument: str) -> Any:
        return meaning(argument, getattr(self, argument))

    @property
    def _variable_dtype(self) -> Any:
        # A mixed policy keeps its weights in float32.
        if _is_mixed(self.dtype):
            return jnp.dtype("float32")
        return _plain_dtype(self.dtype)

    @property
    def _compute_dtype(self) -> Any:
        return _plain_dtype(self.dtype)


def _is_mixed(dtype: Any) -> bool:
    return isinstance(dtype, str) and dtype.startswith("mixed_")


def _plain_dtype(dtype: Any) -> Any:
    if _is_mixed(dtype):
        dtype = dtype.removeprefix("mixed_")
    return jnp.dtype(dtype or "float32")


def _dtype_name(dtype: Any) -> Any:
    """A dtype, or the name of a policy of Keras: from a name, a policy or its configuration."""
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    if type(dtype).__name__ == "DTypePolicy":
        dtype = dtype.name
    try:
        _plain_dtype(dtype)
    except TypeError:
        must = 'a floating dtype, "mixed_float16" or "mixed_bfloat16"'
        raise ValueError(f"`dtype` must be {must}; got {dtype!r}.") from None
    return dtype


def _name(layer: Layer) -> str:
    if not layer.name:
        return type(layer).__name__
    return f"{type(layer).__name__} {layer.name!r}"


def source_of(rngs: nnx.Rngs | None, seed: int | None) -> nnx.Rngs:
    """The randomness of a layer: from `rngs`, or from a seed, which Python's `random` may draw."""
    if rngs is not None:
        return rngs.fork()
    if seed is None:
        seed = random.getrandbits(31)
    return nnx.Rngs(seed)


def source_within(layer: nnx.Module) -> nnx.Rngs | None:
    """The randomness that a layer holds, if any."""
    return next((node for _, node in nnx.iter_graph(layer) if isinstance(node, nnx.Rngs)), None)


def renewed(layer: Any, rngs: nnx.Rngs, **changes: Any) -> Any:
    """A new layer with the same arguments except `changes`, and with new weights."""
    return type(layer).from_config(layer.get_config() | changes | {"rngs": rngs})


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
