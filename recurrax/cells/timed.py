"""Inputs at irregular times, for cells whose step depends on the elapsed time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from recurrax._arguments import describe
from recurrax._layer import Layer


class TimedInputs(NamedTuple):
    """Inputs at irregular times: features, and the time that passes before each step.

    `CfCCell` and `LTCCell` read the time. So does every layer with one of these cells among its
    parts. Other layers read only the features. The next layer gets their outputs with the same
    times.

    `dt` of a step is the time since the last unmasked step. No cell reads `dt` at a masked step. So
    the `dt` after a masked step must contain the time of both steps.

    In reverse, step t comes after step t + 1, so the elapsed time is `dt[t+1]`. Each unmasked step
    takes the `dt` of the next unmasked step in its segment. In reverse, the last step of a segment
    comes first. It takes the `dt` of the first step, so the gap before a segment stays before the
    segment. If only a part of a sequence is reversed, the gap to the next part is unknown.

    Attributes:
        x: the features, `[*B, T, I]`.
        dt: the time that passes before each step, `[*B, T]`; None for 1.

    Example:
        >>> import jax, jax.numpy as jnp, recurrax
        >>> layer = recurrax.Stack((recurrax.Dense(4), recurrax.CfCCell(4), recurrax.CfCCell(4)))
        >>> params = layer.init(jax.random.key(0), input_size=3)
        >>> xs = recurrax.cells.TimedInputs(jnp.ones((2, 7, 3)), dt=jnp.full((2, 7), 0.5))
        >>> recurrax.scan(layer, params, xs)[1].shape
        (2, 7, 4)
    """

    x: jax.Array
    dt: jax.Array | None = None


def check_time(layer: Layer, xs: Any) -> None:
    """Checks `xs` if they are `TimedInputs`.

    Raises:
        TypeError: if `dt` is not of numbers.
        ValueError: if no part of the layer reads the time, or `dt` is not one number for each step.
    """
    if not isinstance(xs, TimedInputs):
        return
    if not layer.reads_time:
        raise ValueError(
            f"`xs` must be an array of features, since no part of {layer} reads the time; "
            "got TimedInputs. Give it `xs.x`, or put a CfCCell or an LTCCell into it. "
            "A cell of your own that reads the time says so by `reads_time = True`."
        )
    if xs.dt is None:
        return
    # All axes before the features: batch and time.
    steps = xs.x.shape[: xs.x.ndim - layer.feature_ndim]
    shape = ", ".join(map(str, steps))
    must = f"`dt` must be [{shape}], one number per step of `x` {describe(xs.x)}"
    if xs.dt.shape != steps:
        raise ValueError(f"{must}; got {describe(xs.dt)}.")
    dtype = xs.dt.dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{must}; got {describe(xs.dt)}. Is it a mask?")


def with_features(xs: Any, ys: jax.Array) -> Any:
    """The inputs of the next layer: `ys`, with the times of `xs` if `xs` has times."""
    if isinstance(xs, TimedInputs):
        return xs._replace(x=ys)
    return ys


def without_time(xs: Any) -> Any:
    """The features of `TimedInputs`; other inputs stay unchanged."""
    if isinstance(xs, TimedInputs):
        return xs.x
    return xs


def in_reverse(xs: Any, mask: jax.Array | None, reset: jax.Array | None) -> Any:
    """The inputs with every `dt` at the step that reads it in reverse. `TimedInputs` has the rule.

    Args:
        xs: a pytree of inputs `[T, *B, ...]`, which may contain `TimedInputs`.
        mask: `bool[T, *B]`, or None.
        reset: `bool[T, *B]`, the flags of the data, or None.
    """

    def reverse_time(part: Any) -> Any:
        if not isinstance(part, TimedInputs) or part.dt is None or not len(part.dt):
            return part
        # One segment without masked steps: the next step, and after the last step the first.
        if mask is None and reset is None:
            return part._replace(dt=jnp.roll(part.dt, -1, axis=0))
        return part._replace(dt=jnp.take_along_axis(part.dt, _next_step(mask, reset), axis=0))

    return jax.tree.map(reverse_time, xs, is_leaf=lambda part: isinstance(part, TimedInputs))


def _next_step(mask: Any, reset: Any) -> jax.Array:
    """The next unmasked step in the segment of each step; after the last step, the first."""
    unmasked = mask
    if mask is None:
        unmasked = jnp.ones_like(reset)
    # The number of the segment of each step.
    segment = jnp.zeros_like(unmasked, jnp.int32)
    if reset is not None:
        segment = jnp.cumsum(reset, axis=0, dtype=jnp.int32)
    end = jnp.full_like(segment[:1], jnp.iinfo(jnp.int32).max)
    # The number of each step. The sum with zeros from the flags gives it the flags' place on a
    # mesh.
    at = lax.broadcasted_iota(jnp.int32, unmasked.shape, 0) + jnp.zeros_like(segment)

    def at_next(x: jax.Array) -> jax.Array:
        """The value of `x`, which must not decrease, at the next unmasked step."""
        seen = lax.cummin(jnp.where(unmasked, x, end), axis=0, reverse=True)
        return jnp.concatenate([seen[1:], end])

    # An unmasked step begins a segment if no unmasked step before has the same segment.
    seen = lax.cummax(jnp.where(unmasked, segment, -1), axis=0)
    before = jnp.concatenate([jnp.full_like(end, -1), seen[:-1]])
    begins = unmasked & (before != segment)
    first = lax.cummax(jnp.where(begins, at, 0), axis=0)
    return jnp.where(at_next(segment) == segment, at_next(at), first)


def timed(xs: jax.Array | TimedInputs) -> TimedInputs:
    """The inputs of a cell in continuous time, as `TimedInputs`."""
    if isinstance(xs, TimedInputs):
        return xs
    return TimedInputs(xs)


def elapsed(dt: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """The time of each step, with an axis for the features; 1 without `dt`."""
    if dt is None:
        return jnp.ones((), dtype)
    return jnp.expand_dims(dt.astype(dtype), -1)
