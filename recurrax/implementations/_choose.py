"""Which implementation runs a layer: the one that was asked for, or the best one for the arguments."""

from __future__ import annotations

from typing import Any

from recurrax._layer import Layer, Params, State, features
from recurrax.implementations import cudnn, hoisted, linear, matrix_memory, xla
from recurrax.implementations._platform import accumulates_inside, linear_solver, several
from recurrax.implementations._registry import Implementation, find, refusal, register

register("hoisted", hoisted.HOISTED)
register("xla", xla.XLA)
for _name, _implementation in linear.SOLVED_BY.items():
    register(_name, _implementation)
register("chunked", matrix_memory.DEFAULT)
register("cudnn", cudnn.CUDNN)


def choose(
    implementation: str | Implementation | tuple | None,
    layer: Layer,
    params: Params,
    state: State,
    xs: Any,
    **facts: Any,
) -> Implementation:
    """The implementation that was asked for, or the best one for these arguments if none was.

    Raises:
        ValueError: if there is no such implementation or it cannot serve the layer.
    """
    args = (layer, params, state, xs)
    if implementation is None:
        return _best(*args, **facts)
    if isinstance(implementation, tuple) and not hasattr(implementation, "run"):
        return _first_that_serves(implementation, *args, **facts)
    found = find(implementation)
    if reason := found.refuses(*args, **facts):
        raise refusal(implementation, layer, reason)
    return found


def _first_that_serves(asked: tuple, layer: Layer, *args: Any, **facts: Any) -> Implementation:
    for one in asked:
        if one is None or not find(one).refuses(layer, *args, **facts):
            return choose(one, layer, *args, **facts)
    raise ValueError(f"`implementation` {asked} must hold one that can serve {layer}. End it with None, the best one.")


def _best(layer: Layer, params: Params, state: State, xs: Any, **facts: Any) -> Implementation:
    """The fastest one among those that have every derivative."""
    steps = features(xs).shape[0]
    if several(steps) and not linear.refuses(layer):
        return find(linear_solver())
    # On a CPU a training step takes 0.33 of the loop's time for (B, T, H, N) = (8, 256, 128, 4), 0.08 for
    # (32, 64, 128, 2).
    if isinstance(steps, int) and steps > 1 and not matrix_memory.DEFAULT.refuses(layer):
        return matrix_memory.DEFAULT
    # The gradient of a convolution's weights, summed up step by step, took 2 to 10 times as long on a CPU.
    inside = layer.feature_ndim == 1 and accumulates_inside(features(xs))
    plain = hoisted.refuses(layer, params, state, xs, **facts) or inside
    return xla.XLA if plain else hoisted.HOISTED
