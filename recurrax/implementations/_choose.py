"""Chooses the implementation that runs a layer: the requested implementation, or the best one."""

from __future__ import annotations

from typing import Any

from recurrax._layer import Layer, Params, State, features
from recurrax._mask import Steps
from recurrax.implementations import cudnn, hoisted, linear, matrix_memory, native, xla
from recurrax.implementations._platform import (
    accumulates_in_loop,
    has_several_steps,
    linear_solver,
    prefers_native,
)
from recurrax.implementations._registry import (
    Implementation,
    find,
    keeps_states,
    refusal,
    register,
)

register("hoisted", hoisted.HOISTED)
register("xla", xla.XLA)
for _name, _implementation in linear.IMPLEMENTATIONS.items():
    register(_name, _implementation)
register("chunked", matrix_memory.DEFAULT)
register("native", native.NATIVE)
register("cudnn", cudnn.CUDNN)


def choose(
    implementation: str | Implementation | tuple | None,
    layer: Layer,
    params: Params,
    state: State,
    xs: Any,
    steps: Steps,
    with_states: bool = False,
) -> Implementation:
    """The requested implementation, or the best implementation for these arguments.

    `with_states` asks for an implementation that has `run_states`.

    Raises:
        ValueError: if there is no such implementation or it cannot serve the layer.
    """
    args = (layer, params, state, xs, steps)
    if implementation is None:
        return _best(*args, with_states)
    # An implementation may itself be a tuple: `FunctionImplementation` is a NamedTuple.
    if isinstance(implementation, tuple) and not hasattr(implementation, "run"):
        return _first_that_serves(implementation, *args, with_states)
    found = find(implementation)
    if reason := _reason(found, *args, with_states):
        raise refusal(implementation, layer, reason)
    return found


def _reason(
    found: Implementation,
    layer: Layer,
    params: Params,
    state: State,
    xs: Any,
    steps: Steps,
    with_states: bool,
) -> str | None:
    """Why an implementation cannot serve these arguments, or None."""
    if with_states and not keeps_states(found):
        return "it does not return the state after every step, which `trace` needs."
    return found.refuses(layer, params, state, xs, steps)


def _first_that_serves(candidates: tuple, layer: Layer, *args: Any) -> Implementation:
    """The first candidate that can serve the layer; None always can."""
    for candidate in candidates:
        if candidate is None or not _reason(find(candidate), layer, *args):
            return choose(candidate, layer, *args)
    raise ValueError(
        f"`implementation` {candidates} must hold one that can serve {layer}."
        " End it with None, the best one."
    )


def _best(
    layer: Layer, params: Params, state: State, xs: Any, steps: Steps, with_states: bool
) -> Implementation:
    """The fastest implementation among those that have every derivative."""
    number = features(xs).shape[0]
    if has_several_steps(number) and not linear.refuses(layer):
        return find(linear_solver())
    # A training step on a CPU takes 0.33 of the loop's time for (B, T, H, N) = (8, 256, 128, 4).
    # It takes 0.08 of that time for (32, 64, 128, 2).
    several = isinstance(number, int) and number > 1
    if several and not with_states and not matrix_memory.DEFAULT.refuses(layer):
        return matrix_memory.DEFAULT
    if prefers_native(features(xs)) and not native.NATIVE.refuses(layer, params, state, xs, steps):
        return native.NATIVE
    return _best_loop(layer, params, state, xs, steps)


def _best_loop(layer: Layer, params: Params, state: State, xs: Any, steps: Steps) -> Implementation:
    """The faster of the two loops of JAX."""
    # A convolution's weight gradient, summed step by step, took 2 to 10 times as long on a CPU.
    if layer.feature_ndim == 1 and accumulates_in_loop(features(xs)):
        return xla.XLA
    if hoisted.refuses(layer, params, state, xs, steps):
        return xla.XLA
    return hoisted.HOISTED
