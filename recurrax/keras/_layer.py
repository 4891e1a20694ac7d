"""What every layer here is: a module that takes its sizes from its first input, with Keras' view of its weights."""

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

# Outside of any transformation, as modules are imported.
_EAGER = current_trace()


class RNNState(nnx.Variable):
    """The state that a stateful layer keeps from call to call."""


class ActivityLoss(nnx.Variable):
    """The penalty on the outputs of the last call."""


@dataclasses.dataclass(eq=False, repr=False)
class Layer(nnx.Module):
    """A module with Keras' common arguments and methods; its fields are the arguments of its constructor."""

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
        """Draws the weights, if there are any, for inputs of a shape, whose batch and time may be None."""

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
        """Those of `weights` that are trained: each an `nnx.Param`."""
        return [weight for weight in self.weights if isinstance(weight, nnx.Param)]

    @property
    def trainable_variables(self) -> list[nnx.Variable]:
        """As `trainable_weights`."""
        return self.trainable_weights

    @property
    def losses(self) -> list[jax.Array]:
        """The penalties: those on the outputs of the last call, then those on the weights; to be added to the loss."""
        return [*self._activity_losses(), *self._weight_losses()]

    def count_params(self) -> int:
        """The number of weights.

        Raises:
            ValueError: if the layer is not built.
        """
        if not self.built:
            raise ValueError(
                f"{_name(self)} must be built to count its weights; call `build(input_shape)` first."
            )
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
            raise ValueError(
                f"`weights` must hold {len(own)} arrays for {_name(self)}; got {len(weights)}.{hint}"
            )
        for number, (variable, weight) in enumerate(zip(own, weights, strict=True)):
            if variable.shape != np.shape(weight):
                must = f"{describe(variable[...])} for {_name(self)}"
                raise ValueError(
                    f"`weights[{number}]` must be {must}; got {describe(np.asarray(weight))}."
                )
        for variable, weight in zip(own, weights, strict=True):
            variable[...] = jnp.asarray(weight, variable.dtype)

    def apply_constraints(self) -> None:
        """Projects the weights as their constraints say: to be called after each update of the optimizer."""
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
        """A new layer from the arguments of its constructor, such as Keras' own `get_config()` returns."""
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
        return jnp.dtype("float32" if _is_mixed(self.dtype) else self.dtype or "float32")

    @property
    def _compute_dtype(self) -> Any:
        return jnp.dtype(
            self.dtype.removeprefix("mixed_") if _is_mixed(self.dtype) else self.dtype or "float32"
        )


def _is_mixed(dtype: Any) -> bool:
    return isinstance(dtype, str) and dtype.startswith("mixed_")


def _dtype_name(dtype: Any) -> Any:
    """A dtype, or Keras' name for two: of a policy of Keras its name, of the policy's configuration too."""
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    if type(dtype).__name__ == "DTypePolicy":
        dtype = dtype.name
    try:
        jnp.dtype(dtype.removeprefix("mixed_") if _is_mixed(dtype) else dtype or "float32")
    except TypeError:
        must = 'a floating dtype, "mixed_float16" or "mixed_bfloat16"'
        raise ValueError(f"`dtype` must be {must}; got {dtype!r}.") from None
    return dtype


def _name(layer: Layer) -> str:
    return f"{type(layer).__name__}{f' {layer.name!r}' if layer.name else ''}"


def source_of(rngs: nnx.Rngs | None, seed: int | None) -> nnx.Rngs:
    """The randomness of one layer: its own part of `rngs`, or that of a seed, which Python's `random` may draw."""
    if rngs is not None:
        return rngs.fork()
    return nnx.Rngs(random.getrandbits(31) if seed is None else seed)


def source_within(layer: nnx.Module) -> nnx.Rngs | None:
    """The randomness that a layer holds, if any."""
    return next((node for _, node in nnx.iter_graph(layer) if isinstance(node, nnx.Rngs)), None)


def renewed(layer: Any, rngs: nnx.Rngs, **changes: Any) -> Any:
    """A layer of the same arguments but for `changes`, with weights of its own."""
    return type(layer).from_config(layer.get_config() | changes | {"rngs": rngs})


def build_for(layer: Layer, shape: Shape) -> None:
    """Builds a layer at its first call, which must be outside of jit and grad: else its weights would not be seen.

    Raises:
        ValueError: if the call is within a transformation.
    """
    if layer.built:
        return
    if current_trace() != _EAGER:
        raise ValueError(
            f"{_name(layer)} must be built before it is called under jit, grad or another transformation, so that its "
            f"weights are seen from outside; call `build({tuple(shape)})` first."
        )
    layer.build(shape)
