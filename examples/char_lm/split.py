"""A model in two parts: its parameters, and everything else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx


class TrainState(NamedTuple):
    """Everything that changes from one step to the next; a checkpoint holds it."""

    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState


class Split:
    """A model as a function of its parameters, so that a training step can differentiate it.

    Args:
        new_model: makes the model with its first parameters.
        optimizer: the optimizer of the parameters.
    """

    def __init__(
        self, new_model: Callable[[], nnx.Module], optimizer: optax.GradientTransformation
    ):
        self._new_model = new_model
        self._optimizer = optimizer
        # The parameters change at each step, so they are not kept here.
        parts: tuple[Any, ...] = nnx.split(new_model(), nnx.Param, ...)
        self._graphdef, _, self._rest = parts

    def first_state(self) -> TrainState:
        """Returns the state before the first step."""
        params = nnx.state(self._new_model(), nnx.Param)
        step = jnp.zeros([], jnp.int32)
        return TrainState(step, params, self._optimizer.init(params))

    def model(self, params: nnx.State) -> Any:
        """Returns a model with these parameters."""
        return nnx.merge(self._graphdef, params, self._rest, copy=True)

    def next_state(self, state: TrainState, grads: nnx.State) -> TrainState:
        """Returns the state after one update by these gradients."""
        updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state)
